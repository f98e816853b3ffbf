"""The map demo: alignments of a simulated gene screen, scored by what was planted in it."""

from rxrx_jax import planted_maps
from rxrx_jax.maps.planted import score
from rxrx_jax.maps.planted.world import Settings
from rxrx_jax.report import columns
from rxrx_jax.report.columns import Cell
from rxrx_jax.tables import Column, Row, Run, Table

SCREEN = Settings()
LABELS = {
    "none": "none",
    "centre_scale": "centre-scale",
    "pca_centre_scale": "PCA + centre-scale",
    "tvn": "TVN",
    "tvn_shrunk": "TVN, shrunk",
    "combat": "ComBat",
    "harmony": "Harmony",
}
NOTES = [
    "SIMULATED embeddings (rxrx_jax.maps.planted). No number here is a claim about real screens, where alignment helps "
    "on some sets and harms on others.",
    f"{SCREEN.genes:,} genes on chromosome arms as full as real ones, {SCREEN.unexpressed:.0%} of them unexpressed; "
    f"{SCREEN.guides} guides each, one a dud and one that hits another gene too; {SCREEN.complexes} complexes, "
    f"{SCREEN.on_one_arm:.0%} of them on one arm; {SCREEN.compounds} compounds at {len(SCREEN.doses)} doses on one to "
    f"{SCREEN.most_targets} genes, and {SCREEN.inert} inert ones; an effect of the arm that grows towards the "
    f"telomere; {SCREEN.batches} batches. The constants were fixed before any "
    "alignment was scored.",
    "±: standard deviation over seeds; each seed is another world.",
    "arms: whether the genes of an arm were centred, shrunk or as published. That changes genes and guides, not wells.",
    "recall: of planted pairs of genes on different arms and on one, in the two tails that hold a tenth of all pairs, "
    "so that chance is .1.",
    "guides, cross-batch: normalised mean average precision of guides among those of all genes, and of wells among all "
    "treated wells of other batches; 0 is chance, and a dud cannot be found.",
    "targets: average precision of the genes that a compound acts on, by |cosine| at its best dose; floor: chance.",
    "arm probability: that two genes of one arm are more alike than two of different arms; .5 is unbiased. "
    "over-correction: how far it is below .5, on average over arms, with 0 for arms above.",
    "A batch has a quarter of the genes, so what is left of batch effects makes guides of a gene alike.",
    "Alignments are as published: ComBat and Harmony keep the mean of all wells, which every cosine then shares.",
    f"pixels: handcrafted features of simulated pictures (rxrx_jax.simulate), {len(planted_maps.PIXELS['train'])} "
    "experiments with pathways of three treatments as complexes, without arms, guides and compounds. Compare these "
    "rows with each other alone.",
    "T: the alignment has used all wells without labels; C: it was told which are untreated.",
]


def marks(found: columns.Found, column: Column) -> Cell:
    """Of a row's map, which scores no held-out images."""
    text = columns.seen(found, "map")
    return Cell(text, {"": text})


COLUMNS = (
    Column("marks", summary=marks),
    Column("recall, across arms", "map/recall_across", columns.spread),
    Column("recall, within arms", "map/recall_within", columns.spread),
    Column("guides", "map/guides", columns.spread),
    Column("cross-batch", "map/wells", columns.spread),
    Column("targets", "map/targets", columns.above("map/targets_chance")),
    Column("arm probability", "map/probability", columns.spread),
    Column("over-correction", "map/overcorrection", columns.spread),
)
MISSING = set(score.ALIGNMENTS) - set(planted_maps.alignments())
ROWS = [
    Row((LABELS[name], arms), "" if name in MISSING else "planted", f"{name}/{arms}/")
    for name in score.ALIGNMENTS
    for arms in score.ARM_CENTRING
] + [
    Row((f"{LABELS[name]}, pixels", "none"), "" if name in MISSING else "pixels", f"{name}/none/")
    for name in score.ALIGNMENTS
]
if MISSING:
    NOTES.append("The Harmony rows are empty without its package: pip install 'rxrx_jax[harmony]'.")
TABLE = Table(
    title="What alignments of a planted gene screen's map find",
    notes=NOTES,
    labels=("alignment", "arms"),
    worlds=tuple(range(4)),
    columns=COLUMNS,
    rows=ROWS,
    runs=[
        Run("planted", planted_maps.__file__, module="rxrx_jax.planted_maps"),
        Run("pixels", f"{planted_maps.__file__}:pixels=True", module="rxrx_jax.planted_maps"),
    ],
)
