"""Classification by the nearest class mean."""

import numpy as np

from rxrx_jax.evaluate.probes import among


def nearest_mean(given: np.ndarray, labels: np.ndarray, queries: np.ndarray, classes: int) -> np.ndarray:
    """Minus the squared distance from the mean of each class (prototypical networks, Snell et al. 2017, arXiv
    1703.05175) over D, so that those of a well's sites are averaged, of features standardised by the references:
    float32 [q, classes], -inf for a class without any.

    Args: given [n, D] and labels int [n] of the references; queries [q, D]."""
    centre, deviation = given.mean(0, dtype=np.float64), given.std(0, dtype=np.float64)
    deviation = np.where(deviation > 0, deviation, 1)
    given, queries = (((x - centre) / deviation).astype(np.float32) for x in (given, queries))
    there, number, count = np.unique(labels, return_inverse=True, return_counts=True)
    means = np.zeros((len(there), given.shape[1]), np.float32)
    np.add.at(means, number, given)
    means /= count[:, None]
    squared = (queries**2).sum(1, keepdims=True) - 2 * queries @ means.T + (means**2).sum(1)
    return among(-squared / given.shape[1], there, classes)
