"""The probes' logistic regression against scikit-learn and its own optimum."""

import numpy as np
import pytest
import scipy.optimize
from sklearn.linear_model import LogisticRegression

from rxrx_jax.base.errors import UserError
from rxrx_jax.evaluate.linear import absent, fit_linear, log_probabilities


@pytest.fixture(scope="module")
def data():
    random = np.random.default_rng(0)
    labels = random.integers(0, 4, 300)
    centres = random.normal(size=(4, 5)) * [1, 1, 1, 30, 0.01]
    features = centres[labels] + random.normal(size=(300, 5)) * [1, 1, 1, 30, 0.01] + 5
    return features.astype(np.float32), labels


def test_as_scikit_learn_on_standardised_features(data):
    features, labels = data
    x = features.astype(np.float64)
    x = (x - x.mean(0)) / x.std(0)
    expected = LogisticRegression(C=1.0, max_iter=300).fit(x, labels)
    model = fit_linear(features, labels)
    np.testing.assert_array_equal(model.predict(features.astype(np.float64)), expected.predict(x))
    found = log_probabilities(model, features, 4)
    np.testing.assert_allclose(np.exp(found), expected.predict_proba(x), rtol=1e-6)
    np.testing.assert_allclose(np.exp(found).sum(1), 1)


def test_it_is_the_minimum_of_the_penalised_loss(data):
    """Sum of cross-entropies + |W|^2 / 2, no penalty on the offsets: minimised here by another algorithm."""
    features, labels = data
    x = features.astype(np.float64)
    x = (x - x.mean(0)) / x.std(0)

    def loss(flat):
        w, b = flat[:20].reshape(5, 4), flat[20:]
        logits = x @ w + b
        log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        error = np.exp(log_p) - np.eye(4)[labels]
        value = -log_p[np.arange(300), labels].sum() + (w**2).sum() / 2
        return value, np.concatenate([(x.T @ error + w).ravel(), error.sum(0)])

    best = scipy.optimize.minimize(loss, np.zeros(24), jac=True, method="BFGS", options={"gtol": 1e-6}).x
    logits = x @ best[:20].reshape(5, 4) + best[20:]
    expected = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    found = log_probabilities(fit_linear(features, labels), features, 4)
    np.testing.assert_allclose(found, expected, atol=0.02)


def test_the_scale_of_a_feature_does_not_matter(data):
    features, labels = data
    found = log_probabilities(fit_linear(features, labels), features, 4)
    other = features * np.array([1000, 1, 0.001, 1, 1], np.float32) + np.float32(7)
    np.testing.assert_allclose(log_probabilities(fit_linear(other, labels), other, 4), found, atol=0.02)


def test_a_class_that_the_fit_never_saw(data):
    features, labels = data
    seen = labels != 2
    found = log_probabilities(fit_linear(features[seen], labels[seen]), features, 6)
    assert found.shape == (300, 6)
    assert (found[:, [2, 4, 5]] == -np.inf).all() and np.isfinite(found[:, [0, 1, 3]]).all()


def test_two_classes(data):
    features, labels = data
    two = labels < 2
    found = log_probabilities(fit_linear(features[two], labels[two]), features[two], 2)
    np.testing.assert_allclose(np.exp(found).sum(1), 1)
    assert (found.argmax(1) == labels[two]).mean() > 0.8


def test_too_few_iterations_are_no_warning(data):
    features, labels = data
    assert np.isfinite(log_probabilities(fit_linear(features, labels, iterations=1), features, 4)).all()


def test_one_class_is_refused():
    with pytest.raises(UserError, match="two classes"):
        fit_linear(np.zeros((3, 2)), np.zeros(3, int))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_features_that_are_not_finite_are_refused(data, value):
    features, labels = data
    model, broken = fit_linear(features, labels), features.copy()
    broken[[3, 9], 1] = value
    for refused in (lambda: fit_linear(broken, labels), lambda: log_probabilities(model, broken, 4)):
        with pytest.raises(UserError, match="^2 embeddings hold NaN or infinite values: embed again$"):
            refused()


def test_classes_that_are_absent_from_training_are_counted():
    assert absent(np.array([0, 1, 1]), np.array([1, 2, 2, 5, -1])) == {"absent_classes": 2, "absent_sites": 3}
    assert absent(np.array([0, 1]), np.array([1, -1])) == {}
