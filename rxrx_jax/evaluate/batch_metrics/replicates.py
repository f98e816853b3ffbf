"""Whether the replicates of a perturbation are alike, and more so than wells that share their batches: consistency as
EFAAR has it, and mean average precision as copairs has it."""

import numpy as np

from rxrx_jax.maps import statistics
from rxrx_jax.maps.benchmark import retrieval, univariate


def consistency(
    u: np.ndarray, group: np.ndarray, experiment: np.ndarray, plate: np.ndarray, seed: int = 0
) -> dict[str, float]:
    """The mean cosine of two replicates, averaged over groups, against sets of wells drawn at random.

    A set has as many wells as a group's replicates, from the same experiments ("experiment", as the benchmark of EFAAR
    drew them) or plates ("plate", so that the effects of plates are in it too), of any group and without repeats.

    Args: u [n, d], unit rows, without those that are not to be drawn, such as untreated wells; group, experiment and
    plate [n], numbers, those of plates unique over experiments.
    Returns: consistency; of either null its mean, NAME_null, and the share of groups that are above it by a false
    discovery rate of .05, NAME_above_null. NaN without a group of two.
    """
    _, group = np.unique(group, return_inverse=True)
    found, size, every = univariate.consistency(u, group), np.bincount(group), np.arange(len(u))
    known = np.isfinite(found)
    result = {"consistency": float(found[known].mean()) if known.any() else float("nan")}
    for name, batch in (("experiment", experiment), ("plate", plate)):
        _, batch = np.unique(batch, return_inverse=True)
        p, mean = np.full(len(found), np.nan), np.full(len(found), np.nan)
        for r in np.unique(size[known]).tolist():
            drawn = univariate.matched_controls(group, batch, every, r, univariate.NULL_DRAWS, seed)
            null = univariate.null_consistency(u, drawn)
            p[size == r], mean[size == r] = statistics.p_values(null, found[size == r]), null.mean()
        above = statistics.false_discovery(p)[known] <= statistics.LEVEL
        result[f"consistency_{name}_null"] = float(mean[known].mean()) if known.any() else float("nan")
        result[f"consistency_above_{name}_null"] = float(above.mean()) if known.any() else float("nan")
    return result


def average_precision(
    u: np.ndarray, group: np.ndarray, experiment: np.ndarray, plate: np.ndarray, untreated: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(average precision [n], positives [n], ranked [n]) of each treated well: the wells of its group in other
    experiments are the positives, the untreated wells of its plate the negatives, nearest first by cosine. NaN for an
    untreated well, and where it has no positives or no negatives.

    Args: u [n, d], unit rows; group, experiment and plate [n], numbers, those of plates unique over experiments;
    untreated bool [n].
    """
    ap, positives, ranked = np.full(len(u), np.nan), np.zeros(len(u), np.int64), np.zeros(len(u), np.int64)
    negatives: dict[int, np.ndarray] = {}
    for rows in _by(plate):
        treated, controls = rows[~untreated[rows]], rows[untreated[rows]]
        negatives |= zip(treated.tolist(), u[treated] @ u[controls].T)
    treated = np.flatnonzero(~untreated)
    for rows in (treated[part] for part in _by(group[treated])):
        cosines = u[rows] @ u[rows].T
        elsewhere = experiment[rows][:, None] != experiment[rows]
        for i, row, other in zip(rows.tolist(), cosines, elsewhere):
            hits, rest = row[other], negatives[i]
            positives[i], ranked[i] = len(hits), len(hits) + len(rest)
            if len(hits) and len(rest):
                ap[i] = retrieval.of_scores(hits, rest)
    return ap, positives, ranked


def mean_average_precision(
    u: np.ndarray,
    group: np.ndarray,
    experiment: np.ndarray,
    plate: np.ndarray,
    untreated: np.ndarray,
    seed: int = 0,
) -> dict[str, float]:
    """`average_precision`, with its arguments, averaged over the wells of a group and then over groups.

    Returns: mean_average_precision; mean_average_precision_normalised, 0 for a random order and 1 for a perfect one;
    retrieved, the share of groups above random orders by a false discovery rate of .05. NaN where no well has both
    positives and negatives.
    """
    found = average_precision(u, group, experiment, plate, untreated)
    groups = retrieval.mean_average_precision(*found, np.unique(group, return_inverse=True)[1], seed)
    mean = lambda values: float(np.mean(values)) if groups else float("nan")  # noqa: E731
    return {
        "mean_average_precision": mean([row["map"] for row in groups]),
        "mean_average_precision_normalised": mean([row["normalised"] for row in groups]),
        "retrieved": mean([row["fdr"] <= statistics.LEVEL for row in groups]),
    }


def _by(codes: np.ndarray) -> list[np.ndarray]:
    """The rows of each of the codes [n]."""
    order = np.argsort(codes, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(codes[order])) + 1) if len(order) else []
