"""Replicates become one row per group, each by an independent formula."""

import numpy as np
import pytest
import scipy.stats

from rxrx_jax.maps.build.aggregate import HOW, aggregate


@pytest.fixture(scope="module")
def wells():
    random = np.random.default_rng(0)
    codes = random.permutation(np.repeat(np.arange(6), [1, 2, 3, 12, 12, 25]))
    return random.normal(size=(len(codes), 7)).astype(np.float32), codes


def by_weight(part):
    if len(part) == 1:
        return part[0]
    correlation = scipy.stats.spearmanr(part, axis=1).statistic
    correlation = np.atleast_2d(correlation if np.ndim(correlation) else [[1, correlation], [correlation, 1]])
    weight = np.maximum((correlation.sum(1) - 1) / (len(part) - 1), 0.01)
    return (weight / weight.sum()) @ part


ONE = {
    "mean": lambda part: part.mean(0),
    "median": lambda part: np.median(part, axis=0),
    "trimmed": lambda part: np.sort(part, axis=0)[len(part) // 10 : len(part) - len(part) // 10].mean(0),
    "modz": by_weight,
}


@pytest.mark.parametrize("how", HOW)
def test_every_way(wells, how):
    x, codes = wells
    found, counts = aggregate(x, codes, how)
    assert counts.tolist() == [1, 2, 3, 12, 12, 25] and found.dtype == np.float64
    for g in range(6):
        np.testing.assert_allclose(found[g], ONE[how](x[codes == g].astype(float)), rtol=1e-6, atol=1e-9)


def test_modz_gives_little_weight_to_what_no_other_resembles():
    signal = np.arange(10.0)
    x = np.stack([signal, signal + 0.1, signal - 0.1, -signal])
    found, _ = aggregate(x, np.zeros(4, int), "modz")
    assert np.corrcoef(found[0], signal)[0, 1] > 0.99 and np.abs(found[0] - signal).max() < 0.2
