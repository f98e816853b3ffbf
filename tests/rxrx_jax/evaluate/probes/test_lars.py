"""The probe with BatchNorm that LARS trains: its steps by hand, what it learns, and what it never sees."""

import numpy as np
import pytest

from rxrx_jax.base.errors import UserError
from rxrx_jax.evaluate.probes import lars


@pytest.fixture(scope="module")
def points():
    random = np.random.default_rng(0)
    labels = random.integers(0, 4, 240)
    x = random.normal(size=(4, 8))[labels] + 0.7 * random.normal(size=(240, 8))
    return (x * np.logspace(-1, 2, 8) + 3).astype(np.float32), labels


def by_hand(features, labels, steps, weights):
    """Full minibatches in numpy: LARS of You et al. on the kernel, plain momentum on the bias; the logits at its end
    by the running mean and variance."""
    w, b = (np.asarray(weights[key], np.float64) for key in ("kernel", "bias"))
    velocity, running = [0.0, 0.0], [np.zeros(features.shape[1]), np.ones(features.shape[1])]
    x, y = features.astype(np.float64), np.eye(labels.max() + 1)[labels]
    warm = int(steps / 9)
    for step in range(steps):
        rate = step / warm if step < warm else (1 + np.cos(np.pi * (step - warm) / (steps - warm))) / 2
        mean, variance = x.mean(0), x.var(0)
        running = [0.9 * old + 0.1 * new for old, new in zip(running, (mean, variance))]
        z = (x - mean) / np.sqrt(variance + 1e-5)
        p = np.exp(z @ w + b)
        error = (p / p.sum(1, keepdims=True) - y) / len(x)
        gradient = z.T @ error
        trust = 0.001 * np.linalg.norm(w) / np.linalg.norm(gradient)
        velocity = [0.9 * v - 6.4 * rate * g for v, g in zip(velocity, (trust * gradient, error.sum(0)))]
        w, b = w + velocity[0], b + velocity[1]
    return (x - running[0]) / np.sqrt(running[1] + 1e-5) @ w + b


def test_its_steps_by_hand(points, monkeypatch):
    monkeypatch.setattr(lars, "LEAST_STEPS", 1)
    starts, original = [], lars._train

    def spy(head, variables, features, label, order):
        starts.append((variables["params"]["linear"], len(order)))
        return original(head, variables, features, label, order)

    monkeypatch.setattr(lars, "_train", spy)
    features, labels = points
    found = lars.fit(features, labels)(features, 4)
    (weights, steps), *_ = starts
    assert steps == 90
    np.testing.assert_allclose(found, by_hand(features, labels, steps, weights), rtol=1e-3, atol=1e-3)


def test_it_learns_what_other_rows_are_and_minibatches_are_whole(points, monkeypatch):
    features, labels = points
    plain = lars.fit(features[:180], labels[:180])(features[180:], 6)
    assert (plain.argmax(1) == labels[180:]).mean() > 0.85 and (plain[:, 4:] == -np.inf).all()
    orders, original = [], lars._train
    monkeypatch.setattr(lars, "MINIBATCH", 64)
    monkeypatch.setattr(lars, "_train", lambda *given: orders.append(given[-1]) or original(*given))
    parted = lars.fit(features[:180], labels[:180])(features[180:], 6)
    assert orders[0].shape[1] == 64 and len(orders[0]) >= 500
    assert len(np.unique(orders[0][:2])) == 128  # no row twice in an epoch
    assert (parted.argmax(1) == labels[180:]).mean() > 0.85
    np.testing.assert_array_equal(parted, lars.fit(features[:180], labels[:180])(features[180:], 6))


def test_features_that_are_not_finite_are_refused(points):
    features, labels = points
    broken = features.copy()
    broken[3, 1] = np.nan
    with pytest.raises(UserError, match="^1 embeddings hold NaN or infinite values: embed again$"):
        lars.fit(broken, labels)
