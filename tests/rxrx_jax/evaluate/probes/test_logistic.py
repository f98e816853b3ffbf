"""The probes' logistic regression against scikit-learn, its own optimum and the criterion it stops by."""

import numpy as np
import pytest
import scipy.optimize
import scipy.special
from sklearn.linear_model import LogisticRegression

from rxrx_jax.base.errors import UserError
from rxrx_jax.evaluate.probes import logistic


@pytest.fixture(scope="module")
def data():
    random = np.random.default_rng(0)
    labels = random.integers(0, 4, 300)
    centres = random.normal(size=(4, 5)) * [1, 1, 1, 30, 0.01]
    features = centres[labels] + random.normal(size=(300, 5)) * [1, 1, 1, 30, 0.01] + 5
    return features.astype(np.float32), labels


@pytest.fixture(scope="module")
def fitted(data):
    return logistic.fit(*data)


def standardised(features):
    x = features.astype(np.float64)
    return (x - x.mean(0)) / x.std(0)


def loss_and_gradient(flat, x, labels, strength):
    """Of the mean loss over rows x [n, d], weights and offsets in one vector."""
    k, n = labels.max() + 1, len(x)
    w, b = flat[: x.shape[1] * k].reshape(-1, k), flat[x.shape[1] * k :]
    logits = x @ w + b
    log_p = logits - scipy.special.logsumexp(logits, 1, keepdims=True)
    error = np.exp(log_p) - np.eye(k)[labels]
    value = -log_p[np.arange(n), labels].sum() + (w**2).sum() / (2 * strength)
    return value / n, np.concatenate([(x.T @ error + w / strength).ravel(), error.sum(0)]) / n


@pytest.mark.parametrize("strength", [1e-3, 1.0, 1e2])
def test_probabilities_are_scikit_learns_within_1e_4(data, strength):
    features, labels = data
    x = standardised(features)
    expected = LogisticRegression(C=strength, tol=1e-8, max_iter=5000).fit(x, labels)
    model = logistic.fit(features, labels, strength, tolerance=1e-6)
    assert model.converged and model.strength == strength
    found = np.exp(model.log_probabilities(features, 4))
    np.testing.assert_allclose(found, expected.predict_proba(x), atol=1e-4)
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-6)
    assert (model.predict(features) == found.argmax(1)).all()


def test_correlated_features_and_many_classes_are_scikit_learns_too():
    random = np.random.default_rng(1)
    labels = random.integers(0, 19, 500)
    mix = random.normal(size=(30, 30)) * (1 + np.arange(30))[:, None] ** -1.5
    features = (random.normal(size=(19, 30))[labels] + random.normal(size=(500, 30))) @ mix
    model = logistic.fit(features, labels, tolerance=1e-6)
    x = standardised(features)
    expected = LogisticRegression(tol=1e-9, max_iter=9000).fit(x, labels).predict_proba(x)
    np.testing.assert_allclose(np.exp(model.log_probabilities(features, 19)), expected, atol=1e-4)


def test_many_classes_are_scikit_learns_in_few_steps(monkeypatch):
    """The rows of a class pull its weights towards their mean alone, which is scaled from 64 classes on."""
    random = np.random.default_rng(2)
    labels = np.arange(720) % 72
    features = 2 * random.normal(size=(72, 40))[labels] + random.normal(size=(720, 40))
    model = logistic.fit(features, labels, tolerance=1e-6)
    x = standardised(features)
    expected = LogisticRegression(tol=1e-9, max_iter=9000).fit(x, labels).predict_proba(x)
    np.testing.assert_allclose(np.exp(model.log_probabilities(features, 72)), expected, atol=1e-4)
    monkeypatch.setattr(logistic, "MANY", 100)
    assert model.converged and model.steps < logistic.fit(features, labels, tolerance=1e-6).steps


def test_it_is_the_minimum_of_the_penalised_loss(data):
    """Mean cross-entropy + |W|^2 / (2 C n), no penalty on the offsets: minimised here by another algorithm."""
    features, labels = data
    x = standardised(features)
    given = dict(args=(x, labels, 1.0), jac=True, method="BFGS", options={"gtol": 1e-8})
    best = scipy.optimize.minimize(loss_and_gradient, np.zeros(24), **given).x
    logits = x @ best[:20].reshape(5, 4) + best[20:]
    expected = logits - scipy.special.logsumexp(logits, 1, keepdims=True)
    found = logistic.fit(features, labels, tolerance=1e-6).log_probabilities(features, 4)
    np.testing.assert_allclose(found, expected, atol=2e-3)


