"""Metrics of Pareto fronts against pymoo (stored, and live where it is installed) and brute force."""

import importlib.util

import numpy as np
import pytest
from reference.peers.generate import pareto as pymoo

from rxrx_jax.base.errors import UserError
from rxrx_jax.generate import pareto


def ours(seed):
    points, reference = pymoo.points(seed)
    return [pareto.hypervolume(points), pareto.igd_plus(points, reference), pareto.gd_plus(points, reference)]


def test_hypervolume_and_distances_are_pymoos():
    with np.load(pymoo.PATH) as stored:
        np.testing.assert_allclose([ours(seed) for seed in range(pymoo.FRONTS)], stored["metrics"], rtol=0, atol=1e-9)


@pytest.mark.skipif(importlib.util.find_spec("pymoo") is None, reason="pymoo is not installed; its results are stored")
def test_they_are_pymoos_live():
    for seed in range(1000, 1000 + pymoo.FRONTS):
        np.testing.assert_allclose(ours(seed), pymoo.metrics(seed), rtol=0, atol=1e-9)


def test_hypervolume_is_the_share_of_a_fine_grid():
    """Of points on multiples of 1/8, the dominated cells of that grid are counted."""
    for d in (1, 2, 3, 4):
        points = np.random.default_rng(d).integers(0, 9, (12, d)) / 8
        cells = np.stack(np.meshgrid(*[np.arange(8)] * d, indexing="ij"), -1).reshape(-1, d) / 8
        dominated = (points[:, None] > cells).all(-1).any(0)
        assert pareto.hypervolume(points) == pytest.approx(dominated.mean(), abs=1e-12)
    assert pareto.hypervolume(np.array([[0.5, 0.0], [-1, 2]])) == 0 and pareto.constant([[0.5, 0], [1, 0]]) == [1]
    assert pareto.hypervolume(np.array([[0.5, 0.5], [-1, 2]])) == 0.25


def test_non_dominated_points_by_definition():
    for seed in range(40):
        points, _ = pymoo.points(seed)
        worse = (points[None] >= points[:, None]).all(-1) & (points[None] > points[:, None]).any(-1)
        np.testing.assert_array_equal(pareto.non_dominated(points), ~worse.any(1))
        np.testing.assert_array_equal(pareto.front(points), np.unique(points[~worse.any(1)], axis=0))


def test_r2_by_brute_force_does_not_change_with_the_number_of_weights():
    points, weights = pymoo.points(2)[0], pareto.simplex(3, 10)
    assert weights.shape == (66, 3) and len(np.unique(weights, axis=0)) == 66
    np.testing.assert_allclose(weights.sum(1), 1)
    total = sum(min(max(w * (1 - x) for w, x in zip(weight, point)) for point in points) for weight in weights)
    assert pareto.r2(points, weights) == pytest.approx(total / 66, abs=1e-15)
    assert pareto.r2_published(points, weights) == pytest.approx(total / np.sqrt((weights**2).sum()), abs=1e-14)
    twice = np.concatenate([weights, weights])
    assert pareto.r2(points, twice) == pytest.approx(pareto.r2(points, weights), abs=1e-15)
    assert pareto.r2_published(points, twice) == pytest.approx(2**0.5 * pareto.r2_published(points, weights))
    assert pareto.r2([[1, 1, 1]], weights) == 0 < pareto.r2([[1, 1, 0.9]], weights) < pareto.r2([[1, 1, 0.5]], weights)


def test_entropy_of_clusters():
    reference = np.array([[0, 1], [1, 0], [1, 1.0]])
    assert pareto.pc_entropy([[0, 0.9], [0.9, 0], [0.1, 1], [1, 0.1]], reference) == pytest.approx(np.log(2))
    assert pareto.pc_entropy([[0, 0.9], [0, 0.8]], reference) == 0
    limits = pareto.cube_limits(2, 10)
    assert limits.shape == (19, 2) and (limits == 1).any(1).all()


def test_distances_of_strings_and_their_mean():
    def slow(a, b):
        if not len(a) or not len(b):
            return len(a) + len(b)
        return min(slow(a[1:], b) + 1, slow(a, b[1:]) + 1, slow(a[1:], b[1:]) + (a[0] != b[0]))

    random = np.random.default_rng(0)
    strings, lengths = random.integers(0, 3, (8, 5)), np.array([0, 1, 2, 3, 4, 5, 5, 4])
    parts = [tuple(one[:n]) for one, n in zip(strings, lengths)]
    np.testing.assert_array_equal(pareto.levenshtein(strings, lengths), [[slow(a, b) for b in parts] for a in parts])
    whole = [[slow(tuple(a), tuple(b)) for b in strings] for a in strings]
    np.testing.assert_array_equal(pareto.levenshtein(strings), whole)
    alike = np.array([[1, 1 / 4, 0], [1 / 4, 1, 0], [0, 0, 1]])
    assert pareto.diversity(1 - alike) == pytest.approx((3 / 4 + 1 + 1) / 3)
    assert pareto.diversity(np.zeros((1, 1))) == 0


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (np.empty((0, 2)), "the front is empty"),
        (np.ones((3, 5)), "hypervolume of 5 objectives: at most 4; choose 4 of them, or compare R2 and IGD"),
        ([[0, 1], [0.5, np.nan]], "nan in row 1, objective 1"),
        ([[0, np.inf]], "inf in row 0, objective 1"),
        ([0.5, 0.5], "shape"),
    ],
)
def test_bad_input(points, message):
    with pytest.raises(UserError, match=message):
        pareto.hypervolume(np.array(points))
    with pytest.raises(UserError, match="2 objectives and the reference front 3"):
        pareto.igd_plus(np.ones((1, 2)), np.ones((1, 3)))
    with pytest.raises(UserError, match="weights"):
        pareto.simplex(0)
