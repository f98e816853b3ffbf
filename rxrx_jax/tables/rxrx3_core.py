"""RxRx3-core's benchmark: what maps of different features know of genes and of the targets of compounds."""

from rxrx_jax import rxrx3_core_maps
from rxrx_jax.report import columns
from rxrx_jax.report.columns import Cell
from rxrx_jax.tables import Column, Published, Row, Run, Table

NAME = "rxrx_jax.rxrx3_core_maps"
SOURCES = ("CORUM", "HuMAP", "Reactome", "StringDB", "SIGNOR")
TABLE_6 = "Kraus et al. 2025, arXiv 2503.20158, table 6, by the script of a third party that cites it"
VITALLY = (
    "Kenyon-Dean et al. 2024, arXiv 2411.02572, by a survey of the paper, which gives .222 for random order and "
    "does not say whether it is a mean or a median over compounds"
)
RECALL = {  # at 5 and 95 %, of SOURCES as far as they are reported
    "random": (0.107, 0.111, 0.107, 0.115),
    "CellProfiler": (0.361, 0.444, 0.160, 0.330),
    "OpenPhenom-S/16": (0.300, 0.352, 0.158, 0.281),
    "Phenom-1": (0.395, 0.482, 0.188, 0.349),
    "Phenom-2": (0.486, 0.553, 0.197, 0.415),
}
PRECISION = {
    "CellProfiler": 0.274,
    "CA-MAE-S/16": 0.273,
    "MAE-L/8, trained on RPI-93M": 0.290,
    "MAE-L/8, trained on RPI-93M, trimmed": 0.299,
    "MAE-G/8, trained on PP-16M": 0.302,
    "MAE-G/8, trained on PP-16M, trimmed": 0.309,
}
NOTES = (
    "All rows of our own: embeddings of wells on the principal components of untreated ones, centred and scaled by "
    "experiment on these, averaged by gene and by compound and concentration, as the released notebook does "
    f"(rxrx_jax.maps.benchmark.{rxrx3_core_maps.NAME}).",
    "recall: of known pairs of genes in the two tails that hold a tenth of the cosines of all pairs of rows, those of "
    "compounds too, so that chance is near .1 and not exactly that.",
    "targets: average precision of the genes that a compound acts on, by the largest |cosine| over concentrations, "
    "among drawn others; averaged over 100 draws. The draws are ours and not the notebook's. floor: random order.",
    "MAE: CA-MAE-S/16 trained on these images without labels, for 100 epochs; untrained: the same encoder before "
    "training; handcrafted: image statistics. OpenPhenom, released embeddings: of a file of the dataset.",
    "Values of others have no spread here and are all from secondary sources.",
)


def marks(found: columns.Found, column: Column) -> Cell:
    """Of a row's map, which scores no held-out images."""
    text = columns.seen(found, "map")
    return Cell(text, {"": text})


def _reported(name: str) -> dict[str, Published]:
    found = {f"map/recall_{one}": Published(v, "S", TABLE_6) for one, v in zip(SOURCES, RECALL.get(name, ()))}
    return found | ({"": Published(PRECISION[name], "S", VITALLY)} if name in PRECISION else {})


COLUMNS = (
    Column("marks", summary=marks),
    *(
        Column(f"{one}{words}", f"map/recall_{one}", summary, key=f"recall_{one.lower()}{key}")
        for one in SOURCES
        for words, key, summary in (("", "", columns.spread), (", reported", "_reported", columns.reported))
        if words == "" or one != "SIGNOR"
    ),
    Column("targets, mean", "map/ap_macro", columns.above("map/ap_chance"), key="targets"),
    Column("targets, median", "map/ap_median", columns.spread),
    Column("targets, reported", "", columns.reported),
    Column("targets, AUC", "map/auc_macro", columns.spread, key="targets_auc"),
)
OURS = {
    "MAE": "pretrained",
    "untrained": "untrained",
    "handcrafted features": "handcrafted",
    "handcrafted and spatial features": "handcrafted_spatial",
    "OpenPhenom-S/16": "published",
}
WORDS = {"MAE": "trained here", "OpenPhenom-S/16": "released embeddings"}
OTHERS = dict.fromkeys([*RECALL, *PRECISION])
TABLE = Table(
    title="RxRx3-core: known relations of genes, and targets of compounds",
    notes=NOTES,
    labels=("features", "of"),
    columns=COLUMNS,
    rows=[
        *(
            Row((name, WORDS.get(name, "")), f"map-{features}", published=_reported(name))
            for name, features in OURS.items()
        ),
        *(Row((name, ""), published=_reported(name)) for name in OTHERS if name not in OURS),
    ],
    runs=[
        Run("mae", rxrx3_core_maps.ENCODER),
        *(
            Run(
                f"map-{features}",
                f"{rxrx3_core_maps.__file__}:features={features}",
                "mae" if features == "pretrained" else None,
                module=NAME,
            )
            for features in OURS.values()
        ),
    ],
)
