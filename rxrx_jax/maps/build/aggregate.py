"""One row per perturbation from its replicates, guides or doses."""

from collections.abc import Callable

import numpy as np

from rxrx_jax.maps.statistics import by_size

TRIM = 0.1  # of the replicates, cut at each end
LEAST_WEIGHT = 0.01  # of a replicate that no other resembles


def aggregate(x: np.ndarray, codes: np.ndarray, how: str = "mean") -> tuple[np.ndarray, np.ndarray]:
    """(one row per group [groups, d] float64, rows in each [groups]).

    Args:
      x: [n, d].
      codes: the group of each row, 0 to groups - 1, each of which occurs.
      how: one of HOW.
    """
    counts = np.bincount(codes)
    out = np.empty((len(counts), x.shape[1]))
    for groups, rows in by_size(codes):
        most = max(1, 2**22 // (rows.shape[1] * x.shape[1]))  # groups at a time, some 32 MB
        for start in range(0, len(groups), most):
            part = np.asarray(x[rows[start : start + most]], np.float64)  # [m, r, d]
            out[groups[start : start + most]] = HOW[how](part)
    return out, counts


def trimmed(x: np.ndarray) -> np.ndarray:
    """The mean [m, d] of x [m, r, d] without a tenth of the values at each end, feature by feature."""
    from scipy.stats import trim_mean

    return trim_mean(x, TRIM, axis=1)


def modz(x: np.ndarray) -> np.ndarray:
    """The weighted mean [m, d] of x [m, r, d], a replicate weighing as much as it resembles the others: its mean
    Spearman correlation with them, at least LEAST_WEIGHT (Subramanian et al. 2017, Cell 171, 1437-1452)."""
    from scipy.stats import rankdata

    replicates = x.shape[1]
    if replicates == 1:
        return x[:, 0]
    ranks = rankdata(x, axis=2)
    ranks -= ranks.mean(2, keepdims=True)
    length = np.linalg.norm(ranks, axis=2, keepdims=True)
    ranks /= np.where(length > 0, length, 1)
    correlation = ranks @ ranks.transpose(0, 2, 1)
    others = correlation.sum(2) - np.einsum("mii->mi", correlation)
    weight = np.maximum(others / (replicates - 1), LEAST_WEIGHT)
    return np.einsum("mr,mrd->md", weight / weight.sum(1, keepdims=True), x)


HOW: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "mean": lambda x: x.mean(1),
    "median": lambda x: np.median(x, axis=1),
    "trimmed": trimmed,
    "modz": modz,
}
