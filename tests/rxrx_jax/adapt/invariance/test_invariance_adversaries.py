"""DANN's schedules, masks and smoothed labels, and CDAN, against their formulas in float64 numpy."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from method_tools import (
    CLASSES,
    SHARES,
    batch_of,
    discriminate,
    draw,
    finite_differences,
    make,
    outputs,
    softmax,
    start,
)
from parameters import random_variables

from rxrx_jax.adapt.invariance.cdan import Cdan
from rxrx_jax.adapt.invariance.dann import Dann, smoothed
from rxrx_jax.data.batch import TRAIN
from rxrx_jax.training.state import TrainState

pytestmark = pytest.mark.usefixtures("double")

CELL_TYPES = (0, 1, 1, 0)  # of the four domains
LABELS, DOMAINS = np.array([0, 2, 1, 1, 0, -1]), np.array([0, 3, 2, 1, 0, 1])


@pytest.fixture(scope="module")
def drawn():
    random = np.random.default_rng(0)
    return random.normal(size=(6, 4)), random.normal(size=(6, CLASSES)) * 2


def domain_losses(logits, within, smoothing):
    """One image after the other: the cross-entropy among the domains that may be chosen."""
    found = []
    for z, domain in zip(logits, DOMAINS):
        may = [d for d in range(4) if not within or CELL_TYPES[d] == CELL_TYPES[domain]]
        log_p = dict(zip(may, np.log(softmax(z[may]))))
        others = [d for d in may if d != domain]
        found.append(-(1 - smoothing) * log_p[domain] - sum(smoothing / len(others) * log_p[d] for d in others))
    return np.array(found)


def started(method, features=4):
    params, carry = method.init(jax.random.key(0), jnp.zeros((1, features)))
    random = np.random.default_rng(3)
    return jax.tree.map(lambda x: random.normal(size=x.shape), params), jax.tree.map(np.asarray, carry)


@pytest.mark.parametrize("within, smoothing", [("", 0.1), ("cell_type", 0.0), ("cell_type", 0.1)])
@pytest.mark.parametrize("kind", [Dann, Cdan])
def test_the_loss_and_the_reversed_gradient(kind, within, smoothing, drawn):
    own = dict(projected=8, classes=CLASSES) if kind is Cdan else {}
    fields = dict(hidden=5, grl_weight=0.6, schedule="constant", within=within, smoothing=smoothing)
    method = kind(shares=SHARES, cell_types=CELL_TYPES, **fields, **own)
    features, logits = drawn
    params, carry = started(method)

    def by_hand(features):
        p = softmax(logits)
        read, weights = features, np.ones(6)
        if kind is Cdan:
            read = np.array([(f @ carry["features"]) * (q @ carry["classes"]) for f, q in zip(features, p)]) / np.sqrt(
                8
            )
            weights = 1 + np.exp((p * np.log(p)).sum(1))
            weights = weights / weights.sum() * 6
        return (weights * domain_losses(discriminate(params, read), within, smoothing)).mean()

    def loss(features, logits):
        found = outputs(features, logits, LABELS, DOMAINS)
        return method.loss(params, carry, found, jnp.float64(0.0), None)[0], found.risk

    (value, risk), (of_features, of_logits) = jax.value_and_grad(loss, (0, 1), has_aux=True)(*map(jnp.asarray, drawn))
    np.testing.assert_allclose(value - risk, by_hand(features), rtol=1e-9)
    expected = -0.6 * finite_differences(by_hand, features, 1e-5)  # constant: reversed from the first step on
    np.testing.assert_allclose(of_features, expected, rtol=1e-6, atol=1e-8)
    of_risk = jax.grad(lambda z: outputs(features, z, LABELS, DOMAINS).risk)(jnp.asarray(logits))
    np.testing.assert_allclose(of_logits, of_risk, rtol=1e-9, atol=1e-12)  # predictions are not followed


def test_a_domain_alone_in_its_cell_type_is_not_smoothed():
    allowed = np.array([[True, False, False], [False, True, True]])
    found = smoothed(np.array([0, 2]), allowed, 0.1)
    np.testing.assert_allclose(found, [[1, 0, 0], [0, 0.1, 0.9]], rtol=1e-12)
    np.testing.assert_allclose(smoothed(np.array([1]), np.ones((1, 3), bool), 0.1), [[0.05, 0.9, 0.05]], rtol=1e-12)


@pytest.mark.parametrize("kind", [Dann, Cdan])
def test_renaming_domains_with_their_outputs_changes_nothing(kind, drawn):
    own = dict(projected=8, classes=CLASSES) if kind is Cdan else {}
    method = kind(shares=SHARES, cell_types=CELL_TYPES, hidden=5, within="cell_type", smoothing=0.1, **own)
    params, carry = started(method)
    order = np.array([2, 0, 3, 1])  # the new name of each
    old = np.argsort(order)
    last = {name: value[..., old] for name, value in params["domains"].items()}
    renamed = dataclasses.replace(method, cell_types=tuple(np.array(CELL_TYPES)[old]))
    values = []
    for one, weights, domains in ((method, params, DOMAINS), (renamed, params | {"domains": last}, order[DOMAINS])):
        found = outputs(*map(jnp.asarray, drawn), LABELS, domains)
        values.append(one.loss(weights, carry, found, 0.5, None)[0])
    np.testing.assert_allclose(*values, rtol=1e-12)


class Linear(nn.Module):
    @nn.compact
    def __call__(self, images, train=False, mask=None):
        x = nn.Dense(3, name="linear")(images.reshape(len(images), -1))
        return x, {"embedding": x}


def test_alternating_updates_the_discriminator_and_then_the_encoder_against_it():
    method = Dann(shares=SHARES, hidden=5, grl_weight=0.7, schedule="alternating")
    task = make(method, Linear())
    params, collections = start(task)
    part, rate = draw(6), 0.3
    seen = []

    def differentiate(params, collections, part):
        seen.append(params)
        loss = lambda p: task.loss(p, collections, batch_of(part), jax.random.key(1), 0.0)  # noqa: E731
        (value, (new, found)), gradients = jax.value_and_grad(loss, has_aux=True)(params)
        return gradients, new, found | {"loss": value}

    optimiser = optax.sgd(rate)
    state = TrainState(jnp.int32(0), params, collections, optimiser.init(params))
    found, _, _, metrics = method.update(differentiate, optimiser, state, {TRAIN: part})
    step = lambda p, g: jax.tree.map(lambda p, g: p - rate * g, p, g)  # noqa: E731
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-15)  # noqa: E731
    first, *_ = differentiate(params, collections, {TRAIN: part})
    discriminator = step(params["domain"], first["domain"])
    second, *_ = differentiate(params | {"domain": discriminator}, collections, {TRAIN: part})
    expected = step(params, second) | {"domain": discriminator}
    jax.tree.map(close, found, expected)
    jax.tree.map(close, seen[1]["domain"], discriminator)
    together = step(params, first)["encoder"]["linear"]["kernel"]
    assert np.abs(together - found["encoder"]["linear"]["kernel"]).max() > 1e-4
    assert np.isfinite(metrics["gradient_norm"])


def test_projections_are_of_the_shapes_of_features_and_classes():
    method = Cdan(shares=SHARES, classes=7, hidden=5)
    params, carry = random_variables(method.init, jnp.zeros((1, 4)), seed=0)
    assert carry["features"].shape == (4, 1024) and carry["classes"].shape == (7, 1024)
    assert params["hidden0"]["kernel"].shape == (1024, 5)
