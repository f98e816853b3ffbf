"""Properties of molecules by one method, whose setting is chosen on the validation molecules: a run of the table admet.

    python -m rxrx_jax.molecule_tasks --config=rxrx_jax/molecule_tasks.py:method=forest,task=esol --workdir=DIR

task: prepared molecules with targets, by their name. method: forest or ridge, on Morgan count fingerprints; untrained,
MolE's encoder fine-tuned from random weights; pretrained, from the run in init.path. Every method tries as many
settings, on the same validation molecules, by the same loss; test molecules are scored with the chosen one alone. The
workdir gets config.json and metrics.jsonl, whose last evaluation has `test/metric`, the one that the task is known by.
"""

import math
import pathlib
import sys

import ml_collections
import numpy as np

from rxrx_jax.base import command, config, config_flag
from rxrx_jax.base.config import parse_arguments
from rxrx_jax.base.errors import UserError
from rxrx_jax.molecules.metrics import ADMET, METRICS, scores

NAME = "molecule_tasks"
SETTINGS = {  # as many for each
    "forest": ("sqrt", 0.1, 0.33),  # features that a split of a tree looks at
    "ridge": (1.0, 10.0, 100.0),  # the penalty; of classes its inverse is C
    "untrained": (2e-4, 5e-4, 1e-3),  # learning rates
    "pretrained": (2e-4, 5e-4, 1e-3),
}
FITTED = ("forest", "ridge")
TREES = 300
# The metric that a task is known by: of MoleculeNet (Wu et al. 2018, table 3), and of TDC's ADMET group.
METRIC = {"esol": "rmse", "tox21": "auroc", "clintox": "auroc", "sider": "auroc"} | ADMET


def get_config(argument=None):
    arg = parse_arguments(argument, method="forest", task="esol", epochs=20.0, seed=0)
    if arg.method not in SETTINGS:
        raise UserError(f"config argument method={arg.method}: expected {', '.join(SETTINGS)}")
    if arg.task not in METRIC:
        raise UserError(f"config argument task={arg.task}: expected {', '.join(METRIC)}")
    data = {"name": arg.task, "folder": ml_collections.config_dict.placeholder(str), "builder": {}}
    made = {"method": arg.method, "data": data, "settings": SETTINGS[arg.method], "seed": arg.seed}
    made |= {} if arg.method in FITTED else {"epochs": arg.epochs}
    made |= {"init": {"path": ""}} if arg.method == "pretrained" else {}
    return ml_collections.ConfigDict(made)


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    run(*config_flag.run_arguments(NAME, __doc__, "method=forest,task=esol", argv))


def run(values: dict, workdir: pathlib.Path) -> None:
    """Tries every setting, and scores the test molecules with the best. Raises UserError for what is missing."""
    from rxrx_jax.data.molecules.library import open_library

    library = open_library(values["data"]["name"], values["data"]["builder"], values["data"]["folder"])
    if not library.targets:
        raise UserError(f"{library.where} has no targets: prepare it with --target")
    if not all(len(rows) for rows in (library.roles.fit, *library.roles.scored.values())):
        raise UserError(f"{library.where} has an empty split: settings are chosen on validation and scored on test")

    from rxrx_jax.training.provenance.recorded import recorded

    with recorded(workdir, values, library.digest) as write:
        found = (fitted if values["method"] in FITTED else fine_tuned)(values, library, workdir)
        metric = METRIC[values["data"]["name"]]
        found["test/metric"] = found.get(f"test/{metric}", math.nan)
        print(", ".join(f"{name} {found[name]}" for name in ("setting", "validation/loss", "test/metric")), flush=True)
        write(found)


