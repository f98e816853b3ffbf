"""NSGA-II (Deb et al. 2002): a population that keeps what few others dominate and few others are like.

Genomes are arrays or anything that can be hashed; `score` and `vary` know them. With one objective this is a plain
genetic algorithm that keeps the best.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from rxrx_jax.base.errors import UserError


def ranks(points: np.ndarray) -> np.ndarray:
    """0 for points that no other dominates, 1 for those that only rank 0 dominates, and so on: int [n].

    Args:
      points: [n, d], maximised.
    """
    points = np.asarray(points, np.float64)
    dominates = (points[:, None] >= points[None]).all(-1) & (points[:, None] > points[None]).any(-1)
    found, rank = np.full(len(points), -1), 0
    while (left := found < 0).any():
        found[left & ~(dominates & left[:, None]).any(0)] = rank
        rank += 1
    return found


def crowding(points: np.ndarray) -> np.ndarray:
    """How far the neighbours of each point of one front are apart, in shares of each objective's range, summed over
    objectives: [n], infinite for the ends. Of equal points all but the first have 0."""
    points = np.asarray(points, np.float64)
    unique, first = np.unique(points, axis=0, return_index=True)
    total, found = np.zeros(len(unique)), np.zeros(len(points))
    for values in unique.T:
        order = np.argsort(values, kind="stable")
        gaps = np.diff(values[order])
        total[order[[0, -1]]] = np.inf
        if len(values) > 2 and gaps.sum() > 0:
            total[order[1:-1]] += (gaps[:-1] + gaps[1:]) / gaps.sum()
    found[first] = total
    return found


def survivors(points: np.ndarray, count: int, repeated: np.ndarray | None = None) -> np.ndarray:
    """The rows of the `count` best points, best first: of lower rank, then less crowded. Args: repeated, bool [n], rows
    that come after all others, else a population ends as copies of a few."""
    rank, sparse = ranks(points), np.zeros(len(points))
    for one in range(rank.max() + 1):
        rows = np.flatnonzero(rank == one)
        sparse[rows] = crowding(points[rows])
    return np.lexsort((-sparse, rank, np.zeros(len(points)) if repeated is None else repeated))[:count]


def _repeated(genomes: Sequence[Any]) -> np.ndarray:
    """Which are equal to one before."""
    seen, found = set(), []
    for genome in genomes:
        name = genome.tobytes() if isinstance(genome, np.ndarray) else genome
        found.append(name in seen)
        seen.add(name)
    return np.array(found)


@dataclasses.dataclass(frozen=True)
class Found:
    """All that was scored, in that order: genomes, and their points [n, d]; and the rows of the last population."""

    genomes: list[Any]
    points: np.ndarray
    population: np.ndarray


def search(
    rng: np.random.Generator,
    start: Sequence[Any],
    score: Callable[[list[Any]], np.ndarray],
    vary: Callable[[np.random.Generator, Any, Any], Any],
    calls: int,
) -> Found:
    """Varies the survivors of parents and children until so many genomes are scored.

    Args:
      rng: of all that is drawn.
      start: the first population; all later ones are of its size.
      score: of genomes, their points, [n, d], maximised.
      vary: a child of two parents.
      calls: genomes to score, those of `start` among them.
    """
    size = len(start)
    if size < 2 or calls < size:
        raise UserError(f"a population of {size} and {calls} reward calls: use 2 or more, and at least as many calls")
    genomes, points = list(start), np.asarray(score(list(start)), np.float64)
    population = survivors(points, size, _repeated(genomes))
    while len(genomes) < calls:
        children = []
        for _ in range(min(size, calls - len(genomes))):
            # Tournaments of two; the population is sorted, so that the lower place wins.
            places = rng.integers(0, size, (2, 2)).min(1)
            children.append(vary(rng, *(genomes[population[place]] for place in places)))
        rows = np.arange(len(genomes), len(genomes) + len(children))
        genomes += children
        points = np.concatenate([points, score(children)])
        both = np.concatenate([population, rows])
        population = both[survivors(points[both], size, _repeated([genomes[row] for row in both]))]
    return Found(genomes, points, population)


def vary_integers(low: int, high: int, rate: float) -> Callable[[np.random.Generator, Any, Any], np.ndarray]:
    """A `vary` for arrays of integers in [low, high): each place is of either parent, or new with the chance `rate`."""

    def vary(rng, one, two):
        child = np.where(rng.random(np.shape(one)) < 0.5, one, two)
        return np.where(rng.random(child.shape) < rate, rng.integers(low, high, child.shape), child)

    return vary
