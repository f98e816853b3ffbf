"""CORAL and MMD against their formulas in float64 numpy."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from method_tools import SHARES, finite_differences, outputs

from rxrx_jax.adapt.invariance.coral import Coral
from rxrx_jax.adapt.invariance.mmd import Mmd

pytestmark = pytest.mark.usefixtures("double")


def coral(x, y, form):
    of = lambda z: (z - z.mean(0)).T @ (z - z.mean(0)) / (len(z) - 1)  # noqa: E731
    if form == "sun":
        return np.linalg.norm(of(x) - of(y)) ** 2 / (4 * x.shape[1] ** 2)
    return np.square(x.mean(0) - y.mean(0)).mean() + np.square(of(x) - of(y)).mean()


def mmd(x, y):
    def mean(a, b):
        squared = np.array([[sum((x - y) ** 2) for y in b] for x in a])
        return sum(np.exp(-gamma * squared).mean() for gamma in (0.001, 0.01, 0.1, 1, 10, 100, 1000))

    return mean(x, x) + mean(y, y) - 2 * mean(x, y)


FORMULAS = {
    "wilds": (Coral(shares=SHARES, groups=3, weight=0.3), lambda x, y: coral(x, y, "wilds")),
    "sun": (Coral(shares=SHARES, groups=3, weight=0.3, form="sun"), lambda x, y: coral(x, y, "sun")),
    "mmd": (Mmd(shares=SHARES, groups=3, weight=0.3), mmd),
}


@pytest.fixture(scope="module")
def drawn():
    random = np.random.default_rng(0)
    features = random.normal(size=(17, 4)) + np.repeat([0, 1, 2, 3], (4, 4, 4, 5))[:, None]
    return features * 0.7, random.normal(size=(17, 3)), random.integers(0, 3, 17), np.repeat([0, 1, 3, 2], (4, 4, 4, 5))


@pytest.mark.parametrize("held_out", [0, 5])
@pytest.mark.parametrize("name", FORMULAS)
def test_the_penalty_is_the_mean_over_pairs_of_domains(name, held_out, drawn):
    method, formula = FORMULAS[name]
    n = 12 + held_out
    features, logits, labels, domains = (x[:n] for x in drawn)
    labels = np.where(np.arange(n) < 12, labels, -1)

    def by_hand(features):
        parts = np.split(features, [4, 8, 12])[: 4 if held_out else 3]  # held-out images are one domain more
        return np.mean([formula(x, y) for x, y in itertools.combinations(parts, 2)])

    def loss(features):
        return method.loss({}, {}, outputs(features, jnp.asarray(logits), labels, domains, held_out), 0.5, None)[0]

    value, gradient = jax.value_and_grad(loss)(jnp.asarray(features))
    risk = outputs(features, jnp.asarray(logits), labels, domains, held_out).risk
    np.testing.assert_allclose(value, risk + 0.3 * by_hand(features), rtol=1e-9)
    expected = finite_differences(lambda x: 0.3 * by_hand(x), features, 1e-5)
    np.testing.assert_allclose(gradient, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", FORMULAS)
def test_equal_domains_have_no_penalty_and_order_does_not_count(name, drawn):
    method, _ = FORMULAS[name]
    features, logits, labels, domains = (x[:12] for x in drawn)

    def penalty(features, domains=domains):
        return method.loss({}, {}, outputs(features, jnp.asarray(logits), labels, domains), 0.5, None)[2]["penalty"]

    assert abs(penalty(np.tile(features[:4], (3, 1)))) < 1e-15
    other = features.reshape(3, 4, 4)[[2, 0, 1]][:, [3, 1, 0, 2]].reshape(12, 4)
    np.testing.assert_allclose(penalty(other, domains[[8, 0, 4]].repeat(4)), penalty(features), rtol=1e-12)
    assert penalty(features) > 1e-2
