"""What the benchmarks share: p-values of empirical nulls, false discovery rates, resampling of genes, ranks."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

DRAWS = 1000  # of the bootstrap
LEVEL = 0.05  # of p-values and false discovery rates that are counted


def by_size(codes: np.ndarray, least: int = 1) -> list[tuple[np.ndarray, np.ndarray]]:
    """(groups [m], their rows [m, r]) for each number of rows r >= least that groups have; codes [n] number them."""
    counts = np.bincount(codes)
    order, start = np.argsort(codes, kind="stable"), np.cumsum(counts) - counts
    sizes = [r for r in np.unique(counts) if r >= least]
    return [((g := np.flatnonzero(counts == r)), order[start[g][:, None] + np.arange(r)]) for r in sizes]


def distinct(rng: np.random.Generator, total: int, size: int, draws: int) -> np.ndarray:
    """Draws of `size` different numbers below `total`, each set as likely as any, sorted: int64 [draws, size]."""
    if size * size <= 4 * total:
        return np.sort(distinct_of(rng, np.zeros((draws, size), np.int64), np.array([total])), axis=1)
    found = np.empty((draws, size), np.int64)  # the first of a random order
    for part in np.array_split(found, max(1, draws * total // 2**22)):
        part[:] = np.sort(np.argpartition(rng.random((len(part), total)), size - 1, axis=1)[:, :size], axis=1)
    return found


def distinct_of(rng: np.random.Generator, pool: np.ndarray, count: np.ndarray) -> np.ndarray:
    """A number below count[pool] for each place of `pool` [draws, size], which is sorted along each draw, so that no
    draw has one of a pool twice and each set is as likely as any: int64 [draws, size]. Each pool has as many numbers as
    a draw asks for."""
    left = count[pool] - before(pool)
    found = np.empty(pool.shape, np.int64)
    for k in range(pool.shape[1]):
        pick = (rng.random(len(pool)) * left[:, k]).astype(np.int64)
        same = pool[:, :k] == pool[:, k : k + 1]
        earlier = np.sort(np.where(same, found[:, :k], np.iinfo(np.int64).max), axis=1)
        for column in range(k):
            pick += pick >= earlier[:, column]  # past the earlier ones
        found[:, k] = pick
    return found


def before(pool: np.ndarray) -> np.ndarray:
    """How many of a draw before each place are of the same pool, int64 [draws, size]; `pool` is sorted along draws."""
    places = np.arange(pool.shape[1])
    first = np.where(np.diff(pool, axis=1, prepend=-1) != 0, places, 0)
    return places - np.maximum.accumulate(first, axis=1)


def p_values(null: np.ndarray, found: np.ndarray) -> np.ndarray:
    """(1 + #{null >= m}) / (1 + n) of each m of `found` [k], over the finite values of the null; NaN for NaN, and for
    all without any."""
    null = np.sort(null[np.isfinite(null)])
    if not len(null):
        return np.full(np.shape(found), np.nan)
    p = (1 + len(null) - np.searchsorted(null, found, "left")) / (1 + len(null))
    return np.where(np.isfinite(found), p, np.nan)


def published_p_values(null: np.ndarray, found: np.ndarray, side: str) -> np.ndarray:
    """1 - rank / n as EFAAR 1.0 has it: NaN values count as the largest of the null; "left" for consistency, "right"
    for magnitude."""
    if not len(null):
        return np.full(np.shape(found), np.nan)
    p = 1 - np.searchsorted(np.sort(null), found, side) / len(null)
    return np.where(np.isfinite(found), p, np.nan)


def false_discovery(p: np.ndarray) -> np.ndarray:
    """Benjamini-Hochberg adjusted p-values of those that are finite, NaN for the others."""
    from scipy.stats import false_discovery_control

    finite = np.isfinite(p)
    adjusted = np.full(np.shape(p), np.nan)
    if finite.any():
        adjusted[finite] = false_discovery_control(p[finite])
    return adjusted


def interval_of_mean(values: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """(low, high) of Student's interval of the mean of values [n]; NaN for fewer than two."""
    from scipy.special import stdtrit

    n = len(values)
    if n < 2:
        return math.nan, math.nan
    half = float(stdtrit(n - 1, 0.5 + level / 2)) * float(np.std(values, ddof=1)) / math.sqrt(n)
    return float(np.mean(values)) - half, float(np.mean(values)) + half


def bootstrap_pairs(
    hits: np.ndarray, i: np.ndarray, j: np.ndarray, genes: int, seed: int, draws: int = DRAWS, level: float = 0.95
) -> tuple[np.ndarray, np.ndarray]:
    """(low, high) [t] of the share of pairs that are hits, by drawing genes with replacement: pairs of one gene are not
    independent. A pair weighs as often as both of its genes were drawn.

    Args: hits [m, t], bool, or shares of runs, t readings of the same pairs; i and j [m], genes of each pair, numbers
    below `genes`.
    """
    rng = np.random.default_rng(seed)
    used, place = np.unique(np.concatenate([i, j]), return_inverse=True)
    i, j = place[: len(i)], place[len(i) :]
    means = []
    for _ in range(draws):
        weight = np.bincount(rng.integers(genes, size=genes), minlength=genes)[used].astype(np.float32)
        pair = weight[i] * weight[j]
        means.append(pair @ hits / total if (total := pair.sum()) else np.full(hits.shape[1], np.nan))
    edge = (1 - level) / 2
    if not np.isfinite(means := np.array(means)).any():
        return np.full(hits.shape[1], np.nan), np.full(hits.shape[1], np.nan)
    low, high = np.nanquantile(means, (edge, 1 - edge), axis=0)
    return low, high


class Ranked(NamedTuple):
    """Brunner and Munzel's (2000, Biometrical Journal 42, 17-25) comparison: probability P(x > y) + P(x = y) / 2; the
    normal statistic; the p-value of x being larger; how many x and y."""

    probability: float
    statistic: float
    p_value: float
    n_x: int
    n_y: int


def counts_below(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(#{y < x}, #{y <= x}) of each of the sorted distinct x [k], among sorted y. Counts of several parts of y may be
    added."""
    below = np.searchsorted(y, x, "left")
    upto = below.copy()
    if len(y):  # few are equal as a rule, and a second search costs as much as the first
        tied = (below < len(y)) & (y[np.minimum(below, len(y) - 1)] == x)
        upto[tied] = np.searchsorted(y, x[tied], "right")
    return below, upto


def brunner_munzel(x: np.ndarray, times: np.ndarray, below: np.ndarray, upto: np.ndarray, n_y: int) -> Ranked:
    """From counts alone, in closed form.

    Args: x [k] sorted and distinct; times [k], how often each occurs; below and upto [k], of `counts_below`; n_y.
    With u and v the placements of x among y and of y among x (half of those equal), the probability is mean(u) / n_y
    and its variance Var(u) / (n_y^2 n_x) + Var(v) / (n_x^2 n_y), as statsmodels' `rank_compare_2indep(use_t=False)`.
    """
    n_x = int(times.sum())
    if n_x < 2 or n_y < 2:
        return Ranked(math.nan, math.nan, math.nan, n_x, n_y)
    u = (below + upto) / 2
    mean_u = (times @ u) / n_x
    smaller = np.concatenate([[0], np.cumsum(times)])  # x up to the i-th distinct one
    ties = upto - below  # y equal to an x, whose placement is between those of its neighbours
    between = np.concatenate([below, [n_y]]) - np.concatenate([[0], upto])
    placements = np.concatenate([smaller[:-1] + times / 2, smaller.astype(float)])
    weights = np.concatenate([ties, between])
    mean_v = (weights @ placements) / n_y
    var_u = times @ np.square(u - mean_u) / (n_x - 1)
    var_v = weights @ np.square(placements - mean_v) / (n_y - 1)
    probability = mean_u / n_y
    deviation = math.sqrt(var_u / n_y**2 / n_x + var_v / n_x**2 / n_y)
    difference = probability - 0.5
    statistic = difference / deviation if deviation else math.copysign(math.inf, difference) if difference else 0.0
    from scipy.special import ndtr

    return Ranked(float(probability), float(statistic), float(ndtr(-statistic)), n_x, n_y)


def compare(x: np.ndarray, y: np.ndarray) -> Ranked:
    """`brunner_munzel` of two samples."""
    values, times = np.unique(x, return_counts=True)
    return brunner_munzel(values, times, *counts_below(values, np.sort(np.asarray(y, float))), len(y))
