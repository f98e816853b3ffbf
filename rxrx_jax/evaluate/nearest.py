"""Exact nearest rows among themselves, by one metric and a mask, a block of them at a time; in numpy, as what is asked
for are some thousand wells. `probes.neighbours.nearest` looks among other rows, as many as a dataset has, on a device.
"""

import numpy as np

BLOCK = 512  # rows whose neighbours are looked for at a time
METRICS = ("cosine", "euclidean")


def nearest(x: np.ndarray, k: int, metric: str, apart: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest of the other rows to each of x [n, d], the nearest first and of equally near ones the first.

    Args:
      metric: one of METRICS; by cosine the cosines are returned, else the distances.
      apart: groups [n], of which a row's own does not count; None for all other rows.

    Returns (index int64 [n, k], -1 where there are fewer; cosine or distance [n, k] float64, 0 there).
    """
    if metric == "cosine":
        x = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    else:
        x = np.asarray(x, np.float64)  # squares of distances cancel
    n = len(x)
    index, value = np.full((n, k), -1), np.zeros((n, k))
    squares = np.einsum("nd,nd->n", x, x) if metric == "euclidean" else None
    for start in range(0, n, BLOCK):
        rows = np.arange(start, min(start + BLOCK, n))
        near = x[rows] @ x.T  # the larger the nearer
        if squares is not None:
            near *= -2
            near += squares[rows, None]
            near += squares
            near = -np.maximum(near, 0)
        near[np.arange(len(rows)), rows] = -np.inf
        if apart is not None:
            near[apart[rows, None] == apart] = -np.inf
        chosen = _largest(near, min(k, n - 1))
        found = np.take_along_axis(near, chosen, 1)
        there = np.isfinite(found)
        width = chosen.shape[1]
        index[rows, :width] = np.where(there, chosen, -1)
        value[rows, :width] = np.where(there, found if squares is None else np.sqrt(np.maximum(-found, 0)), 0)
    return index, value


def _largest(near: np.ndarray, k: int) -> np.ndarray:
    """The places of the k largest of each row [b, n], the largest first and of equal ones the first: [b, k]."""
    if k == 1:
        return near.argmax(1)[:, None]
    chosen = np.sort(np.argpartition(-near, k - 1, axis=1)[:, :k], axis=1) if k else np.zeros((len(near), 0), int)
    order = np.argsort(-np.take_along_axis(near, chosen, 1), axis=1, kind="stable")
    return np.take_along_axis(chosen, order, 1)
