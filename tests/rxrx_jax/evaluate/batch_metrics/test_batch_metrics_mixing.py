"""LISI and kBET by hand, and what they say of batches that are mixed, apart, or too few to tell."""

import math

import numpy as np
import pytest
from scipy.stats import chi2

from rxrx_jax.evaluate.batch_metrics import mixing
from rxrx_jax.evaluate.batch_metrics.mixing import Neighbours


def test_the_nearest_are_the_nearest_and_each_is_its_own_first():
    x = np.random.default_rng(0).normal(size=(50, 7)) + 1000  # far from 0, where squares lose digits
    x[7] = x[31]
    near = mixing.nearest(x, 10)
    distance = np.linalg.norm(x[:, None] - x, axis=2)
    assert (near.index[:, 0] == np.arange(50)).all() and (near.distance[:, 0] == 0).all()
    np.testing.assert_allclose(near.distance, np.sort(distance, 1)[:, :10], atol=1e-6)
    np.testing.assert_allclose(np.take_along_axis(distance, near.index, 1), near.distance, atol=1e-6)
    assert near.index[7, 1] == 31 and near.index[31, 1] == 7
    assert mixing.nearest(x[:4], 10).index.shape == (4, 4)  # of fewer, all


def ring(labels, distance=None):
    """Neighbours of one row: itself, and one of each of these labels from the second on."""
    n = len(labels)
    distance = np.ones((1, n)) if distance is None else distance
    return Neighbours(np.arange(n)[None], np.concatenate([[[0.0]], distance[:, 1:]], 1))


def test_equally_far_neighbours_count_alike():
    """Six of one label and two of another: 1 / (.75^2 + .25^2). The row itself does not count."""
    labels = np.array([9] + [0] * 6 + [1] * 2)
    assert mixing.lisi(ring(labels), labels)[0] == pytest.approx(1 / (0.75**2 + 0.25**2))
    assert mixing.lisi(ring(labels), np.zeros(9))[0] == pytest.approx(1)


def test_weights_have_the_perplexity():
    random = np.random.default_rng(0)
    distance = np.sort(random.exponential(size=(40, 89)), 1) * np.logspace(-6, 6, 40)[:, None]
    weights = mixing._weights(distance, math.log(30))
    np.testing.assert_allclose(weights.sum(1), 1)
    np.testing.assert_allclose(np.exp(-(weights * np.log(np.maximum(weights, 1e-300))).sum(1)), 30, rtol=2e-5)
    assert (np.diff(weights, axis=1) <= 0).all()  # the nearer the more
    assert np.isfinite(mixing._weights(np.zeros((1, 89)), math.log(30))).all()  # all at one place


@pytest.fixture(scope="module")
def clouds():
    """(x [300, 5] of one cloud, the same with three batches far apart, batch [300])."""
    x = np.random.default_rng(0).normal(size=(300, 5))
    batch = np.arange(300) % 3
    return x, x + 100 * np.eye(5)[batch], batch


def test_lisi_of_mixed_and_of_separate_batches(clouds):
    mixed, apart, batch = clouds
    for x, low, high in ((mixed, 0.8, 1), (apart, 0, 1e-9)):
        near = mixing.nearest(x)
        assert low <= mixing.ilisi(near, batch) <= high
        assert mixing.clisi(near, batch) == pytest.approx(1 - mixing.ilisi(near, batch))
    assert math.isnan(mixing.ilisi(near, np.zeros(300))) and math.isnan(mixing.clisi(near, np.zeros(300)))


def test_kbet_by_hand():
    """Of six rows in batches 0 0 0 0 1 1, three neighbours: 2 and 1 are expected, and 3 and 0, 1 and 2, 0 and 3 are
    found."""
    batch = np.array([0, 0, 0, 0, 1, 1])
    index = np.array([[0, 1, 2]] * 4 + [[3, 4, 5]] * 2)
    p = [chi2.sf((3 - 2) ** 2 / 2 + (0 - 1) ** 2 / 1, 1), chi2.sf((1 - 2) ** 2 / 2 + (2 - 1) ** 2 / 1, 1)]
    near = Neighbours(index, np.zeros((6, 3)))
    assert p == pytest.approx([0.2207, 0.2207], abs=1e-4)
    assert mixing.accepted(near, batch, alpha=0.22) == 1 and mixing.accepted(near, batch, alpha=0.23) == 0
    index[4:] = [4, 5, 5]  # as if all were of batch 1: 2 + 4
    assert mixing.accepted(Neighbours(index, near.distance), batch) == pytest.approx(4 / 6)


def test_kbet_of_mixed_and_of_separate_batches(clouds):
    mixed, apart, batch = clouds
    label = np.arange(300) // 100
    assert mixing.kbet(mixed, batch, label) > 0.9 and mixing.kbet(apart, batch, label) == 0


def test_labels_that_kbet_cannot_judge_are_left_out(clouds):
    _, apart, batch = clouds
    few = np.where(np.arange(300) < 18, 1, 0)  # half of 18 wells are too few
    assert mixing.kbet(apart, batch, few) == 0 == mixing.kbet(apart, batch, few * 0)
    assert math.isnan(mixing.kbet(apart[:18], batch[:18], few[:18]))
    assert math.isnan(mixing.kbet(apart, batch, batch))  # each label in one batch
    assert math.isnan(mixing.kbet(apart[:30], np.arange(30), np.zeros(30)))  # a batch for each well
