"""In which order a heat map shows the rows of a map: alike ones side by side, or along the genome."""

import numpy as np

from rxrx_jax.maps.benchmark.genome import ARMS, Genome
from rxrx_jax.maps.build.arms import arm_numbers

WHOLE = 800  # rows that are clustered at once; more are parted first
PART = 100  # rows that a part has on average
ROUNDS, SEED = 8, 0  # of k-means


def clustered(u: np.ndarray) -> np.ndarray:
    """The rows of unit rows u [n, d] in the order of the leaves of Ward's tree, neighbouring ones as alike as they can
    be (Bar-Joseph et al. 2001, Bioinformatics 17, S22-S29), int64 [n]. More than WHOLE rows are parted by spherical
    k-means first; the parts, and the rows within each, are put in such an order."""
    from scipy.cluster import hierarchy

    if len(u) < 3:
        return np.arange(len(u))
    if len(u) <= WHOLE:
        return hierarchy.leaves_list(hierarchy.linkage(u, "ward", optimal_ordering=True)).astype(np.int64)
    of = _parts(np.asarray(u, np.float32), min(WHOLE, -(-len(u) // PART)))
    parts = [np.flatnonzero(of == k) for k in range(of.max() + 1)]
    means = np.stack([u[part].mean(0) for part in parts])
    ordered = [parts[k] for k in clustered(means)]
    return np.concatenate([part[clustered(u[part])] if len(part) <= WHOLE else part for part in ordered])


def _parts(u: np.ndarray, count: int) -> np.ndarray:
    """The part of each row, int64 [n], numbered without gaps."""
    centres = u[np.random.default_rng(SEED).choice(len(u), count, replace=False)]
    for _ in range(ROUNDS):
        of = np.concatenate([(part @ centres.T).argmax(1) for part in np.array_split(u, -(-len(u) // 4096))])
        _, of, size = np.unique(of, return_inverse=True, return_counts=True)
        edges = np.cumsum(size) - size
        centres = np.add.reduceat(u[np.argsort(of, kind="stable")], edges)
        centres /= np.maximum(np.linalg.norm(centres, axis=1, keepdims=True), 1e-12)
    return of


def along_genome(names: np.ndarray, genome: Genome) -> tuple[np.ndarray, list[tuple[str, int, int]]]:
    """(the numbers of genes [n] by arm and place on it, those without an arm last; of each arm its name and the part of
    that order which it is, from and to before)."""
    arm, place = arm_numbers(names, genome), genome.places(names)
    start = np.where(place >= 0, np.append(genome.start, 0)[place], 0)
    number = np.where(arm < 0, len(ARMS), arm)
    order = np.lexsort([start, number])
    edges = np.searchsorted(number[order], np.arange(len(ARMS) + 1))
    return order, [(name, int(a), int(b)) for name, a, b in zip(ARMS, edges, edges[1:]) if b > a]