def test_it_stops_by_the_gradient_of_the_standardised_features(data, fitted):
    """The gradient that it says it ended at, computed again in float64, is under 1e-4; and that of an earlier end is
    not."""
    features, labels = data
    for model in (fitted, logistic.fit(features, labels, tolerance=0.02)):
        flat = np.concatenate([model.weights[:-1].ravel(), model.weights[-1]]).astype(np.float64)
        gradient = np.abs(loss_and_gradient(flat, standardised(features), labels, 1.0)[1]).max()
        assert model.gradient == pytest.approx(gradient, abs=1e-6)
    assert fitted.converged and fitted.gradient < 1e-4 < model.gradient < 0.02


def test_a_fit_that_did_not_converge_says_so(data, monkeypatch):
    lost = logistic.fit(*data, tolerance=0.0)  # float32 has no such gradient: it stops where nothing moves
    assert not lost.converged and lost.gradient < 1e-4
    monkeypatch.setattr(logistic, "STEPS", 2)
    cut = logistic.fit(*data)
    assert not cut.converged and cut.steps == 2 and cut.gradient >= 1e-4


def test_the_scale_of_a_feature_and_the_chunks_do_not_matter(data, fitted, monkeypatch):
    features, labels = data
    found = logistic.fit(features, labels, tolerance=1e-6).log_probabilities(features, 4)
    other = features * np.array([1000, 1, 0.001, 1, 1], np.float32) + np.float32(7)
    again = logistic.fit(other, labels, tolerance=1e-6).log_probabilities(other, 4)
    np.testing.assert_allclose(again, found, atol=5e-3)  # 7 and a thousandth, in float32
    monkeypatch.setattr(logistic, "CHUNK", 64)
    again = logistic.fit(features, labels, tolerance=1e-6).log_probabilities(features, 4)
    np.testing.assert_allclose(again, found, atol=1e-3)


def test_constant_and_doubled_features_change_little(data, fitted):
    features, labels = data
    more = np.concatenate([features, np.full((300, 1), 0.3, np.float32)], 1)
    found = logistic.fit(more, labels)
    np.testing.assert_allclose(found.log_probabilities(more, 4), fitted.log_probabilities(features, 4), atol=0.02)
    twice = np.concatenate([features, features], 1)
    found = logistic.fit(twice, labels, 0.5, tolerance=1e-6)  # half of each weight has half of the penalty
    plain = logistic.fit(features, labels, tolerance=1e-6)
    np.testing.assert_allclose(found.log_probabilities(twice, 4), plain.log_probabilities(features, 4), atol=2e-3)


def test_a_class_that_the_fit_never_saw(data):
    features, labels = data
    seen = labels != 2
    found = logistic.fit(features[seen], labels[seen]).log_probabilities(features, 6)
    assert found.shape == (300, 6) and found.dtype == np.float32
    assert (found[:, [2, 4, 5]] == -np.inf).all() and np.isfinite(found[:, [0, 1, 3]]).all()


def test_two_classes(data):
    features, labels = data
    two = labels < 2
    found = logistic.fit(features[two], labels[two]).log_probabilities(features[two], 2)
    np.testing.assert_allclose(np.exp(found).sum(1), 1, rtol=1e-6)
    assert (found.argmax(1) == labels[two]).mean() > 0.8


def test_the_strength_is_the_best_on_validation_and_the_smallest_of_ties(data):
    best, plain = logistic.choose(*data, lambda model: -abs(np.log10(model.strength) - 0.6))
    assert (best.strength, plain.strength) == (10.0, 1.0)
    assert logistic.choose(*data, lambda model: 0.5)[0].strength == 1e-3
    assert {model.strength for model in logistic.choose(*data, None)} == {1.0}


def test_one_class_is_refused():
    with pytest.raises(UserError, match="two classes"):
        logistic.fit(np.zeros((3, 2)), np.zeros(3, int))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_features_that_are_not_finite_are_refused(data, fitted, value):
    features, labels = data
    broken = features.copy()
    broken[[3, 9], 1] = value
    for refused in (lambda: logistic.fit(broken, labels), lambda: fitted.log_probabilities(broken, 4)):
        with pytest.raises(UserError, match="^2 embeddings hold NaN or infinite values: embed again$"):
            refused()
