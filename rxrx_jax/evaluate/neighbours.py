"""Classification by the nearest embeddings, without training: k-nearest neighbours and the nearest class mean."""

import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from rxrx_jax.base.errors import UserError
from rxrx_jax.data.roles import only_controls_told, treated
from rxrx_jax.evaluate.accuracy import of_protocol
from rxrx_jax.evaluate.linear import absent, check_finite

BLOCK = 1024  # queries at a time


def evaluate(context, k=(1, 10, 20)) -> Iterator[tuple[str, float]]:
    """`neighbours/knn_K/ROLE/site_accuracy` and so on for each K of `k`, and `neighbours/class_mean/ROLE/...`, of the
    run's embeddings: neighbours among the fitted rows or, where the protocol has one, among its support."""
    rows, features = context.embeddings()
    for name, value in score(features, rows, context.dataset, k):
        prefix, _, metric = name.rpartition("/")
        where = prefix.rpartition("/")[2]
        if metric == "sites" and where in context.dataset.roles.scored:  # the first of a role
            anchored = only_controls_told(context.dataset, context.dataset.roles.support)
            used = np.isin(context.dataset.sites.experiment[context.dataset.roles.scored[where]], anchored).any()
            yield f"marks/{prefix}", context.marks(where, "C" * bool(used))
        yield name, value


def score(features: np.ndarray, rows: np.ndarray, dataset, k: tuple[int, ...]) -> Iterator[tuple[str, float | str]]:
    """The metrics of `evaluate` for features [n, D] of the dataset's `rows` [n], sorted.

    With a support, only experiments of its cell types are scored, and each of which controls alone are support is first
    moved by the difference of the means of their classes from those where treatments are support, averaged over the
    control classes of both. A class without a reference is never predicted: its rows count
    as wrong, and are counted as absent_classes and absent_sites.
    Raises UserError for features that are not finite, and where nothing is there to be near to."""
    check_finite(features)
    sites, roles = dataset.sites, dataset.roles
    given = roles.support if len(roles.support) else roles.fit
    reference = np.isin(rows, given) & (sites.label[rows] >= 0)
    if not reference.any():
        raise UserError("evaluators.neighbours: no row that is trained on, or is support, has a label")
    features = np.asarray(features, np.float32)
    if len(roles.support):
        features = moved(features, rows, dataset)
    labels, classes = sites.label[rows[reference]], len(dataset.classes)
    kinds = np.unique(sites.cell_type[given]) if len(roles.support) else np.unique(sites.cell_type)
    votes = {f"knn_{n}": functools.partial(nearest_votes, k=n) for n in k}
    for name, function in {**votes, "class_mean": nearest_mean}.items():
        for role, members in roles.scored.items():
            chosen = np.isin(rows, members) & np.isin(sites.cell_type[rows], kinds)
            if chosen.any():
                missing = absent(labels, sites.label[rows[chosen]])
                yield from ((f"neighbours/{name}/{role}/{key}", value) for key, value in missing.items())
                logits = function(features[reference], labels, features[chosen], classes)
                yield from of_protocol(f"neighbours/{name}/{role}", logits, rows[chosen], dataset)


def nearest_votes(given: np.ndarray, labels: np.ndarray, queries: np.ndarray, classes: int, k: int) -> np.ndarray:
    """Logs of the share of votes of the k nearest by cosine: float32 [q, classes], -inf without votes.

    Equally near ones count in the order of their index; of classes with equally many votes the argmax is the first.

    Args: given [n, D] float32 and labels [n] of the references; queries [q, D]. k is n where there are fewer."""
    k = min(k, len(given))
    given = jnp.asarray(_unit(given))
    out = np.zeros((len(queries), classes), np.float32)
    for start in range(0, len(queries), BLOCK):
        block = queries[start : start + BLOCK]
        padded = np.zeros((min(BLOCK, len(queries)), block.shape[1]), np.float32)  # one shape, one compilation
        padded[: len(block)] = block
        nearest = np.asarray(_nearest(given, padded, k))[: len(block)]
        np.add.at(out, (start + np.arange(len(block))[:, None], labels[nearest]), 1 / k)
    with np.errstate(divide="ignore"):
        return np.log(out)


def nearest_mean(given: np.ndarray, labels: np.ndarray, queries: np.ndarray, classes: int) -> np.ndarray:
    """Minus the squared distance from the mean of each class (prototypical networks, Snell et al. 2017, arXiv
    1703.05175) over D, so that those of a well's sites are averaged, of features standardised by the references:
    float32 [q, classes], -inf for a class without any. Arguments as in `nearest_votes`."""
    centre, deviation = given.mean(0), given.std(0)
    deviation = np.where(deviation > 0, deviation, 1)
    given, queries = (given - centre) / deviation, (queries - centre) / deviation
    there, number, count = np.unique(labels, return_inverse=True, return_counts=True)
    means = np.zeros((len(there), given.shape[1]), np.float32)
    np.add.at(means, number, given)
    means /= count[:, None]
    out = np.full((len(queries), classes), -np.inf, np.float32)
    squared = (queries**2).sum(1, keepdims=True) - 2 * queries @ means.T + (means**2).sum(1)
    out[:, there] = -squared / given.shape[1]
    return out


def moved(features: np.ndarray, rows: np.ndarray, dataset) -> np.ndarray:
    """The features [n, D] of the dataset's `rows` [n] with the experiments moved of which the support holds controls
    alone, as `score` says. Raises UserError for one that shares no control class with the others."""
    sites, support = dataset.sites, dataset.roles.support
    anchored = only_controls_told(dataset, support)
    if not len(anchored):
        return features
    experiment, label = sites.experiment[rows], sites.label[rows]
    control = np.isin(rows, support) & ~treated(sites)[rows] & (label >= 0)
    giving = control & ~np.isin(experiment, anchored)
    features = features.copy()
    for one in anchored:
        here = control & (experiment == one)
        shared = np.intersect1d(label[here], label[giving])
        if not len(shared):
            raise UserError(
                f"protocol with controls as support: {dataset.experiments[one]} shares no control with the experiments "
                "that give support; leave controls out"
            )
        mean = lambda chosen: np.mean([features[chosen & (label == c)].mean(0) for c in shared], 0)  # noqa: E731, B023
        features[experiment == one] -= mean(here) - mean(giving)
    return features


@functools.partial(jax.jit, static_argnames="k")
def _nearest(given: jax.Array, queries: jax.Array, k: int) -> jax.Array:
    similarity = jnp.matmul(queries, given.T, precision=jax.lax.Precision.HIGHEST)
    return jax.lax.top_k(similarity, k)[1]  # of equal ones the first; the queries' lengths do not matter


def _unit(x: np.ndarray) -> np.ndarray:
    """Rows of length 1; a zero row stays zero."""
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-30)
