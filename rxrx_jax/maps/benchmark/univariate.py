"""What one perturbation's replicates say: whether they agree (consistency) and how far they are from controls.

Consistency is the mean cosine of two replicates, in closed form; magnitude the energy distance to control wells, as an
exact V-statistic; both as in EFAAR 1.0. Nulls are of unexpressed perturbations, or of controls drawn to match: as many
wells, from the batches that a perturbation's replicates are in.
"""

import numpy as np

from rxrx_jax.base.errors import UserError
from rxrx_jax.maps import relate
from rxrx_jax.maps.statistics import before, by_size, distinct_of

LEAST = {"consistency": 2, "magnitude": 5}  # replicates
CONTROLS = 1000  # at most, that magnitude compares with
NULL_DRAWS = 1000  # for each number of replicates
FEW = 4000  # controls at most of which all distances are kept: 128 MB


def consistency(x: np.ndarray, codes: np.ndarray, names=None) -> np.ndarray:
    """The mean cosine of two of a group's rows, (|sum of unit rows|^2 - r) / (r (r - 1)), [groups]; NaN for one row.

    Args: x [n, d]; codes [n], -1 for rows that are not of a group; names, row number -> text, for messages.
    Raises UserError for a row without direction.
    """
    weight = 1 / relate.lengths(x, names or "row {}".format)
    found = np.full(int(codes.max(initial=-1)) + 1, np.nan)
    used = np.flatnonzero(codes >= 0)
    for groups, part in by_size(codes[used], LEAST["consistency"]):
        found[groups] = _agreement(x, weight, used[part])
    return found


def _agreement(x: np.ndarray, weight: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Of groups of rows [m, r] of x [n, d] times weight [n], at which they have length 1. The product with a sparse
    matrix of weights reads the rows where they lie, which is faster than gathering them."""
    from scipy.sparse import csr_array

    m, r = rows.shape
    groups = csr_array((weight[rows].ravel(), rows.ravel(), np.arange(0, m * r + 1, r)), shape=(m, len(x)))
    total = groups @ x
    return (np.einsum("md,md->m", total, total) - r) / (r * (r - 1))


class Reference:
    """Control wells that replicates are compared with: x [m, d], rows [m] of the table that they are."""

    def __init__(self, x: np.ndarray, controls: np.ndarray, seed: int = 0, most: int = CONTROLS):
        """Args: x [n, d]; controls, numbers of its control rows, of which `most` are drawn with `seed`."""
        if len(controls) > most:
            controls = np.sort(np.random.default_rng(seed).choice(controls, most, replace=False))
        self.rows = controls
        self.centre = x[controls].mean(0, dtype=np.float64)
        self.x = x[controls].astype(np.float64) - self.centre
        self.square = np.square(self.x).sum(1)
        self.within = sum(_distances(self, part).sum() for part in np.array_split(self.x, 8)) / len(controls) ** 2

    def distances(self, x: np.ndarray) -> np.ndarray:
        """The sum of the distances of each row of x [n, d] to the controls, [n]."""
        found = np.empty(len(x))
        for start in range(0, len(x), relate.BLOCK):
            part = np.asarray(x[start : start + relate.BLOCK], np.float64) - self.centre
            found[start : start + len(part)] = _distances(self, part).sum(1)
        return found


def _distances(reference: Reference, centred: np.ndarray) -> np.ndarray:
    square = np.square(centred).sum(1)[:, None] + reference.square - 2 * (centred @ reference.x.T)
    return np.sqrt(np.maximum(square, 0, out=square), out=square)


def magnitude(x: np.ndarray, codes: np.ndarray, reference: Reference) -> np.ndarray:
    """The energy distance 2 E|x - c| - E|x - x'| - E|c - c'| of a group's rows from the controls [groups], with every
    pair counted, of a row with itself too; NaN for fewer than five rows.

    Args: x [n, d]; codes [n], -1 for rows that are not of a group.
    """
    found = np.full(int(codes.max(initial=-1)) + 1, np.nan)
    rows = np.flatnonzero(codes >= 0)
    sizes = [(groups, rows[part]) for groups, part in by_size(codes[rows], LEAST["magnitude"])]
    if sizes:
        to_controls = np.zeros(len(x))
        used = np.unique(np.concatenate([part.ravel() for _, part in sizes]))
        to_controls[used] = reference.distances(x[used]) / len(reference.rows)
        for groups, part in sizes:
            found[groups] = 2 * to_controls[part].mean(1) - _within(x, part) - reference.within
    return found


def _within(x: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The mean distance of two rows of each group [m], of a row to itself too."""
    r, found = rows.shape[1], np.empty(len(rows))
    most = max(1, 2**22 // (r * max(r, x.shape[1])))  # groups at a time, some 32 MB
    for start in range(0, len(rows), most):
        part = x[rows[start : start + most]].astype(np.float64)
        part -= part.mean(1, keepdims=True)  # so that little is lost where squares are subtracted
        square = np.square(part).sum(2)
        gap = square[:, :, None] + square[:, None, :] - 2 * (part @ part.transpose(0, 2, 1))
        gap[:, np.arange(r), np.arange(r)] = 0
        found[start : start + most] = np.sqrt(np.maximum(gap, 0)).sum((1, 2)) / r**2
    return found


def matched_controls(
    codes: np.ndarray, batch: np.ndarray, controls: np.ndarray, size: int, draws: int, seed: int, names=None
) -> np.ndarray:
    """Rows [draws, size] of controls, without repeats within a draw, from the batches of the replicates of groups of
    this size, drawn at random with replacement of groups.

    Args: codes [n], -1 for rows of no group; batch [n], numbers; controls, numbers of the control rows; names, of the
    batches, for messages.
    Raises UserError for a batch with fewer controls than such a group has replicates there.
    """
    rng = np.random.default_rng([seed, size])
    rows = np.flatnonzero(codes >= 0)
    (groups,) = [part for _, part in by_size(codes[rows]) if part.shape[1] == size]
    order = controls[np.argsort(batch[controls], kind="stable")]
    count = np.bincount(batch[controls], minlength=batch.max() + 1)
    start = np.cumsum(count) - count
    wanted = np.sort(batch[rows[groups[rng.integers(len(groups), size=draws)]]], axis=1)  # [draws, size]
    if (short := before(wanted) >= count[wanted]).any():
        one = int(wanted[short][0])
        raise UserError(f"batch {one if names is None else names[one]} has {int(count[one])} controls, fewer than a "
                        "perturbation has replicates there, so no null can be drawn to match it")  # fmt: skip
    return order[start[wanted] + distinct_of(rng, wanted, count)]


def null_consistency(u: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """Of draws of controls [draws, r], rows of unit rows u [n, d]."""
    return _agreement(u, np.ones(len(u)), drawn)


def null_magnitude(x: np.ndarray, drawn: np.ndarray, reference: Reference) -> np.ndarray:
    """Of draws of controls [draws, r]. A drawn row that is one of the reference's is not compared with itself there."""
    from scipy.spatial.distance import cdist

    used, place = np.unique(drawn, return_inverse=True)
    place = place.reshape(drawn.shape)
    others = len(reference.rows) - np.isin(used, reference.rows)
    to_controls = (reference.distances(x[used]) / others)[place]
    if len(used) > FEW:
        return 2 * to_controls.mean(1) - _within(x, drawn) - reference.within
    gaps = cdist(x[used].astype(np.float64), x[used].astype(np.float64))  # each pair once, however often it is drawn
    within = np.array([gaps[np.ix_(one, one)].mean() for one in place])
    return 2 * to_controls.mean(1) - within - reference.within
