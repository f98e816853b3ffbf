"""Classification by the nearest embeddings, without training: k-nearest neighbours and the nearest class mean."""

import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from rxrx_jax.base.errors import UserError
from rxrx_jax.base.sharding import on_one_device
from rxrx_jax.data.roles import only_controls_told, treated
from rxrx_jax.evaluate.accuracy import of_protocol
from rxrx_jax.evaluate.probes import absent, check_finite
from rxrx_jax.evaluate.probes.class_mean import nearest_mean

BLOCK, SIMILARITIES = 1024, 2**27  # queries, and their similarities to all references, at a time


def evaluate(context, k=(1, 10, 20)) -> Iterator[tuple[str, float | str]]:
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
    for role, members in roles.scored.items():
        chosen = np.isin(rows, members) & np.isin(sites.cell_type[rows], kinds)
        if not chosen.any():
            continue
        missing = absent(labels, sites.label[rows[chosen]])
        near = nearest(features[reference], features[chosen], max(k)) if k else None
        found = {f"knn_{n}": functools.partial(votes, near, labels, classes, n) for n in k}
        found["class_mean"] = functools.partial(nearest_mean, features[reference], labels, features[chosen], classes)
        for name, logits in found.items():
            yield from ((f"neighbours/{name}/{role}/{key}", value) for key, value in missing.items())
            yield from of_protocol(f"neighbours/{name}/{role}", logits(), rows[chosen], dataset)


@on_one_device()
def nearest(given: np.ndarray, queries: np.ndarray, k: int) -> np.ndarray:
    """Which k references are nearest by cosine, the nearest first and equally near ones in the order of their index:
    int32 [q, k]; all n where there are fewer. A block of queries is compared with all references at a time.

    Args: given [n, D], the references; queries [q, D]."""
    k, block = min(k, len(given)), max(1, min(BLOCK, len(queries), SIMILARITIES // len(given)))
    references, out = jnp.asarray(_unit(given)), np.zeros((len(queries), k), np.int32)
    for start in range(0, len(queries), block):
        part = queries[start : start + block].astype(np.float32)
        padded = np.pad(part, ((0, block - len(part)), (0, 0)))  # one shape, one compilation
        out[start : start + block] = _nearest(references, padded, k)[: len(part)]
    return out


def votes(near: np.ndarray, labels: np.ndarray, classes: int, k: int) -> np.ndarray:
    """Logs of the share of votes of the k nearest: float32 [q, classes], -inf without votes. Of classes with equally
    many votes the argmax is the first. Args: near, as `nearest` gives it; labels int [n] of the references."""
    chosen = labels[near[:, :k]]
    out = np.zeros((len(near), classes), np.float32)
    np.add.at(out, (np.arange(len(near))[:, None], chosen), 1 / max(chosen.shape[1], 1))
    with np.errstate(divide="ignore"):
        return np.log(out)


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
