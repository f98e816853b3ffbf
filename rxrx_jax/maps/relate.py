"""Cosines between the rows of a map, a block at a time: 20,000 rows take 1.6 GB, not the 3.2 GB of the whole square."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from rxrx_jax.base.errors import UserError

BLOCK = 512  # rows
FEW = 2**22  # cosines at most of which all are kept for their order statistics: 32 MB
# Rows whose cosines say about where a rank lies, and how far it may be from there, as a share.
SAMPLE, MARGIN = 128, 0.03


def unit(x: np.ndarray, name: Callable[[int], str] = "row {}".format) -> np.ndarray:
    """The rows of x [n, d] at length 1, float64. Raises UserError, naming the row, for one that has no direction."""
    x = np.asarray(x, np.float64)
    return x / lengths(x, name)[:, None]


def lengths(x: np.ndarray, name: Callable[[int], str] = "row {}".format) -> np.ndarray:
    """The length of each row of x [n, d], float64 [n]. Raises UserError as `unit`."""
    length = np.sqrt(np.einsum("nd,nd->n", x, x, dtype=np.float64))
    bad = ~(np.isfinite(length) & (length > 0))
    if bad.any():
        raise UserError(f"{name(int(np.flatnonzero(bad)[0]))} is zero or not finite, so it has no cosine with others")
    return length


def blocks(u: np.ndarray, others: np.ndarray | None = None, size: int = BLOCK) -> Iterator[tuple[int, np.ndarray]]:
    """(first row, cosines [b, m]) of blocks of unit rows u [n, d] with those of `others` [m, d], or of u from this
    first row on: [b, n - first], whose upper triangle holds every pair once."""
    for start in range(0, len(u), size):
        yield start, u[start : start + size] @ (u[start:] if others is None else others).T


def all_pairs(u: np.ndarray, chosen: tuple[np.ndarray, np.ndarray] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """(cosines of all i < j [n (n - 1) / 2]; those of the chosen pairs [m]) of unit rows u [n, d].

    The chosen ones are copies of the same numbers, so that comparing them finds ties.
    Args: chosen, (i [m], j [m]), i differing from j, in any order.
    """
    n = len(u)
    values = np.empty(n * (n - 1) // 2)
    first = np.concatenate([[0], np.cumsum(np.arange(n - 1, 0, -1))])  # where row i's pairs begin
    for start, part in blocks(u):
        for k, row in enumerate(part):
            i = start + k
            values[first[i] : first[i] + n - 1 - i] = row[k + 1 :]
    if chosen is None:
        return values, np.zeros(0)
    low, high = np.minimum(*chosen), np.maximum(*chosen)
    return values, values[first[low] + high - low - 1]


def of_pairs(u: np.ndarray, v: np.ndarray, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """Cosines [m] of unit rows u[i] with v[j]."""
    return np.einsum("nd,nd->n", u[i], v[j])


def order_statistics(values: np.ndarray, ranks: Sequence[int]) -> np.ndarray:
    """The values [N] of these ranks (0 is the smallest), without sorting; `values` is reordered."""
    ranks = np.asarray(ranks)
    values.partition(np.unique(ranks))
    return values[ranks]


def order_statistics_of_pairs(
    u: np.ndarray, ranks: Sequence[int], chosen: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """(the values [r] of these ranks among the cosines of all i < j; those of the chosen pairs [m]), as `all_pairs` and
    `order_statistics` have them. Of many cosines only those that are near to a rank are kept, and the others counted: a
    sample says where, and where it was wrong all are kept after all. Args: as in `all_pairs`."""
    ranks, n = np.asarray(ranks, np.int64), len(u)
    pairs = n * (n - 1) // 2
    if pairs > FEW:
        near = _near(u, ranks, pairs)
        below, kept, queries = _kept(u, near, chosen)
        at = np.searchsorted(below, ranks, "right") - 1
        if all(k >= 0 and r - below[k] < len(kept[k]) for r, k in zip(ranks, at)):
            values = np.empty(len(ranks))
            for k in np.unique(at):
                values[at == k] = order_statistics(kept[k], ranks[at == k] - below[k])
            return values, queries
    values, queries = all_pairs(u, chosen)
    return order_statistics(values, ranks), queries


def _near(u: np.ndarray, ranks: np.ndarray, pairs: int) -> np.ndarray:
    """Intervals [k, 2] of cosines, apart and in order, in which the values of the ranks very probably lie."""
    rows = np.random.default_rng(0).choice(len(u), SAMPLE, replace=False)
    sample = np.sort((u[rows] @ u.T).ravel())
    found: list[list[float]] = []
    for share in np.unique(ranks) / (pairs - 1):
        low, high = (int((share + side * MARGIN) * (len(sample) - 1)) for side in (-1, 1))
        edges = [sample[low] if low > 0 else -np.inf, sample[high] if high < len(sample) - 1 else np.inf]
        if found and edges[0] <= found[-1][1]:
            found[-1][1] = edges[1]
        else:
            found.append(edges)
    return np.array(found)


def _kept(u: np.ndarray, near: np.ndarray, chosen: tuple[np.ndarray, np.ndarray]):
    """(how many cosines of pairs are below each interval [k], those within each, those of the chosen pairs [m])."""
    low, high = np.minimum(*chosen), np.maximum(*chosen)
    below, kept, queries = np.zeros(len(near), np.int64), [[] for _ in near], np.empty(len(low))
    for start, part in blocks(u):
        here = (low >= start) & (low < start + len(part))
        queries[here] = part[low[here] - start, high[here] - start]
        found: list[list[np.ndarray]] = [[] for _ in near]
        for k in range(0, len(part), 64):  # rows at a time, which stay in the cache
            rows = part[k : k + 64]
            square = rows[:, k : k + len(rows)]
            for values in (square[np.triu_indices(len(rows), 1)], rows[:, k + len(rows) :]):
                for i, (first, last) in enumerate(near):
                    less = values < first
                    below[i] += np.count_nonzero(less)
                    found[i].append(values[~less & (values <= last)])
        for all_of, pieces in zip(kept, found):
            all_of.append(np.concatenate(pieces))
    return below, [np.concatenate(one) for one in kept], queries


def percentiles(values: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """The share of `values` [N] below each query, and half of those equal to it. `values` is sorted in place."""
    values.sort()
    return percentiles_of_sorted(values, queries)


def percentiles_of_sorted(values: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """`percentiles` of values that are sorted already."""
    left, right = (np.searchsorted(values, queries, side) for side in ("left", "right"))
    return (left + right) / (2 * len(values))


def top(u: np.ndarray, others: np.ndarray, k: int, same: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """(indices, cosines) [n, k] of the k rows of `others` [m, d] nearest to each of u [n, d], the nearest first; where
    they are the `same` rows, without itself. Both hold unit rows; equal cosines are in the order of rows."""
    k = min(k, len(others) - same)
    indices, cosines = np.empty((len(u), k), np.int64), np.empty((len(u), k))
    for start, part in blocks(u, others):
        rows = np.arange(len(part))
        if same:
            part[rows, start + rows] = -np.inf
        order = np.argsort(-part, axis=1, kind="stable")[:, :k] if k > len(others) // 8 else _largest(part, k)
        indices[start : start + len(part)] = order
        cosines[start : start + len(part)] = np.take_along_axis(part, order, 1)
    return indices, cosines


def _largest(part: np.ndarray, k: int) -> np.ndarray:
    chosen = np.sort(np.argpartition(-part, k - 1, axis=1)[:, :k], axis=1)
    order = np.argsort(-np.take_along_axis(part, chosen, 1), axis=1, kind="stable")
    return np.take_along_axis(chosen, order, 1)
