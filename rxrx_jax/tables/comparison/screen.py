"""The calibration of the simulated screen: three frozen recipes, scored on validation experiments alone."""

import numpy as np

from rxrx_jax.report import columns
from rxrx_jax.report.columns import Cell, Found
from rxrx_jax.tables import Column, Row, Run, Table
from rxrx_jax.tables.comparison import adaptation

VALIDATION, WITHIN = "validation/site_accuracy", "in_batch/site_accuracy"
CORRECTIONS = {name: adaptation.CORRECTIONS[name] for name in ("none", "centre_scale_experiment")}


def over_in_batch(found: Found, column: Column) -> Cell:
    """The column's metric over accuracy in the batches of training: the ratio of the means over worlds."""
    return _ratio(column, found.values(column.metric), found.values(WITHIN))


def over_baseline(found: Found, column: Column) -> Cell:
    """The column's metric over that of the row's baseline, in the same way."""
    return _ratio(column, found.values(column.metric), found.baseline.values(column.metric) if found.baseline else [])


def _ratio(column: Column, ours: list[float], theirs: list[float]) -> Cell:
    if not ours or not theirs or not np.mean(theirs):
        return Cell()
    value = float(np.mean(ours) / np.mean(theirs))
    return Cell(f"{value:{column.format}}", {"": value})


STEPS = "steps=2500"  # twice those of the comparison: what the constants were frozen at
RUNS = (
    Run("erm", adaptation.config("normalisation=image,tested=False", STEPS)),
    Run("adabn", adaptation.config("method=adabn,normalisation=plate,tested=False", STEPS)),
    Run(
        "handcrafted",
        adaptation.config(adaptation.PROBE, "tested=False"),
        overrides={"evaluators.probe.corrections": tuple(CORRECTIONS)},
    ),
)
ROWS = (
    Row(("ERM", "image"), "erm", baseline="adabn"),
    Row(("batch-pure AdaBN", "plate"), "adabn", name="adabn"),
    *(
        Row((f"handcrafted features{', ' * bool(how)}{how}", "plate"), "handcrafted", f"probe/handcrafted/{name}/",
            baseline="adabn")
        for name, how in CORRECTIONS.items()
    ),
)  # fmt: skip
TABLE = Table(
    title="Calibration of the simulated screen",
    notes=(
        "SIMULATED data (rxrx_sim). No number here is a claim about real RxRx images.",
        "By these rows the constants of the simulator are chosen, on three validation experiments in each of three "
        "worlds; test experiments are not rendered. Sought: ERM .65 to .85 of its in-batch accuracy, below AdaBN; "
        "handcrafted features .3 to .8 of AdaBN.",
        "±: standard deviation over worlds. training: accuracy on augmented training minibatches at the end.",
    ),
    labels=("method", "normalisation"),
    worlds=(100, 101, 102),
    columns=(
        Column("training", "accuracy", columns.training_accuracy, ".2f"),
        Column("in-batch", WITHIN, columns.spread, strip="in"),
        Column("validation", VALIDATION, columns.spread),
        Column("over in-batch", VALIDATION, over_in_batch, ".2f"),
        Column("over AdaBN", VALIDATION, over_baseline, ".2f"),
    ),
    rows=ROWS,
    runs=RUNS,
)
