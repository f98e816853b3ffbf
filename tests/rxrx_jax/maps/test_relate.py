"""Cosines by block against the whole square, ranks against a sort, and comparison by counts against pairs."""

import numpy as np
import pytest
from scipy import stats

from rxrx_jax.base.errors import UserError
from rxrx_jax.maps import relate, statistics


@pytest.fixture(scope="module")
def u():
    random = np.random.default_rng(0)
    x = random.integers(-1, 2, (70, 4)).astype(float)
    x[(x == 0).all(1)] = 1
    return relate.unit(x)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(relate.blocks, "__defaults__", (None, 16))


def test_all_pairs_and_chosen_ones(u):
    square = u @ u.T
    i, j = np.array([3, 69, 0, 40]), np.array([60, 2, 1, 41])
    values, chosen = relate.all_pairs(u, (i, j))
    np.testing.assert_allclose(values, square[np.triu_indices(70, 1)], rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(chosen, square[i, j], rtol=1e-12, atol=1e-15)
    assert np.isin(chosen, values).all()  # the same numbers, so that ties are ties
    np.testing.assert_allclose(relate.of_pairs(u, u, i, j), square[i, j])
    ordered = np.sort(values)
    np.testing.assert_array_equal(relate.order_statistics(values, [7, 2000, 7]), ordered[[7, 2000, 7]])
    shares = relate.percentiles(values, np.array([-2.0, ordered[0], 2.0]))
    assert shares[0] == 0 and shares[2] == 1 and shares[1] == (ordered == ordered[0]).mean() / 2


@pytest.mark.parametrize("margin", [0.03, 0.2, 1.0, "wrong"])
def test_ranks_of_pairs_without_keeping_all(monkeypatch, margin):
    """Of maps with ties and without, whether the sample was right, kept everything or was wrong."""
    if margin == "wrong":
        monkeypatch.setattr(relate, "_near", lambda *given: np.array([[-0.1, 0.1], [0.3, 0.4]]))
        margin = 0.0
    monkeypatch.setattr(relate, "FEW", 100)
    monkeypatch.setattr(relate, "SAMPLE", 40)
    monkeypatch.setattr(relate, "MARGIN", margin)
    random = np.random.default_rng(1)
    i, j = np.array([3, 149, 0, 40, 70]), np.array([60, 2, 1, 41, 3])
    for x in (random.normal(size=(150, 9)), random.integers(-1, 2, (150, 4)) + [0.5, 0, 0, 0]):
        values, chosen = relate.all_pairs(relate.unit(x), (i, j))
        ranks = [0, 558, 559, 560, 5000, 10_616, len(values) - 1]
        found, queries = relate.order_statistics_of_pairs(relate.unit(x), ranks, (i, j))
        np.testing.assert_array_equal(found, np.sort(values)[ranks])
        np.testing.assert_array_equal(queries, chosen)


def test_most_cosines_are_counted_and_not_kept(monkeypatch):
    monkeypatch.setattr(relate, "FEW", 100)
    monkeypatch.setattr(relate, "all_pairs", None)
    u = relate.unit(np.random.default_rng(2).normal(size=(300, 9)))
    relate.order_statistics_of_pairs(u, [2242, 42_607], (np.array([0]), np.array([1])))
    _, kept, _ = relate._kept(u, relate._near(u, np.array([2242, 42_607]), 44_850), (np.array([0]), np.array([1])))
    assert sum(map(len, kept)) < 0.16 * 44_850


@pytest.mark.parametrize("k", [3, 60, 500])
def test_top(u, k):
    square = u @ u.T
    np.fill_diagonal(square, -np.inf)
    indices, cosines = relate.top(u, u, k, same=True)
    assert indices.shape == (70, min(k, 69)) and (indices != np.arange(70)[:, None]).all()
    np.testing.assert_allclose(cosines, -np.sort(-square, axis=1)[:, : min(k, 69)], atol=1e-15)
    np.testing.assert_allclose(np.take_along_axis(square, indices, 1), cosines, atol=1e-15)
    others, _ = relate.top(u[:5], u, 2)
    assert others.shape == (5, 2)


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_a_row_without_direction_is_named(value):
    x = np.ones((3, 2))
    x[1] = value
    with pytest.raises(UserError, match="^TP53 is zero or not finite"):
        relate.unit(x, ["MYC", "TP53", "SRC"].__getitem__)


def by_pairs(x, y):
    """Brunner and Munzel's statistic from every pair of values."""
    wins = (x[:, None] > y) + 0.5 * (x[:, None] == y)
    u, v = wins.sum(1), (1 - wins).sum(0)
    p = wins.mean()
    return p, (p - 0.5) / np.sqrt(u.var(ddof=1) / len(y) ** 2 / len(x) + v.var(ddof=1) / len(x) ** 2 / len(y))


@pytest.mark.parametrize("values", [None, 4, 1])
def test_comparison_of_ranks(values):
    random = np.random.default_rng(1)
    x, y = (random.normal(size=n) if values is None else random.integers(0, values, n).astype(float) for n in (40, 55))
    found = statistics.compare(x, y)
    if values == 1:
        assert found.probability == 0.5 and found.statistic == 0
        return
    np.testing.assert_allclose(found[:2], by_pairs(x, y), rtol=1e-12)
    assert statistics.compare(np.ones(1), y).probability != statistics.compare(np.ones(1), y).probability  # NaN
    apart = statistics.compare(np.arange(3) + 10.0, np.arange(4.0))
    assert apart.probability == 1 and apart.statistic == np.inf and apart.p_value == 0


def test_p_values_count_finite_nulls_alone():
    null, found = np.array([0.1, 0.5, np.nan, 0.9]), np.array([0.95, 0.5, 0.0, np.nan])
    np.testing.assert_array_equal(statistics.p_values(null, found), [0.25, 0.75, 1, np.nan])
    assert np.isnan(statistics.p_values(np.array([np.nan]), found)).all()
    # The published one counts a NaN as the largest of the null: nothing is ever beyond it.
    np.testing.assert_allclose(statistics.published_p_values(null, found, "right"), [0.25, 0.5, 1, np.nan])
    assert statistics.published_p_values(null[~np.isnan(null)], found, "right")[0] == 0


def test_false_discovery_of_finite_values():
    p = np.array([0.01, np.nan, 0.04, 0.03])
    np.testing.assert_allclose(statistics.false_discovery(p), [0.03, np.nan, 0.04, 0.04])
    assert np.isnan(statistics.false_discovery(p[1:2])).all()


def test_students_interval_of_a_mean_is_scipys():
    values = [0.1, 0.4, 0.35, 0.8]
    expected = stats.ttest_1samp(values, 0).confidence_interval()
    assert statistics.interval_of_mean(values) == pytest.approx(tuple(expected))
    assert np.isnan(statistics.interval_of_mean([0.3])).all()


def test_the_bootstrap_draws_genes():
    """All pairs of one hub: the interval is that of one gene, however many pairs it has."""
    i, j = np.zeros(300, int), np.arange(1, 301)
    hits = (np.arange(300) < 150)[:, None]
    low, high = statistics.bootstrap_pairs(hits, i, j, 301, seed=0, draws=400)
    share = np.random.default_rng(0).binomial(300, 0.5, 4000) / 300
    assert low[0] == pytest.approx(np.quantile(share, 0.025), abs=0.03)
    assert high[0] == pytest.approx(np.quantile(share, 0.975), abs=0.03)
    again = statistics.bootstrap_pairs(hits, i, j, 301, seed=0, draws=400)
    assert (low, high) == again


@pytest.mark.parametrize("total, size, number", [(5, 2, 10), (5, 5, 1), (6, 5, 6)])
def test_draws_of_distinct_numbers(total, size, number):
    found = statistics.distinct(np.random.default_rng(0), total, size, 500 * number)
    sets, count = np.unique(found, axis=0, return_counts=True)
    assert len(sets) == number and (np.diff(sets) > 0).all() and 400 < count.min() and count.max() < 600


def test_groups_by_size():
    found = statistics.by_size(np.array([2, 0, 2, 1, 0]), least=2)
    ((groups, rows),) = found
    assert groups.tolist() == [0, 2] and rows.tolist() == [[1, 4], [0, 2]]
