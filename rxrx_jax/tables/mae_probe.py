"""Linear probes of masked autoencoders on RxRx1 by balanced accuracy: the best block, the last, and what needs no
training."""

from rxrx_jax.report import columns
from rxrx_jax.tables import Column, Published, Row, Run, Table

VITALLY = (
    "Kenyon-Dean et al. 2024, arXiv 2411.02572, by a survey of the paper: MAE-G/8, 1.86 billion parameters, trained on "
    "private images; which experiments are held out is not known"
)
CROSS, VAL = "cross_batch/balanced_accuracy", "validation/balanced_accuracy"

NOTES = (
    "Balanced accuracy, the mean over 1,139 classes of each one's accuracy per image, of a logistic regression on the "
    "frozen features of plain images: fitted on site 1 of 33 experiments, the block chosen on 4, scored on 14 others.",
    "Encoders are trained on the 40,612 images of the fitted rows alone, without labels. untrained: the same encoder "
    "before training; handcrafted: image statistics. What does not beat these two has learned nothing that the probe "
    "reads.",
)
COLUMNS = (
    Column("marks", summary=columns.marks),
    Column("cross-batch, balanced", CROSS, columns.spread, strip="cross"),
    Column("validation, balanced", VAL, columns.spread),
    Column("cross-batch, per image", "cross_batch/site_accuracy", columns.spread),
    Column("95 % interval, per image", "cross_batch/site_accuracy", columns.interval, key="ci", strip="interval"),
    Column("reported, balanced", "", columns.reported),
    Column("device h", summary=columns.device_hours, format=".1f", key="device_hours"),
)
S, B, CA = "variant=S/16", "variant=B/16", "variant=S/16,encoder=channel_agnostic"
CHAINS = {
    "MAE ViT-S/16": ("s", f"mae_vit.py:rxrx1,{S}", S),
    "MAE ViT-B/16": ("b", f"mae_vit.py:rxrx1,{B}", B),
    "channel-agnostic MAE ViT-S/16": ("ca", f"channel_agnostic_mae.py:rxrx1,{S}", CA),
}
RUNS = tuple(
    run
    for name, pretraining, encoder in CHAINS.values()
    for run in (
        Run(f"mae-{name}", pretraining, overrides={"protocol.name": "wilds_ood"}),
        Run(f"probe-{name}", f"linear_probe.py:rxrx1,{encoder}", f"mae-{name}", {"protocol.name": "probe_blocks"}),
    )
)
FEATURES = {"best block": "best_block/", "last block": "pretrained/none/", "untrained": "untrained/none/"}
ROWS = (
    *(
        Row((words, features), f"probe-{name}", f"probe/{prefix}")
        for words, (name, _, _) in CHAINS.items()
        for features, prefix in FEATURES.items()
    ),
    Row(("handcrafted features", ""), "probe-s", "probe/handcrafted/none/"),
    Row(("handcrafted and spatial features", ""), "probe-s", "probe/handcrafted_spatial/none/"),
    Row(("MAE-G/8", "best block, 38 of 48"), published={"": Published(0.51, "S", VITALLY)}),
    Row(("MAE-G/8", "last block"), published={"": Published(0.47, "S", VITALLY)}),
)
TABLE = Table(
    title="Linear probes of masked autoencoders on RxRx1",
    notes=NOTES,
    labels=("encoder", "features"),
    seeds=3,
    columns=COLUMNS,
    rows=ROWS,
    runs=RUNS,
)
