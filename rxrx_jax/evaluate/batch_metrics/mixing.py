"""Whether the nearest wells are of all experiments alike: LISI and kBET, as scib-metrics 0.5 computes them.

Neighbours are exact, by Euclidean distance, and of each well the first is itself.
"""

from typing import NamedTuple

import numpy as np

from rxrx_jax.evaluate import nearest as among

NEIGHBOURS = 90  # of LISI, itself among them; the perplexity is a third of it
KBET_NEIGHBOURS, KBET_LEAST = 50, 10
ALPHA = 0.05
TRIES, TOLERANCE = 50, 1e-5  # of the search for a perplexity


class Neighbours(NamedTuple):
    """index int [n, k] and distance [n, k] of the k nearest rows of each of n, itself first and then the nearest."""

    index: np.ndarray
    distance: np.ndarray


def nearest(x: np.ndarray, k: int = NEIGHBOURS) -> Neighbours:
    """The k nearest rows of x [n, d], or all n where there are fewer."""
    n = len(x)
    index, distance = among.nearest(x, min(max(k - 1, 1), n - 1), "euclidean")  # without the row itself
    own = np.arange(n)[:, None]
    return Neighbours(np.concatenate([own, index], 1), np.concatenate([np.zeros((n, 1)), distance], 1))


def lisi(near: Neighbours, labels: np.ndarray, perplexity: float | None = None) -> np.ndarray:
    """The local inverse Simpson index [n] (Korsunsky et al. 2019, Nature Methods 16, 1289-1296): how many of the
    labels [n] the neighbours of a row have in effect, weighted by exp(-beta distance) so that the entropy of the
    weights is the log of the perplexity; by default a third of the neighbours."""
    perplexity = near.index.shape[1] // 3 if perplexity is None else perplexity
    weights = _weights(near.distance[:, 1:], np.log(max(perplexity, 1)))
    _, codes = np.unique(labels, return_inverse=True)
    order = np.argsort(codes[near.index[:, 1:]], axis=1)  # neighbours of one label in a run
    label = np.take_along_axis(codes[near.index[:, 1:]], order, 1)
    weights = np.take_along_axis(weights, order, 1)
    starts = np.concatenate([np.ones((len(label), 1), bool), label[:, 1:] != label[:, :-1]], 1)
    per_label = np.add.reduceat(weights.ravel(), np.flatnonzero(starts))
    return 1 / np.add.reduceat(per_label**2, np.cumsum(starts.sum(1)) - starts.sum(1))


def _weights(distance: np.ndarray, entropy: float) -> np.ndarray:
    """exp(-beta distance) [n, k] with sum 1 and this entropy, beta by bisection for each row."""
    distance = distance - distance.min(1, keepdims=True)  # changes no weight, and none vanishes
    beta, low, high = np.ones(len(distance)), np.zeros(len(distance)), np.full(len(distance), np.inf)
    for _ in range(TRIES):
        weights = np.exp(-distance * beta[:, None])
        total = weights.sum(1)
        excess = np.log(total) + beta * (distance * weights).sum(1) / total - entropy
        if (np.abs(excess) < TOLERANCE).all():
            break
        wide = excess > 0
        low, high = np.where(wide, beta, low), np.where(wide, high, beta)
        beta = np.where(np.isinf(high), 2 * beta, (low + high) / 2)
    return weights / total[:, None]


def ilisi(near: Neighbours, batch: np.ndarray) -> float:
    """(median LISI of the batches [n] - 1) / (number of batches - 1): 0 where all neighbours are of one batch, 1 where
    they are of all alike (Luecken et al. 2022, Nature Methods 19, 41-50). NaN for one batch."""
    count = len(np.unique(batch))
    return float((np.median(lisi(near, batch)) - 1) / (count - 1)) if count > 1 else float("nan")


def clisi(near: Neighbours, labels: np.ndarray) -> float:
    """(number of labels - median LISI of the labels [n]) / (number of labels - 1): 1 where all neighbours share their
    label (Luecken et al. 2022). NaN for one label."""
    count = len(np.unique(labels))
    return float((count - np.median(lisi(near, labels))) / (count - 1)) if count > 1 else float("nan")


def accepted(near: Neighbours, batch: np.ndarray, alpha: float = ALPHA) -> float:
    """The share of rows whose neighbours have the batches [n] of all rows, by Pearson's chi-squared test at `alpha`
    (kBET, Buettner et al. 2019, Nature Methods 16, 43-49): 1 is mixed."""
    from scipy.special import chdtrc  # as in accuracy.py

    _, codes = np.unique(batch, return_inverse=True)
    expected = np.bincount(codes) / len(codes) * near.index.shape[1]
    observed = np.zeros((len(codes), len(expected)))
    np.add.at(observed, (np.arange(len(codes))[:, None], codes[near.index]), 1)
    statistic = (np.square(observed - expected) / expected).sum(1)
    return float((chdtrc(len(expected) - 1, statistic) >= alpha).mean())


def kbet(x: np.ndarray, batch: np.ndarray, labels: np.ndarray, k: int = KBET_NEIGHBOURS) -> float:
    """The mean of `accepted` over the labels, each with the k nearest rows of its own, or half of them where these are
    fewer: the whole of a label is always mixed.

    Left out are labels of one batch, of which half are fewer than KBET_LEAST rows, and with fewer than two rows per
    batch, which cannot be seen to stand together. NaN if all are. Args: x [n, d]; batch and labels [n].
    """
    found = []
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        size, batches = min(k, len(rows) // 2), len(np.unique(batch[rows]))
        if batches > 1 and size >= KBET_LEAST and len(rows) >= 2 * batches:
            found.append(accepted(nearest(x[rows], size), batch[rows]))
    return float(np.mean(found)) if found else float("nan")
