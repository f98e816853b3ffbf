"""Metrics of a set of points of d objectives in [0, 1], all maximised: how far it reaches and how varied it is.

Hypervolume (Zitzler and Thiele 1998) is against the reference 0. R2 (Hansen and Jaszkiewicz 1998) is against the utopia
1 and a mean over weights; released code of multi-objective GFlowNets (recursionpharma/gflownet, MJ10/mo_gfn) divides
the sum by the Frobenius norm of the weights instead, so that it changes with their number: that is `r2_published`. IGD+
and GD+ are of Ishibuchi et al. 2015, PC-entropy of Roy et al. 2023. Float64 numpy; nothing here knows of a molecule.
"""

import itertools

import numpy as np

from rxrx_jax.base.errors import UserError

MOST_OBJECTIVES = 4  # of an exact hypervolume: its cost grows as n ** (d - 1)


def _checked(points: np.ndarray, what: str = "front") -> np.ndarray:
    """Float64 [n, d] with n, d >= 1 and every value finite. Raises UserError."""
    points = np.asarray(points, np.float64)
    if points.ndim != 2 or points.shape[1] < 1:
        raise UserError(
            f"the {what} has the shape {points.shape}: expected one row a point and one column an objective"
        )
    if not len(points):
        raise UserError(f"the {what} is empty: its metrics are undefined without a point")
    if len(bad := np.argwhere(~np.isfinite(points))):
        row, column = bad[0]
        raise UserError(
            f"the {what} has {points[row, column]} in row {row}, objective {column} ({len(bad)} such values): "
            "drop or correct the rewards that gave them"
        )
    return points


def _pair(points: np.ndarray, other: np.ndarray, what: str) -> tuple[np.ndarray, np.ndarray]:
    points, other = _checked(points), _checked(other, what)
    if points.shape[1] != other.shape[1]:
        raise UserError(
            f"the front has {points.shape[1]} objectives and the {what} {other.shape[1]}: give both the same"
        )
    return points, other


def non_dominated(points: np.ndarray) -> np.ndarray:
    """Which points no other is at least as good as everywhere and better somewhere; equal points are kept together.

    Args:
      points: [n, d].

    Returns a mask, bool [n].
    """
    points = _checked(points)
    unique, place = np.unique(points, axis=0, return_inverse=True)
    kept = np.zeros(len(unique), bool)
    best = np.empty((0, points.shape[1]))
    # In falling lexicographic order nothing is dominated by what comes after it.
    for i in reversed(range(len(unique))):
        if not (best >= unique[i]).all(1).any():
            kept[i] = True
            best = np.concatenate([best, unique[i : i + 1]])
    return kept[place.reshape(-1)]


def front(points: np.ndarray) -> np.ndarray:
    """The non-dominated points without repeats, in rising lexicographic order: [m, d]."""
    points = _checked(points)
    return np.unique(points[non_dominated(points)], axis=0)


def constant(points: np.ndarray) -> list[int]:
    """The objectives that have one value in all points: where it is 0, so is the hypervolume."""
    return [int(i) for i in np.flatnonzero(np.ptp(_checked(points), axis=0) == 0)]


def hypervolume(points: np.ndarray) -> float:
    """The exact volume that points dominate above the reference 0.

    Args:
      points: [n, d], d <= 4. What is below 0 anywhere dominates nothing.

    Raises UserError for an empty front, a value that is not finite, or more than four objectives.
    """
    points = _checked(points)
    if (d := points.shape[1]) > MOST_OBJECTIVES:
        raise UserError(
            f"an exact hypervolume of {d} objectives: at most {MOST_OBJECTIVES}; choose {MOST_OBJECTIVES} of them, or "
            "compare R2 and IGD+, which take any number"
        )
    points = points[(points > 0).all(1)]
    return float(_volume(front(points))) if len(points) else 0.0


def _volume(points: np.ndarray) -> float:
    """Of non-dominated points without repeats, all above 0, by slices along the last objective."""
    d = points.shape[1]
    if d == 1:
        return points.max()
    if d == 2:
        points = points[np.argsort(-points[:, 0], kind="stable")]
        highest = np.maximum.accumulate(points[:, 1])
        return points[:, 0] @ np.diff(highest, prepend=0)
    points = points[np.argsort(-points[:, -1], kind="stable")]
    depths = points[:, -1] - np.append(points[1:, -1], 0)
    above, total = np.empty((0, d - 1)), 0.0
    for point, depth in zip(points[:, :-1], depths):
        if not (above >= point).all(1).any():
            above = np.concatenate([above[~(above <= point).all(1)], point[None]])
        if depth > 0:
            total += depth * _volume(above)
    return total


