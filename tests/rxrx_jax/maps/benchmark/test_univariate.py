"""Consistency and magnitude by their definitions; nulls of controls match, and p is uniform without an effect."""

import numpy as np
import pytest
import scipy.stats
from scipy.spatial.distance import cdist

from rxrx_jax.base.errors import UserError
from rxrx_jax.maps import relate, statistics
from rxrx_jax.maps.benchmark import univariate

PER, BATCHES = 6, 3


@pytest.fixture(scope="module")
def null_screen():
    """(x, codes, batch, controls): 60 perturbations without an effect, two replicates in each of three batches."""
    random = np.random.default_rng(0)
    codes = np.concatenate([np.repeat(np.arange(60), PER), -np.ones(90, int)])
    batch = np.concatenate([np.tile(np.repeat(np.arange(BATCHES), 2), 60), np.repeat(np.arange(BATCHES), 30)])
    x = random.normal(size=(450, 4)) + np.array([0.0, 1.5, 3.0])[batch][:, None]  # batches differ
    return x, codes, batch, np.arange(360, 450)


def test_consistency_is_the_mean_cosine_of_pairs():
    random = np.random.default_rng(1)
    codes = np.repeat(np.arange(4), [1, 2, 5, 5])
    x = random.normal(size=(13, 3)).astype(np.float32)
    found = univariate.consistency(x, codes)
    assert np.isnan(found[0])
    for g in (1, 2, 3):
        u = relate.unit(x[codes == g])
        assert found[g] == pytest.approx((u @ u.T)[np.triu_indices(len(u), 1)].mean(), rel=1e-12)
    order = random.permutation(16)  # wherever the rows lie, with three of no group among them
    mixed, of = np.concatenate([x, x[:3]])[order], np.concatenate([codes, [-1] * 3])[order]
    np.testing.assert_allclose(univariate.consistency(mixed, of), found, rtol=1e-6)
    assert univariate.consistency(np.ones((4, 3)), np.zeros(4, int))[0] == pytest.approx(1)


@pytest.mark.parametrize("r", [5, 6, 7])
def test_magnitude_is_the_energy_distance(r):
    random = np.random.default_rng(r)
    x = random.normal(size=(r + 24, 3)).astype(np.float32)
    codes = np.concatenate([np.zeros(r, int), np.ones(4, int), -np.ones(20, int)])
    reference = univariate.Reference(x, np.arange(r + 4, r + 24))
    found = univariate.magnitude(x, codes, reference)
    a, c = x[:r].astype(float), x[-20:].astype(float)
    assert found[0] == pytest.approx(2 * cdist(a, c).mean() - cdist(a, a).mean() - cdist(c, c).mean(), rel=1e-9)
    assert np.isnan(found[1])  # four replicates
    same = univariate.magnitude(
        np.tile(c, (2, 1)), np.repeat([0, -1], 20), univariate.Reference(np.tile(c, (2, 1)), np.arange(20, 40))
    )
    assert same[0] == pytest.approx(0, abs=1e-6)


def test_at_most_so_many_controls_and_the_same_each_time(null_screen):
    x, codes, _, controls = null_screen
    first, again, other = (univariate.Reference(x, controls, seed, most=20) for seed in (0, 0, 1))
    assert len(first.rows) == 20 and set(first.rows) <= set(controls)
    np.testing.assert_array_equal(univariate.magnitude(x, codes, first), univariate.magnitude(x, codes, again))
    assert set(first.rows) != set(other.rows)


def test_controls_are_drawn_to_match(null_screen):
    _, codes, batch, controls = null_screen
    drawn = univariate.matched_controls(codes, batch, controls, PER, 2000, seed=0)
    assert drawn.shape == (2000, PER) and np.isin(drawn, controls).all()
    np.testing.assert_array_equal(np.sort(batch[drawn], axis=1), np.tile([0, 0, 1, 1, 2, 2], (2000, 1)))
    assert min(len(set(row)) for row in drawn.tolist()) == PER
    counts = np.bincount(drawn.ravel(), minlength=450)[controls]
    assert scipy.stats.chisquare(counts).pvalue > 0.001


def test_every_control_of_a_batch_may_be_needed():
    codes, batch = np.array([0, 0, 0, -1, -1, -1]), np.zeros(6, int)
    drawn = univariate.matched_controls(codes, batch, np.array([3, 4, 5]), 3, 50, seed=0)
    assert all(set(row) == {3, 4, 5} for row in drawn.tolist())
    with pytest.raises(UserError, match="^batch A-07 has 2 controls, fewer than a perturbation has replicates there"):
        univariate.matched_controls(codes[:5], batch[:5], np.array([3, 4]), 3, 50, 0, ["A-07"])


def test_the_null_of_magnitude_by_its_definition(null_screen, monkeypatch):
    x, codes, batch, controls = null_screen
    drawn = univariate.matched_controls(codes, batch, controls, PER, 5, seed=0)
    reference = univariate.Reference(x, controls)
    found = univariate.null_magnitude(x, drawn, reference)
    c = x[controls]
    for one, value in zip(drawn, found):
        to_others = cdist(x[one], c).sum() / PER / (len(c) - 1)  # without its distance to itself, which is 0
        assert value == pytest.approx(2 * to_others - cdist(x[one], x[one]).mean() - cdist(c, c).mean())
    monkeypatch.setattr(univariate, "FEW", 0)
    np.testing.assert_allclose(univariate.null_magnitude(x, drawn, reference), found)


@pytest.mark.parametrize("metric", ["consistency", "magnitude"])
def test_without_an_effect_p_is_uniform(null_screen, metric):
    x, codes, batch, controls = null_screen
    drawn = univariate.matched_controls(codes, batch, controls, PER, 2000, seed=0)
    reference = univariate.Reference(x, controls)
    p = []
    for seed in range(5):
        y = x.copy()
        random = np.random.default_rng(100 + seed)
        y[:360] = random.normal(size=(360, 4)) + np.array([0.0, 1.5, 3.0])[batch[:360]][:, None]
        if metric == "consistency":
            null = univariate.null_consistency(relate.unit(y), drawn)
            found = univariate.consistency(y[:360], codes[:360])
        else:
            null, found = univariate.null_magnitude(y, drawn, reference), univariate.magnitude(y, codes, reference)
        p.append(statistics.p_values(null, found))
    p = np.concatenate(p)
    assert 0.3 < np.median(p) < 0.7 and (p <= 0.05).mean() < 0.12  # the same 90 controls make every null