def fitted(values: dict, library, workdir: pathlib.Path) -> dict:
    """Numbers of a forest or of a linear model of each target, on fingerprints."""
    from rxrx_jax.molecules import fingerprints

    del workdir
    features = fingerprints.morgan(library.smiles.tolist())
    parts = {"train": library.roles.fit} | library.roles.scored
    targets = {name: library.targets_of(rows).astype(np.float64) for name, rows in parts.items()}
    classes = [kind == "classification" for kind in library.kinds]
    tried = []
    for setting in values["settings"]:
        predicted = {name: np.zeros(targets[name].shape) for name in library.roles.scored}
        for i, is_class in enumerate(classes):
            known = ~np.isnan(targets["train"][:, i])
            given = features[parts["train"][known]], targets["train"][known, i]
            predict = fit(values["method"], setting, is_class, *given, values["seed"])
            for name in predicted:
                predicted[name][:, i] = predict(features[parts[name]])
        tried.append((loss(targets, predicted["validation"], "validation", classes), setting, predicted))
    least, setting, predicted = min(tried, key=lambda one: one[0])
    found = {
        "setting": str(setting),
        "validation/loss": least,
        "test/loss": loss(targets, predicted["test"], "test", classes),
    }
    for metric in METRICS:
        which = [i for i, is_class in enumerate(classes) if is_class == (metric in ("auroc", "auprc"))]
        names = [library.targets[i] for i in which]
        for name in library.roles.scored if which else ():
            of = scores(metric, targets[name][:, which], predicted[name][:, which], names)
            found[f"{name}/{metric}"] = of.mean
    return found | {"marks/test": "", "marks/validation": "", "test/seen_before": 0}


def fit(method: str, setting, is_class: bool, x: np.ndarray, y: np.ndarray, seed: int):
    """predict(x [n, d]) -> [n] of a model of one target, the probability of 1 for a class. A target that has one value
    in training, or none, is predicted as that, or as 0."""
    if len(np.unique(y)) < 2:
        constant = float(y[0]) if len(y) else 0.0
        return lambda other: np.full(len(other), constant)
    from sklearn import ensemble, linear_model, pipeline, preprocessing

    if method == "forest":
        kind = ensemble.RandomForestClassifier if is_class else ensemble.RandomForestRegressor
        model = kind(TREES, max_features=setting, random_state=seed)
    elif is_class:
        model = linear_model.LogisticRegression(C=1 / setting, max_iter=1000)
    else:
        model = linear_model.Ridge(setting)
    if method == "ridge":
        model = pipeline.make_pipeline(preprocessing.MaxAbsScaler(), model)
    model.fit(x, y)
    return (lambda other: model.predict_proba(other)[:, 1]) if is_class else model.predict


def loss(targets: dict, predicted: np.ndarray, name: str, classes: list[bool]) -> float:
    """As `tasks.properties`: the mean, over values that are known, of the cross-entropy of a class and of the squared
    error of a number in units of its standard deviation in training."""
    std = np.array(
        [1.0 if is_class else np.nanstd(targets["train"][:, i]) or 1.0 for i, is_class in enumerate(classes)]
    )
    truth, low = targets[name], 1e-6
    p = np.clip(predicted, low, 1 - low)
    of_classes = -(truth * np.log(p) + (1 - truth) * np.log(1 - p))
    return float(np.nanmean(np.where(classes, of_classes, np.square((predicted - truth) / std))))


def fine_tuned(values: dict, library, workdir: pathlib.Path) -> dict:
    """Numbers of MolE, fine-tuned once for each learning rate."""
    from rxrx_jax.training import metrics, train

    del library
    tried = []
    for setting in values["settings"]:
        stage = config.load(f"mole_finetune.py:data={values['data']['name']},lr={setting},seed={values['seed']}")
        stage["data"]["folder"] = values["data"]["folder"]
        stage |= {"total_epochs": values["epochs"], "evaluate_epochs": max(values["epochs"] / 20, 1.0)}
        stage["init"] |= values.get("init", {})
        train.run(stage, workdir / f"lr_{setting}")
        lines = metrics.read(workdir / f"lr_{setting}" / metrics.NAME)
        tried.append(({k: v for line in lines if line.get("final") for k, v in line.items()}, setting))
    found, setting = max(tried, key=lambda one: one[0]["validation/score"])
    return {
        name: value for name, value in found.items() if name.partition("/")[0] in ("test", "validation", "marks")
    } | {"setting": str(setting)}


if __name__ == "__main__":
    sys.exit(command.run(main))
