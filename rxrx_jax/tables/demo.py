"""The demo: six rows of the main families of methods, on the simulated screen, on a laptop."""

from rxrx_jax.report import columns
from rxrx_jax.tables import Column, Row, Run, Table

NOTES = (
    "SIMULATED data (rxrx_sim, version 3, the small design). No number here is a claim about real RxRx images.",
    "in-batch: other sites of the training wells; in-batch wells: wells of the training experiments that training left "
    "out; cross-batch: three experiments, one of each cell type, that training never saw. Per site, all classes "
    "(treatments and controls) as in WILDS; one treatment in five does nothing.",
    "±: standard deviation over seeds; each seed is another simulated world and another initialisation. The same "
    "treatments share a plate in every experiment, as in RxRx1, which normalised and adaptive rows profit from.",
    "One recipe for both convolutional rows; nothing was tuned on a test experiment. The simulator was calibrated by "
    "pixel statistics and by validation experiments of other worlds (docs/simulated_screen.md).",
    "The last step is scored. The MAE's mask, target and epochs were chosen by a linear probe on the validation "
    "experiment of another world, its learning rate by in-batch reconstruction loss on version 2 of the screen; "
    "nothing else was searched.",
    "training: accuracy on augmented training minibatches at the end.",
    "leakage: how well a linear probe reads the experiment or plate from the embedding, lower is better.",
    "CPU s: of the run behind the row and of the run that it starts from; rows that share a run repeat it.",
)
COLUMNS = (
    Column("marks", summary=columns.marks),
    Column("in-batch", "in_batch/site_accuracy", columns.spread, strip="in"),
    Column("in-batch wells", "in_batch_wells/site_accuracy", columns.mean, key="in_batch_wells"),
    Column("cross-batch", "cross_batch/site_accuracy", columns.spread, strip="cross"),
    Column("95 % interval", "cross_batch/site_accuracy", columns.interval, key="ci", strip="interval"),
    Column("training", "accuracy", columns.training_accuracy, ".2f"),
    Column("leakage, experiment", "leakage/experiment_accuracy", columns.above("leakage/experiment_floor"), ".2f"),
    Column("leakage, plate", "leakage/plate_accuracy", columns.above("leakage/plate_floor"), ".2f"),
    Column("CPU s", summary=columns.cpu_seconds, format=".0f", key="cpu_seconds"),
)
RUNS = (  # the longest first, so that the last ones to end are short
    Run("mae", "mae_vit.py"),
    Run("adabn", "convnet.py:method=adabn,normalisation=plate"),
    Run("erm", "convnet.py:normalisation=image"),
    Run("probe", "linear_probe.py", "mae", {"total_epochs": 0.1}),  # for its regressions, not for the head
)
ROWS = (
    Row(("ERM", "image"), "erm"),
    Row(("batch-pure AdaBN", "plate"), "adabn"),
    Row(("linear probe: MAE", "plate"), "probe", "probe/pretrained/none/"),
    Row(("linear probe: untrained ViT", "plate"), "probe", "probe/untrained/none/"),
    Row(("linear probe: handcrafted features", "plate"), "probe", "probe/handcrafted/none/"),
    Row(("linear probe: handcrafted and spatial features", "plate"), "probe", "probe/handcrafted_spatial/none/"),
)


TABLE = Table(
    title="Accuracy within and across experimental batches, simulated screen",
    notes=NOTES,
    labels=("method", "normalisation"),
    worlds=tuple(range(5)),
    columns=COLUMNS,
    rows=ROWS,
    runs=RUNS,
)
