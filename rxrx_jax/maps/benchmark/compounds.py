"""Compounds and the genes they act on: whether |cosine| ranks known targets before other genes.

As EFAAR's benchmark for RxRx3-core: of a compound the actives are genes with a measurement of at most 1,000 nM, those
up to 10,000 nM are left out, and the negatives are drawn from the other genes of the file, twice as many as actives and
at least 20; or they are given. Scores are of each concentration and their maximum. Compounds and genes have no null in
common with genes.
"""

import math
import pathlib

import numpy as np

from rxrx_jax.base.errors import UserError
from rxrx_jax.maps import foreign
from rxrx_jax.maps.benchmark import retrieval

ACTIVE, GREY = 1_000.0, 10_000.0  # nM
RATIO, LEAST_NEGATIVES, SEED = 2, 20, 42
COLUMNS = ("treatment", "gene_symbol")
QUARTER = 0.75
Known = dict[str, dict[str, float]]  # compound -> gene -> its lowest measurement in nM


def read(path: pathlib.Path) -> Known:
    """Compound -> gene -> its lowest measurement in nM (0 in a file without the column nM_value), of a table treatment,
    gene_symbol, nM_value. Raises UserError for another."""
    columns = foreign.read_columns(path)
    if missing := [name for name in COLUMNS if name not in columns]:
        raise UserError(f"{path} has no column {missing[0]}; it needs {', '.join(COLUMNS)}, and may have nM_value")
    level = columns.get("nM_value", np.zeros(len(columns[COLUMNS[0]])))
    if level.dtype.kind not in "if":
        raise UserError(f"{path}: the column nM_value must hold numbers")
    found: Known = {}
    for compound, gene, value in zip(*(columns[name].astype(str).tolist() for name in COLUMNS), level.tolist()):
        if math.isfinite(value):
            genes = found.setdefault(compound, {})
            genes[gene] = min(value, genes.get(gene, math.inf))
    return found


def average_precision_and_auc(scores: np.ndarray, active: np.ndarray) -> tuple[float, float]:
    """(average precision, area under the ROC curve) of scores [m] and active bool [m], of which some are and some are
    not: equal scores are one threshold, so that the order of rows does not matter.

    scikit-learn's two functions give the same and take 74 times as long on 25 scores (3 ms): 44 s for 1,674 compounds
    at eight doses and their maximum."""
    order = np.argsort(-scores, kind="stable")
    scores, active = scores[order], active[order]
    last = np.flatnonzero(np.append(scores[1:] != scores[:-1], True))
    true, false = np.cumsum(active)[last], np.cumsum(~active)[last]
    precision, gain = true / (true + false), np.diff(true, prepend=0) / true[-1]
    auc = np.trapezoid(np.concatenate([[0], true]), np.concatenate([[0], false])) / (true[-1] * false[-1])
    return float(precision @ gain), float(auc)


def cases(known: Known, compounds: list[str], genes: list[str], seed: int = SEED, negatives: Known | None = None):
    """(compound, numbers of its active genes, of its negatives) of those in both the file and the map.

    Args: compounds and genes, of the map; the pool of negatives is the genes of the file that are in the map;
    negatives, those of each compound, as `read` gives them, in place of drawn ones: without any that `known` has up to
    GREY.
    """
    number = {name: i for i, name in enumerate(genes)}
    pool = np.array(sorted({number[g] for one in known.values() for g in one if g in number}), np.int64)
    for k, compound in enumerate(sorted(set(compounds) & known.keys())):
        measured = {number[gene]: value for gene, value in known[compound].items() if gene in number}
        active = np.array([gene for gene, value in measured.items() if value <= ACTIVE], np.int64)
        apart = [gene for gene, value in measured.items() if value <= GREY]
        given = None if negatives is None else [number[g] for g in negatives.get(compound, ()) if g in number]
        rest = np.setdiff1d(pool if given is None else np.array(given, np.int64), apart)
        if len(active) and len(rest):
            wanted = min(max(RATIO * len(active), LEAST_NEGATIVES), len(rest))
            if given is None:
                rest = np.random.default_rng([seed, k]).choice(rest, wanted, replace=False)
            yield compound, active, rest


def labels(known: Known, names: list[str]) -> np.ndarray:
    """Which genes each compound of `names` acts on, at a measurement of at most ACTIVE: bool [names, genes], of those
    that any does."""
    active = [{gene for gene, value in known.get(name, {}).items() if value <= ACTIVE} for name in names]
    number = {gene: i for i, gene in enumerate(sorted(set().union(*active)))}
    found = np.zeros((len(names), len(number)), bool)
    for row, genes in zip(found, active):
        row[[number[gene] for gene in genes]] = True
    return found


def benchmark(
    u: np.ndarray,
    compound: np.ndarray,
    dose: np.ndarray,
    v: np.ndarray,
    genes: np.ndarray,
    known: Known,
    seed: int = SEED,
    negatives: Known | None = None,
) -> list[dict]:
    """A row per concentration, and one of the maximum over them.

    Args:
      u: [c, d], unit rows of compounds; compound and dose [c], text and micromolar.
      v: [g, d], unit rows of genes [g].
      known: of `read`.
      seed: of the negatives that are drawn.
      negatives: those of each compound, of `read`, where they are given.

    A row has dose (None for the maximum), compounds, pairs, and of average precision (ap) and area under the curve
    (auc): macro, median and upper quartile over compounds, micro over all pairs, and the baseline, for ap the share of
    actives. ap_chance is what the macro of random orders is, which in short lists is above that share.
    """
    doses = np.unique(dose[np.isfinite(dose)]).tolist()
    rows_of = {name: np.flatnonzero(compound == name) for name in np.unique(compound.astype(str)).tolist()}
    found: dict[float | None, list] = {one: [] for one in [*doses, None]}
    for name, active, negative in cases(known, list(rows_of), genes.tolist(), seed, negatives):
        chosen = np.concatenate([active, negative])
        label = np.arange(len(chosen)) < len(active)
        rows = rows_of[name]
        scores = np.abs(u[rows] @ v[chosen].T)
        found[None].append((scores.max(0), label))
        for row, score in zip(rows, scores):
            if math.isfinite(dose[row]):
                found[dose[row]].append((score, label))
    return [{"dose": one, **_summary(items)} for one, items in found.items() if items]


def _summary(items: list[tuple[np.ndarray, np.ndarray]]) -> dict:
    each = np.array([average_precision_and_auc(*one) for one in items])
    scores, labels = (np.concatenate(part) for part in zip(*items))
    row: dict = {"compounds": len(items), "pairs": int(labels.sum())}
    micro, base = average_precision_and_auc(scores, labels), [label.mean() for _, label in items]
    for k, (name, chance) in enumerate((("ap", float(np.mean(base))), ("auc", 0.5))):
        row |= {f"{name}_macro": float(each[:, k].mean()), f"{name}_median": float(np.median(each[:, k])),
                f"{name}_upper": float(np.quantile(each[:, k], QUARTER)), f"{name}_micro": micro[k],
                f"{name}_baseline": chance}  # fmt: skip
    sizes = np.array([(label.sum(), len(label)) for _, label in items])
    return row | {
        "ap_chance": float(retrieval.expected(*sizes.T).mean()),
        "ap_micro_baseline": float(labels.mean()),
    }
