"""CellSignal, the competition on RxRx1 (NeurIPS 2019): wells of the 18 test experiments, stage by stage."""

from rxrx_jax.report import columns
from rxrx_jax.tables import Column, Published, Row, Run, Table

CONFIG = "rxrx1_densenet.py:rxrx1"
OPEN, CONTROLS = {"protocol.name": "cellsignal"}, {"protocol.name": "cellsignal:controls"}
FIRST = (
    "maciej-sypetkowski/kaggle-rcic-1st, README: DenseNet-161 with CutMix, ArcFace, controls of the test experiments "
    "and pseudo-labels of test images, one treatment per well and plate"
)
STAGES = {"site": "site", "well": "well", "plate group": "plate_group", "Hungarian": "hungarian"}

NOTES = (
    "Accuracy among the 1,108 treatments: each site by itself; wells, the two sites' logits added; plate group, among "
    "the 277 treatments that share a plate; Hungarian, each treatment once per plate. The last two look at all wells "
    "of an experiment together and use RxRx1's layout, which no other screen has: compare them with nothing else.",
    "private and public: 14 and 4 experiments. without HUVEC-18: its layout repeats RPE-03's.",
    "Each run leaves a submission.csv in its workdir (python -m rxrx_jax.submission). The recipe of our rows is "
    "configs/rxrx1_densenet.py's, without pseudo-labels; the last step is scored.",
)
LAST = "private/stages/hungarian"
COLUMNS = (
    *(Column(f"private, {words}", f"private/stages/{stage}", columns.spread) for words, stage in STAGES.items()),
    Column("95 % interval, Hungarian", LAST, columns.interval, key="ci"),
    Column(
        "private without HUVEC-18, Hungarian", "private/stages_without_HUVEC-18/hungarian", columns.spread,
        key="private_without_huvec_18",
    ),
    Column("published, private", LAST, columns.published, ".5f"),
    *(Column(f"public, {words}", f"public/stages/{stage}", columns.spread) for words, stage in STAGES.items()),
    Column("published, public", "public/stages/hungarian", columns.published, ".5f"),
    Column("device h", summary=columns.device_hours, format=".1f", key="device_hours"),
)  # fmt: skip
RUNS = (
    Run("erm", CONFIG, overrides={"accumulate": 32} | OPEN),
    Run("erm-controls", CONFIG, overrides={"accumulate": 32} | CONTROLS),
    Run("cutmix-controls", f"{CONFIG},method=cutmix", overrides={"accumulate": 32} | CONTROLS),
    Run("adabn-controls", f"{CONFIG},method=adabn", overrides={"accumulate": 16} | CONTROLS),
)


def first(private: float, public: float) -> dict[str, Published]:
    """The two leaderboards' scores of the winner, who used unlabelled test images and control labels."""
    boards = {LAST: private, "public/stages/hungarian": public}
    return {metric: Published(value, "C", FIRST, seen="TC") for metric, value in boards.items()}


ROWS = (
    Row(("ERM", "cellsignal"), "erm"),
    Row(("ERM", "cellsignal:controls"), "erm-controls"),
    Row(("CutMix", "cellsignal:controls"), "cutmix-controls"),
    Row(("batch-pure AdaBN", "cellsignal:controls"), "adabn-controls"),
    Row(("1st place, one network", "leaderboard"), published=first(0.99658, 0.98826)),
    Row(("1st place, two networks", "leaderboard"), published=first(0.99784, 0.99187)),
)
TABLE = Table(
    title="CellSignal, stage by stage",
    notes=NOTES,
    labels=("method", "protocol"),
    seeds=3,
    columns=COLUMNS,
    rows=ROWS,
    runs=RUNS,
)