def simplex(d: int, steps: int = 10) -> np.ndarray:
    """All weights of d objectives that are multiples of 1 / steps and sum to 1: [(steps + d - 1 choose d - 1), d]."""
    if d < 1 or steps < 1:
        raise UserError(f"weights of {d} objectives in {steps} steps: use 1 or more of both")
    bars = itertools.combinations(range(steps + d - 1), d - 1)
    return np.array([np.diff((-1, *bar, steps + d - 1)) - 1 for bar in bars]) / steps


def _best(points: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Of every weight the least weighted Chebyshev distance to the utopia 1: [m]."""
    points, weights = _pair(points, weights, "weights")
    gaps = np.abs(1 - points)
    return np.array([(weight * gaps).max(1).min() for weight in weights])


def r2(points: np.ndarray, weights: np.ndarray) -> float:
    """The mean over weights of min over points of max over i of w_i |1 - point_i|; lower is better.

    Args:
      points: [n, d].
      weights: [m, d], as of `simplex`.
    """
    return float(_best(points, weights).mean())


def r2_published(points: np.ndarray, weights: np.ndarray) -> float:
    """R2 as the released code prints it: the sum over weights by the Frobenius norm of all weights."""
    return float(_best(points, weights).sum() / np.linalg.norm(weights))


def _short(points: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """By how much each point falls short of each point of the reference, better objectives left out: [n, m]."""
    return np.sqrt(sum(np.square(np.maximum(r - p[:, None], 0)) for p, r in zip(points.T, reference.T)))


def igd_plus(points: np.ndarray, reference: np.ndarray) -> float:
    """Inverted generational distance plus: the mean over the reference front of how far the nearest point falls short.

    Args:
      points: [n, d].
      reference: [m, d], the true front or the best known.
    """
    return float(_short(*_pair(points, reference, "reference front")).min(0).mean())


def gd_plus(points: np.ndarray, reference: np.ndarray) -> float:
    """Generational distance plus: the mean over points of how far each falls short of the nearest of the reference."""
    return float(_short(*_pair(points, reference, "reference front")).min(1).mean())


def cube_limits(d: int, steps: int = 10) -> np.ndarray:
    """The points of a regular grid on [0, 1]^d that are 1 somewhere: the reference of the released code where the true
    front is not known."""
    grid = np.stack(np.meshgrid(*[np.linspace(0, 1, steps)] * d, indexing="ij"), -1).reshape(-1, d)
    return grid[(grid == 1).any(1)]


def pc_entropy(points: np.ndarray, reference: np.ndarray) -> float:
    """The entropy, in nats, of the points' shares among the points of a reference front, each going to its nearest.

    Args:
      points: [n, d].
      reference: [m, d]; of two equally near, the first.
    """
    points, reference = _pair(points, reference, "reference front")
    squares = sum(np.square(p[:, None] - r) for p, r in zip(points.T, reference.T))
    counts = np.bincount(squares.argmin(1))
    shares = counts[counts > 0] / len(points)
    return float(-(shares * np.log(shares)).sum() + 0.0)


def levenshtein(strings: np.ndarray, lengths: np.ndarray | None = None) -> np.ndarray:
    """The number of insertions, deletions and replacements from each string to each.

    Args:
      strings: integer [n, length], one token a place.
      lengths: integer [n], how many tokens of each count; None for all.

    Returns int32 [n, n].
    """
    strings = np.asarray(strings)
    n, longest = strings.shape
    lengths = np.full(n, longest) if lengths is None else np.asarray(lengths)
    row = np.broadcast_to(np.arange(longest + 1, dtype=np.int32)[:, None, None], (longest + 1, n, n)).copy()
    found = np.where(lengths[:, None] == 0, lengths[None], 0).astype(np.int32)
    for i in range(longest):
        before = row.copy()
        row[0] = i + 1
        for j in range(longest):
            other = strings[:, None, i] != strings[None, :, j]
            row[j + 1] = np.minimum(np.minimum(row[j], before[j + 1]) + 1, before[j] + other)
        ends = np.take_along_axis(row, np.broadcast_to(lengths[None], (n, n))[None], 0)[0]
        found = np.where(lengths[:, None] == i + 1, ends, found)
    return found


def diversity(distances: np.ndarray) -> float:
    """The mean distance of two different members. Args: distances, [n, n], symmetric. 0 of one member alone."""
    distances = np.asarray(distances, np.float64)
    n = len(distances)
    return float((distances.sum() - np.trace(distances)) / (n * (n - 1))) if n > 1 else 0.0
