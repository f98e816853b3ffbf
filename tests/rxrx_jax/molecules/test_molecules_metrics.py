"""Metrics are those of scikit-learn and SciPy; what is undefined is named with its reason, and is not 0."""

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as theirs

from rxrx_jax.base.errors import UserError
from rxrx_jax.molecules import metrics

rng = np.random.default_rng(0)
Y, P = rng.normal(size=80).round(1), rng.normal(size=80).round(1)  # with ties
C = (rng.random(80) < 0.2).astype(float)
EXPECTED = {
    "mae": theirs.mean_absolute_error(Y, P),
    "rmse": theirs.root_mean_squared_error(Y, P),
    "spearman": stats.spearmanr(Y, P).statistic,
    "auroc": theirs.roc_auc_score(C, P),
    "auprc": theirs.average_precision_score(C, P),
}


@pytest.mark.parametrize("name", metrics.METRICS)
def test_a_metric_is_the_libraries_with_missing_values_left_out(name):
    truth = C if name in metrics.CLASSIFICATION else Y
    assert metrics.score(name, truth, P) == pytest.approx(EXPECTED[name], abs=1e-12)
    with_gaps = np.concatenate([truth, [np.nan, np.nan]])
    assert metrics.score(name, with_gaps, np.append(P, [9, np.nan])) == pytest.approx(EXPECTED[name], abs=1e-12)


@pytest.mark.parametrize(
    ("name", "truth", "predicted", "reason"),
    [
        ("mae", [np.nan], [1], "no value is known"),
        ("auroc", [], [], "no value is known"),
        ("mae", [1, 2], [1, np.nan], "1 of 2 predictions are NaN or infinite"),
        ("auroc", [1, 1], [1, 2], "every value is 1"),
        ("auprc", [0, 0, np.nan], [1, 2, 3], "every value is 0"),
        ("auroc", [0, 2], [1, 2], "a value of 2 is neither 0 nor 1"),
        ("spearman", [3, 3], [1, 2], "every value is the same"),
        ("spearman", [1, 2], [3, 3], "every prediction is the same"),
        ("spearman", [1], [2], "one value alone is known"),
    ],
)
def test_what_is_undefined_is_named(name, truth, predicted, reason):
    with pytest.raises(metrics.Undefined, match=reason):
        metrics.score(name, np.array(truth, float), np.array(predicted, float))


def test_of_several_targets():
    truth = np.stack([C, np.zeros(80), np.full(80, np.nan)], 1)
    found = metrics.scores("auroc", truth, np.stack([P, P, P], 1), ("a", "b", "c"))
    assert found.values == {"a": pytest.approx(EXPECTED["auroc"])} and found.mean == found.values["a"]
    assert found.undefined == {"b": "every value is 0", "c": "no value is known"}
    assert np.isnan(metrics.scores("auroc", truth[:, 1:], truth[:, 1:], ("b", "c")).mean)


def test_an_unknown_metric():
    with pytest.raises(UserError, match="metric='r2': expected mae"):
        metrics.score("r2", Y, P)


def test_the_admet_tasks():
    assert len(metrics.ADMET) == 22 and set(metrics.ADMET.values()) == {"mae", "auroc", "auprc", "spearman"}
    assert set(metrics.METRICS) == metrics.HIGHER_IS_BETTER.keys()
