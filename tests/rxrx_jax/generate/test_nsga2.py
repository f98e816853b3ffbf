"""NSGA-II against pymoo, stored and live, and on a problem whose front is known."""

import importlib.util

import numpy as np
import pytest
from reference.peers.generate import pareto as pymoo

from rxrx_jax.base.errors import UserError
from rxrx_jax.generate import nsga2, pareto


def compare(seed, ranks, crowding):
    points = np.random.default_rng(seed).random((30, 1 + seed % 3))
    found = nsga2.ranks(points)
    np.testing.assert_array_equal(found, ranks)
    for rank in range(found.max() + 1):
        rows = found == rank
        # pymoo has the mean over objectives
        np.testing.assert_allclose(nsga2.crowding(points[rows]) / points.shape[1], crowding[rows], atol=1e-12)
    order = nsga2.survivors(points, 30)
    assert (np.diff(found[order]) >= 0).all() and set(order) == set(range(30))
    same_rank = np.diff(found[order]) == 0
    assert (crowding[order][:-1] >= crowding[order][1:] - 1e-12)[same_rank].all()


def test_ranks_and_crowding_are_pymoos():
    with np.load(pymoo.PATH) as stored:
        for seed, (ranks, crowding) in enumerate(zip(stored["ranks"], stored["crowding"])):
            compare(seed, ranks, crowding)


@pytest.mark.skipif(importlib.util.find_spec("pymoo") is None, reason="pymoo is not installed; its results are stored")
def test_they_are_pymoos_live():
    for seed in range(1000, 1050):
        compare(seed, *pymoo.sort(seed))


def test_equal_points_are_crowded():
    assert nsga2.crowding([[0, 1], [0, 1], [1, 0], [0.5, 0.5]]).tolist() == [np.inf, 0, np.inf, 2]
    assert nsga2.crowding([[0.5, 0.5]] * 3).tolist() == [np.inf, 0, 0]


def leading_and_trailing(strings):
    """The leading ones and the trailing zeros of bits, in shares: their sum is 1 on the front."""
    bits = np.array(strings)
    return np.stack([np.cumprod(bits, 1).sum(1), np.cumprod(1 - bits[:, ::-1], 1).sum(1)], 1) / bits.shape[1]


def test_it_finds_a_known_front():
    """Leading ones and trailing zeros of 16 bits."""
    random = np.random.default_rng(0)
    start = list(random.integers(0, 2, (40, 16)))
    found = nsga2.search(np.random.default_rng(1), start, leading_and_trailing, nsga2.vary_integers(0, 2, 1 / 16), 3000)
    assert len(found.genomes) == len(found.points) == 3000 and len(found.population) == 40
    np.testing.assert_array_equal(leading_and_trailing(found.genomes), found.points)
    steps = np.arange(17) / 16
    best = pareto.hypervolume(np.stack([steps, 1 - steps], 1))
    by_chance = pareto.hypervolume(leading_and_trailing(random.integers(0, 2, (3000, 16))))
    assert pareto.hypervolume(found.points[found.population]) > 0.95 * best > 1.3 * by_chance
    again = nsga2.search(np.random.default_rng(1), start, leading_and_trailing, nsga2.vary_integers(0, 2, 1 / 16), 3000)
    np.testing.assert_array_equal(again.points, found.points)


def test_one_objective_keeps_the_best():
    score = lambda strings: np.array(strings).mean(1, keepdims=True)  # noqa: E731
    start = list(np.random.default_rng(0).integers(0, 2, (20, 16)))
    found = nsga2.search(np.random.default_rng(1), start, score, nsga2.vary_integers(0, 2, 1 / 16), 1000)
    assert found.points.max() == 1 and found.points[found.population].min() > 0.8
    with pytest.raises(UserError, match="population of 20 and 10 reward calls"):
        nsga2.search(np.random.default_rng(1), start, score, nsga2.vary_integers(0, 2, 1 / 16), 10)
