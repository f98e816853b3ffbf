"""The table of properties of molecules: what it has before anything is prepared, numbers of fingerprints as
scikit-learn gives them, and which setting is chosen."""

import dataclasses
import json

import numpy as np
import pytest

from rxrx_jax import molecule_tasks as tasks
from rxrx_jax import tables
from rxrx_jax.base import config_flag
from rxrx_jax.base.errors import UserError
from rxrx_jax.data.builders import builders
from rxrx_jax.data.molecules import library
from rxrx_jax.data.molecules.noise import trees
from rxrx_jax.molecules import metrics as of_molecules
from rxrx_jax.report import runs
from rxrx_jax.tables.molecules import admet
from rxrx_jax.training import metrics, train


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where a simulated library is prepared as if it were esol."""
    pytest.importorskip("rdkit")
    from rxrx_jax.molecules.chemistry import chem
    from rxrx_jax.molecules.library import properties, simulated

    found = tmp_path_factory.mktemp("admet")
    lines = [",".join(map(str, (text, *properties(chem().MolFromSmiles(text))))) for text in simulated(60)]
    (found / "esol.csv").write_text("\n".join(["smiles,logp,tpsa,basic", *lines]))
    builders().prepare("molecules", found / "esol.csv", out=found, targets=("*",), progress=False)
    return found


def values(method, folder, **more):
    given = [f"--config=rxrx_jax/molecule_tasks.py:method={method},task=esol", f"--config.data.folder={folder}"]
    return config_flag.values(given) | more


def test_the_rows_of_what_is_not_prepared_are_empty(tmp_path):
    made = tables.load("admet", tmp_path)
    assert not made.runs and not any(row.runs for row in made.rows)
    assert len(made.rows) == 5 * len(tasks.METRIC) and "caco2_wang" in made.notes[-1]
    assert sum(name in of_molecules.ADMET for name in tasks.METRIC) == 22
    assert not any(row.published for row in made.rows)


@pytest.mark.slow
def test_the_runs_of_what_is_prepared(folder):
    made = tables.load("admet", folder)
    assert [run.name for run in made.runs] == ["esol-untrained", "esol-forest", "esol-ridge"]  # nothing is pretrained
    for run in made.runs:
        found = runs.values(run, folder, 3)
        assert found["seed"] == 3 and found["data"]["folder"] == str(folder) and len(found["settings"]) == 3


def test_each_row_starts_from_the_step_that_it_names(monkeypatch):
    """Where the library of both steps is prepared, and where it has no targets, which the second needs."""
    made = trees(20, atoms=(3, 5))
    there = {"chembl": made, "esol": made}
    monkeypatch.setattr(admet, "prepared", lambda name, data: there.get(name))
    found = {run.name: (run.starts_from, run.config) for run in admet.table().runs}
    assert found["mole"] == (None, "mole.py:data=chembl")
    assert found["mole_biology"] == ("mole", "mole_biology.py:data=chembl")
    of = lambda method: f"rxrx_jax/molecule_tasks.py:method={method},task=esol"  # noqa: E731
    assert found["esol-steps_1_2"] == ("mole_biology", of("pretrained"))
    assert found["esol-step_1"] == ("mole", of("pretrained"))
    assert found["esol-untrained"] == (None, of("untrained"))
    there["chembl"] = dataclasses.replace(made, targets=(), kinds=())
    names = [run.name for run in admet.table().runs]
    assert names == ["mole", "esol-step_1", "esol-untrained", "esol-forest", "esol-ridge"]
    row = next(row for row in admet.table().rows if row.labels == ("MolE, steps 1 and 2", "rmse", "esol"))
    assert not row.runs


@pytest.mark.slow
def test_numbers_of_fingerprints_are_those_of_scikit_learn(folder, tmp_path, monkeypatch):
    from sklearn.linear_model import Ridge
    from sklearn.preprocessing import MaxAbsScaler

    from rxrx_jax.molecules import fingerprints, records

    monkeypatch.setattr(tasks, "TREES", 5)
    for method in tasks.FITTED:
        tasks.run(values(method, folder), tmp_path / method)
    lines = metrics.read(tmp_path / "ridge" / metrics.NAME)
    found = next(line for line in lines if line.get("final"))
    assert lines[-1]["done"] and found["test/metric"] == found["test/rmse"] and found["test/seen_before"] == 0
    opened = library.open_library("esol", {}, str(folder))
    x = fingerprints.morgan(records.open_folder(opened.folder).table["smiles"].tolist())
    fit, test = opened.roles.fit, opened.roles.scored["test"]
    y = opened.targets_of(np.arange(60)).astype(float)
    scale = MaxAbsScaler().fit(x[fit])
    errors = []
    for i in (0, 1):  # logp and tpsa
        model = Ridge(float(found["setting"])).fit(scale.transform(x[fit]), y[fit, i])
        errors.append(np.sqrt(np.mean((model.predict(scale.transform(x[test])) - y[test, i]) ** 2)))
    assert found["test/rmse"] == pytest.approx(np.mean(errors), rel=1e-4)
    forest = next(line for line in metrics.read(tmp_path / "forest" / metrics.NAME) if line.get("final"))
    assert forest["setting"] in map(str, tasks.SETTINGS["forest"]) and 0 <= forest["test/auroc"] <= 1


def test_the_learning_rate_is_chosen_on_validation_alone(tmp_path, monkeypatch):
    better = {2e-4: (0.5, 9.0), 5e-4: (0.7, 5.0), 1e-3: (0.6, 1.0)}  # the last is the best on test

    def run(stage, workdir):
        assert stage["init"]["path"] == "before" and stage["total_epochs"] == 20 and stage["data"]["name"] == "esol"
        score, error = better[stage["optim"]["lr"]]
        workdir.mkdir(parents=True)
        line = {"final": True, "validation/score": score, "test/rmse": error, "marks/test": "T", "test/seen_before": 3}
        (workdir / metrics.NAME).write_text(json.dumps({"step": 1} | line) + "\n")

    monkeypatch.setattr(train, "run", run)
    found = tasks.fine_tuned(values("pretrained", tmp_path) | {"init": {"path": "before"}}, None, tmp_path / "run")
    assert found["setting"] == "0.0005" and found["test/rmse"] == 5 and found["marks/test"] == "T"


def test_losses_and_constants():
    targets = {"train": np.array([[1.0, 0], [3, 1], [np.nan, 1]]), "test": np.array([[5.0, 1], [np.nan, 0]])}
    predicted = np.array([[3.0, 0.5], [7, 0.5]])
    assert tasks.loss(targets, predicted, "test", [False, True]) == pytest.approx((4 + 2 * np.log(2)) / 3)
    one = tasks.fit("forest", "sqrt", True, np.zeros((2, 3)), np.ones(2), 0)
    assert one(np.zeros((4, 3))).tolist() == [1, 1, 1, 1]
    with pytest.raises(UserError, match="config argument method=svm: expected forest, ridge"):
        tasks.get_config("method=svm")
    with pytest.raises(UserError, match="config argument task=logd: expected esol"):
        tasks.get_config("task=logd")
