"""Whether batches, or labels, lie apart as a whole: silhouettes and principal component regression, as scib-metrics 0.5
computes them."""

import numpy as np

COMPONENTS = 50
MEMORY = 64  # MiB of distances at a time


def silhouettes(x: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(b - a) / max(a, b) of each row of x [n, d]: a is its mean Euclidean distance to others of its label, b that to
    the rows of the nearest other label (Rousseeuw 1987, J. Comput. Appl. Math. 20, 53-65); 0 for a label's only row."""
    import sklearn
    from sklearn.metrics import silhouette_samples

    with sklearn.config_context(working_memory=MEMORY):
        return silhouette_samples(np.asarray(x, np.float64), labels)


def silhouette_label(x: np.ndarray, labels: np.ndarray) -> float:
    """(mean silhouette + 1) / 2 of the labels [n]: 1 where each lies by itself, .5 where they overlap. NaN where there
    is one label, or one for each row."""
    return float((silhouettes(x, labels).mean() + 1) / 2) if 1 < len(np.unique(labels)) < len(labels) else float("nan")


def silhouette_batch(x: np.ndarray, batch: np.ndarray, labels: np.ndarray) -> float:
    """1 - |silhouette of the batches [n]| among the rows of each label [n], averaged over its rows and then over the
    labels: 1 where batches overlap (Luecken et al. 2022, Nature Methods 19, 41-50).

    Left out are labels of one batch, or with one row per batch; NaN if all are.
    """
    found = []
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        if 1 < len(np.unique(batch[rows])) < len(rows):
            found.append(1 - np.abs(silhouettes(x[rows], batch[rows])).mean())
    return float(np.mean(found)) if found else float("nan")


def principal_component_regression(x: np.ndarray, batch: np.ndarray, components: int = COMPONENTS) -> float:
    """The share of the variance of the first principal components of x [n, d] that the batch [n] explains: the R^2 of
    each, regressed on the batch as a category, weighted by its variance (Buettner et al. 2019, Nature Methods 16,
    43-49). 0 means no batch effect, 1 nothing else; NaN where all rows are equal."""
    centred = x - x.mean(0, dtype=np.float64)
    values, vectors = np.linalg.eigh(centred.T @ centred)
    scores = centred @ vectors[:, np.argsort(-values)[:components]]
    _, codes, count = np.unique(batch, return_inverse=True, return_counts=True)
    sums = np.zeros((len(count), scores.shape[1]))
    np.add.at(sums, codes, scores)
    total = np.square(scores).sum()
    return float((np.square(sums) / count[:, None]).sum() / total) if total > 0 else float("nan")
