"""Average precision by hand and over all orders, its expectation, exact p-values, and chance without an effect."""

import itertools

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from rxrx_jax.maps import relate
from rxrx_jax.maps.benchmark import retrieval


def plain(order):
    place = np.flatnonzero(order)
    return ((np.arange(len(place)) + 1) / (place + 1)).mean()


def test_by_hand():
    assert retrieval.tied_average_precision(np.array([0.9, 0.8, 0.3, 0.2]), np.array([1, 0, 0, 1], bool)) == 0.75


@pytest.mark.parametrize("scores", [[1, 1, 1, 0], [2, 1, 1, 1], [1, 1, 0, 0], [3, 3, 3, 3], [4, 3, 2, 1]])
@pytest.mark.parametrize("hits", [[1, 0, 0, 1], [0, 1, 1, 0], [1, 0, 0, 0]])
def test_equal_scores_are_the_mean_over_their_orders(scores, hits):
    scores, hits = np.array(scores, float), np.array(hits, bool)
    orders = [list(o) for o in itertools.permutations(range(4)) if (np.diff(scores[list(o)]) <= 0).all()]
    expected = np.mean([plain(hits[order]) for order in orders])
    assert retrieval.tied_average_precision(scores, hits) == pytest.approx(expected)
    assert retrieval.of_scores(scores[hits], scores[~hits]) == pytest.approx(expected)


@pytest.mark.parametrize("relevant, ranked", [(1, 5), (2, 6), (4, 5), (3, 9)])
def test_the_expectation_is_the_mean_over_all_orders(relevant, ranked):
    values, exact = retrieval.null(relevant, ranked, 0)
    assert exact and retrieval.expected(np.array([relevant]), np.array([ranked]))[0] == pytest.approx(values.mean())


def test_exact_p_of_one_profile():
    """Both of two relevant profiles first among five: one of ten orders is as good."""
    rows = retrieval.mean_average_precision(np.array([1.0]), np.array([2]), np.array([5]), np.array([7]))
    assert rows == [{"group": 7, "profiles": 1, "map": 1.0, "normalised": 1.0, "p": 0.1, "fdr": 0.1}]


@pytest.fixture(scope="module")
def wells():
    random = np.random.default_rng(0)
    group = np.concatenate([np.repeat(np.arange(20), 6), -np.ones(60, int)])
    batch = np.arange(180) % 3
    x = random.normal(size=(180, 8))
    return (
        relate.unit(x),
        relate.unit(x + (group >= 10)[:, None] * random.normal(size=(21, 8))[group] * 3),
        group,
        batch,
    )


def test_an_effect_is_found_and_none_is_chance(wells):
    null, u, group, batch = wells
    result = retrieval.average_precision(u, group, batch, group < 0)
    rows = {row["group"]: row for row in retrieval.mean_average_precision(*result, group)}
    assert all(rows[g]["fdr"] < 0.05 for g in range(10, 20)) and min(rows[g]["p"] for g in range(10)) > 0.001
    result = retrieval.average_precision(null, group)
    assert abs(np.nanmean(retrieval.normalised(*result))) < 0.03
    assert (result[1][group >= 0] == 5).all() and (result[2][group >= 0] == 179).all()
    assert np.isnan(result[0][group < 0]).all()


def test_only_what_is_asked_and_apart_is_ranked(wells):
    _, u, group, batch = wells
    whole = retrieval.average_precision(u, group, batch)
    some = np.array([5, 90, 3])
    found = retrieval.average_precision(u, group, batch, queries=some)
    np.testing.assert_array_equal(np.flatnonzero(np.isfinite(found[0])), np.sort(some))
    np.testing.assert_array_equal(found[0][some], whole[0][some])
    i = 5
    use = batch != batch[i]
    expected = retrieval.tied_average_precision((u[use] @ u[i]), group[use] == group[i])
    assert whole[0][i] == pytest.approx(expected) and whole[2][i] == use.sum()


def test_nothing_relevant_and_all_relevant_have_no_value():
    u = relate.unit(np.random.default_rng(0).normal(size=(4, 3)))
    assert np.isnan(retrieval.average_precision(u, np.arange(4))[0]).all()
    assert np.isnan(retrieval.average_precision(u, np.zeros(4, int))[0]).all()
    assert (
        retrieval.mean_average_precision(np.full(4, np.nan), np.zeros(4, int), np.zeros(4, int), np.zeros(4, int)) == []
    )


def test_profiles_of_several_labels():
    """Each label by itself, against profiles that share none; another dose of one compound is not ranked."""
    random = np.random.default_rng(0)
    u = relate.unit(random.normal(size=(24, 5)))
    labels, compound = np.repeat(random.random((12, 4)) < 0.35, 2, axis=0), np.repeat(np.arange(12), 2)
    label, ap, relevant, ranked = retrieval.average_precision_by_label(u, labels, compound)
    expected, sizes = [], []
    for i in range(24):
        for k in np.flatnonzero(labels[i]):
            others = compound != compound[i]
            used = others & (labels[:, k] | ~(labels & labels[i]).any(1))
            expected.append(average_precision_score(labels[used, k], u[used] @ u[i]))
            sizes.append((k, (others & labels[:, k]).sum(), used.sum()))
    np.testing.assert_allclose(ap, expected, rtol=1e-12)
    assert np.array_equal(np.stack([label, relevant, ranked], 1), sizes)
    planted = relate.unit(labels @ np.eye(4, 5) + 0.01 * random.normal(size=(24, 5)) + 1e-6)
    found = retrieval.average_precision_by_label(planted, labels, compound)
    rows = retrieval.mean_average_precision(*found[1:], found[0])
    assert [row["group"] for row in rows] == [0, 1, 2, 3] and min(row["normalised"] for row in rows) > 0.5


def test_one_label_of_each_is_a_group():
    random = np.random.default_rng(1)
    u, group = relate.unit(random.normal(size=(40, 4))), random.integers(0, 5, 40)
    expected = retrieval.average_precision(u, group)
    found = retrieval.average_precision_by_label(u, np.eye(5, dtype=bool)[group], np.arange(40))
    for one, other in zip((group, *expected), found):
        np.testing.assert_allclose(other, one, rtol=1e-12)
