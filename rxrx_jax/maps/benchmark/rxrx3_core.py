"""RxRx3-core's benchmark as the notebook that was released with it computes it.

Source: recursionpharma/EFAAR_benchmarking, rxrx3_core_benchmarks_openphenom.ipynb (Kraus et al. 2025, arXiv
2503.20158). It differs from `run` in what is a row and in its null: genes are averaged over all wells, not guide by
guide; a compound at each of eight concentrations is a row of its own; and the null of recall is the cosines of all
pairs of rows, so that most of it is of compounds.
"""

import math
from typing import NamedTuple

import numpy as np

from rxrx_jax.maps import relate, table
from rxrx_jax.maps.benchmark import compounds, recall
from rxrx_jax.maps.benchmark.relations import Relations
from rxrx_jax.maps.build import align
from rxrx_jax.maps.build.aggregate import aggregate

ALIGNMENT = "pca_centre_scale"  # by experiment, on CONTROL
CONTROL, IS_CONTROL = "EMPTY_control", "_control"
GENE, COMPOUND = "CRISPR", "COMPOUND"
DOSES = (0.0025, 0.01, 0.025, 0.1, 0.25, 1.0, 2.5, 10.0)  # micromolar; others are left out
THRESHOLDS = ((0.05, 0.95),)
DRAWS = 100  # of the negatives of compounds, over which scores are averaged
SCORES = ("ap_macro", "ap_median", "ap_upper", "ap_chance", "auc_macro", "auc_median")


class Rows(NamedTuple):
    """name [m], of the gene, compound or control; kind [m], GENE or COMPOUND; dose [m], micromolar, NaN without one;
    x [m, k] float64."""

    name: np.ndarray
    kind: np.ndarray
    dose: np.ndarray
    x: np.ndarray

    @property
    def genes(self) -> np.ndarray:
        """Which rows are genes, bool [m]."""
        return (self.kind == GENE) & ~_are_controls(self.name)


def name_of(treatment: str) -> str:
    """SRC for SRC_guide_2; a control's own name."""
    return treatment if IS_CONTROL in treatment else treatment.partition("_")[0]


def aligned(
    x: np.ndarray, treatment: np.ndarray, kind: np.ndarray, dose: np.ndarray, experiment: np.ndarray
) -> tuple[Rows, str]:
    """(the rows of the map, the marks of their alignment): wells aligned by experiment on CONTROL, then averaged by
    kind, name and dose, without controls of compound plates and doses that are not among DOSES.

    Args: x [n, d], embeddings of wells; treatment, kind and experiment [n] text, dose [n] float, as RxRx3-core's table
    has them. Raises UserError where an experiment has not two wells of CONTROL.
    """
    name = np.array([name_of(one) for one in treatment.astype(str).tolist()], object)
    aligner, x = align.fit(ALIGNMENT, x, experiment, name == CONTROL)
    kept = ~((kind == COMPOUND) & _are_controls(name)) & (np.isnan(dose) | np.isin(dose, DOSES))
    columns = [values[kept] for values in (kind.astype(str), name, dose)]
    codes, first = table.codes(columns)
    kinds, names, doses = (values[first] for values in columns)
    return Rows(names, kinds, doses, aggregate(x[kept], codes)[0]), aligner.marks


def score(
    rows: Rows, known: list[Relations], targets: dict[str, dict[str, float]], draws: int = DRAWS
) -> dict[str, float]:
    """The numbers of the benchmark; one that cannot be computed, as recall of few genes, is missing.

    Args: rows, of `aligned`; known, relations of genes; targets, of `compounds.read`; draws, of negatives.

    Returns recall_SOURCE, of pairs in both tails of 5 % of the cosines of all rows; recall_genes_SOURCE, in those of
    genes alone; pairs_SOURCE; and over compounds, |cosine| being the largest over concentrations, SCORES: mean, median
    and upper quartile of average precision, that of random orders, mean and median area under the curve, each averaged
    over draws of negatives, with its deviation as SCORE_sd; SCORE_DOSEuM of one concentration alone.
    """
    u = relate.unit(rows.x, lambda i: f"the average of {rows.name[i]}")
    genes = rows.genes
    others = [f"{name} {kind} {dose:g} uM" for name, kind, dose in zip(rows.name, rows.kind, rows.dose)]
    labels = np.where(genes, rows.name, np.array(others, object))
    found: dict[str, float] = {"rows": len(u), "genes": int(genes.sum())}
    for start, chosen in (("recall", np.ones(len(u), bool)), ("recall_genes", genes)):
        for row in recall.all_pairs(u[chosen], labels[chosen], known, THRESHOLDS, draws=0) if chosen.any() else ():
            found |= {f"{start}_{row['source']}": row["recall"], f"pairs_{row['source']}": row["pairs"]}
    chosen = rows.kind == COMPOUND
    about = u[chosen], rows.name[chosen], rows.dose[chosen], u[genes], rows.name[genes]
    by_score: dict[str, list[float]] = {}
    for seed in range(draws if chosen.any() and genes.any() else 0):
        for row in compounds.benchmark(*about, targets, seed):
            end = "" if row["dose"] is None else f"_{row['dose']:g}uM"
            for name in SCORES:
                by_score.setdefault(name + end, []).append(row[name])
            found[f"compounds{end}"] = row["compounds"]
    for name, values in by_score.items():
        found[name] = float(np.mean(values))
        if "uM" not in name:
            found[f"{name}_sd"] = float(np.std(values))
    return {name: value for name, value in found.items() if math.isfinite(value)}


def _are_controls(name: np.ndarray) -> np.ndarray:
    return np.array([IS_CONTROL in one for one in name.tolist()], bool)
