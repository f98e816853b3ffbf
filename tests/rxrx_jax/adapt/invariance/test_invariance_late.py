"""Penalties that begin after some steps (IRM, V-REx, IB-ERM, Fishr) against their formulas in float64 numpy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from method_tools import SHARES, batch_of, draw, finite_differences, make, outputs, softmax, start

from rxrx_jax.adapt.invariance.fishr import Fishr
from rxrx_jax.adapt.invariance.ib_erm import IbErm
from rxrx_jax.adapt.invariance.irm import Irm
from rxrx_jax.adapt.invariance.vrex import Vrex
from rxrx_jax.adapt.method import Method
from rxrx_jax.data.batch import TRAIN
from rxrx_jax.training.state import TrainState

pytestmark = pytest.mark.usefixtures("double")

LABELS, DOMAINS = np.array([0, 2, 1, 1, 2, 0, -1, 2, 1, 0, 0, 2]), np.repeat([0, 1, 3], 4)


@pytest.fixture(scope="module")
def drawn():
    """(features [12, 4], kernel [4, 3]) of a linear head."""
    random = np.random.default_rng(0)
    return random.normal(size=(12, 4)), random.normal(size=(4, 3))


def targets(smoothing):
    return np.where(LABELS[:, None] >= 0, np.eye(3)[LABELS] * (1 - smoothing) + smoothing / 3, 0)


def losses(logits, smoothing):
    return -(targets(smoothing) * np.log(softmax(logits))).sum(1)


def irm(features, logits, smoothing):
    def slope(rows):  # with respect to the scale, by differences
        rows = rows[LABELS[rows] >= 0]
        mean = lambda s: losses(s * logits, smoothing)[rows].mean()  # noqa: E731
        return (mean(1 + 1e-4) - mean(1 - 1e-4)) / 2e-4

    parts = np.arange(12).reshape(3, 4)
    return np.mean([slope(rows[::2]) * slope(rows[1::2]) for rows in parts])


def vrex(features, logits, smoothing):
    known = LABELS >= 0
    risks = [losses(logits, smoothing)[known & (DOMAINS == g)].mean() for g in (0, 1, 3)]
    return np.var(risks)


def ib_erm(features, logits, smoothing):
    return np.mean([np.var(part, axis=0, ddof=1).mean() for part in np.split(features, 3)])


def fishr(features, logits, smoothing):
    errors, variances = softmax(logits) - targets(smoothing), []
    for g in (0, 1, 3):
        rows = np.flatnonzero((DOMAINS == g) & (LABELS >= 0))
        each = [np.append(np.outer(features[i], errors[i]), errors[i]) for i in rows]
        variances.append(np.var(each, axis=0))
    past = {g: 0.1 * (g + 1) for g in (0, 1, 3)}  # as the carry below
    variances = [(0.9 * past[g] + 0.1 * v) / 0.1 for g, v in zip((0, 1, 3), variances)]
    return np.mean([np.square(v - np.mean(variances, axis=0)).mean() for v in variances])


FORMULAS = {
    "irm": (Irm, irm),
    "vrex": (Vrex, vrex),
    "ib_erm": (IbErm, ib_erm),
    "fishr": (lambda **fields: Fishr(classes=3, ema_decay=0.9, **fields), fishr),
}


def carry_of(method, step=7):
    found = method.init(jax.random.key(0), np.zeros((1, 4)))[1]
    if "variances" in found:
        assert found["variances"].shape == (4, 5, 3) and not found["variances"].any()
        found["variances"] = jnp.broadcast_to(0.1 * (jnp.arange(4.0) + 1)[:, None, None], (4, 5, 3))
    return found | {"step": jnp.int32(step)}


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("name", FORMULAS)
def test_the_loss_is_the_risk_and_the_formula(name, smoothing, drawn):
    kind, formula = FORMULAS[name]
    method = kind(shares=SHARES, groups=3, weight=0.7, warm_up=7)
    features, kernel = drawn

    def loss(features, kernel):
        found = outputs(features, features @ kernel, LABELS, DOMAINS, smoothing=smoothing)
        value, carry, metrics = method.loss({}, carry_of(method), found, 0.5, None)
        return value, (carry, metrics)

    def by_hand(features, kernel):
        logits = features @ kernel
        return losses(logits, smoothing).sum() / 11 + 0.7 * formula(features, logits, smoothing)

    (value, (carry, metrics)), gradients = jax.value_and_grad(loss, (0, 1), has_aux=True)(*map(jnp.asarray, drawn))
    np.testing.assert_allclose(value, by_hand(*drawn), rtol=1e-7)
    assert metrics["penalty_weight"] == 0.7 and carry["step"] == 8
    of_features = finite_differences(lambda x: by_hand(x, kernel), features, 1e-5)
    of_kernel = finite_differences(lambda w: by_hand(features, w), kernel, 1e-5)
    np.testing.assert_allclose(gradients[0], of_features, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(gradients[1], of_kernel, rtol=1e-6, atol=1e-7)


def test_fishr_moves_the_averages_of_the_domains_that_were_drawn(drawn):
    method = Fishr(shares=SHARES, groups=3, classes=3, ema_decay=0.9)
    features, kernel = drawn
    found = outputs(features, jnp.asarray(features @ kernel), LABELS, DOMAINS)
    _, new, _ = method.loss({}, carry_of(method), found, 0.5, None)
    errors = (softmax(features @ kernel) - targets(0.0))[4:8]
    rows = [0, 1, 3]  # the one without a label is left out
    each = [np.vstack([np.outer(features[4 + i], errors[i]), errors[i]]) for i in rows]
    np.testing.assert_allclose(new["variances"][1], 0.9 * 0.2 + 0.1 * np.var(each, axis=0), rtol=1e-9)
    np.testing.assert_array_equal(new["variances"][2], np.full((5, 3), 0.1 * 3))  # held out


@pytest.mark.parametrize("name", ["vrex", "fishr"])
def test_equal_domains_have_no_penalty(name, drawn):
    method = FORMULAS[name][0](shares=SHARES, groups=3, warm_up=0)
    features, kernel = np.tile(drawn[0][:4], (3, 1)), drawn[1]
    found = outputs(features, jnp.asarray(features @ kernel), np.tile(LABELS[:4], 3), DOMAINS)
    carry = method.init(jax.random.key(0), features)[1]
    assert abs(method.loss({}, carry, found, 0.5, None)[2]["penalty"]) < 1e-20


def test_a_domain_without_labels_is_no_risk_of_zero(drawn):
    features, kernel = drawn
    labels = np.where(DOMAINS == 1, -1, np.maximum(LABELS, 0))
    found = outputs(features, jnp.asarray(features @ kernel), labels, DOMAINS)
    risks = [np.asarray(found.losses)[DOMAINS == g].mean() for g in (0, 3)]
    penalty = Vrex(groups=3).loss({}, {"step": jnp.int32(0)}, found, 0.5, None)[2]["penalty"]
    np.testing.assert_allclose(penalty, np.var(risks), rtol=1e-9)


@pytest.mark.parametrize("name", FORMULAS)
def test_three_updates_lower_the_penalty(name, drawn):
    kind, _ = FORMULAS[name]
    method = kind(shares=SHARES, groups=3, warm_up=0)
    carry = method.init(jax.random.key(0), np.zeros((1, 4)))[1]
    labels = np.maximum(LABELS, 0)

    def penalty(variables):
        found = outputs(variables["features"], variables["features"] @ variables["kernel"], labels, DOMAINS)
        return method.loss({}, carry, found, 0.5, None)[2]["penalty"]

    variables, found = {"features": jnp.asarray(drawn[0]), "kernel": jnp.asarray(drawn[1])}, []
    for _ in range(4):
        value, gradient = jax.value_and_grad(penalty)(variables)
        size = 0.05 / optax.tree.norm(gradient)
        variables = jax.tree.map(lambda x, g, size=size: x - size * g, variables, gradient)
        found.append(float(value))
    assert found[0] > found[1] > found[2] > found[3]


def test_before_warm_up_it_is_erm_and_then_the_moments_start_again_but_not_the_schedule():
    """Three steps, the penalty from the third on: by hand with optax, whose Adam is new there."""
    schedule = lambda step: 0.1 / (step + 1)  # noqa: E731
    method = Vrex(shares=SHARES, groups=3, warm_up=2, weight=5.0)
    task = make(method)
    params, collections = start(task)
    parts = [draw(12, seed) | {"experiment": DOMAINS} for seed in range(3)]

    def differentiate_by(task):
        def differentiate(params, collections, part):
            loss = lambda p: task.loss(p, collections, batch_of(part), jax.random.key(1), 0.5)  # noqa: E731
            (_, (new, found)), gradients = jax.value_and_grad(loss, has_aux=True)(params)
            return gradients, new, found

        return differentiate

    optimiser = optax.adam(schedule)
    state = TrainState(jnp.int32(0), params, collections, optimiser.init(params))
    for part in parts:
        new = method.update(differentiate_by(task), optimiser, state, {TRAIN: part})
        state = TrainState(state.step + 1, *new[:3])

    plain = make(Method(shares=SHARES))
    late = dataclasses.replace(task, method=dataclasses.replace(method, warm_up=0))
    expected, adam = params, optax.scale_by_adam()
    moments = adam.init(params)
    for step, part in enumerate(parts):
        moments = adam.init(params) if step == 2 else moments
        gradients, *_ = differentiate_by(late if step == 2 else plain)(expected, collections, {TRAIN: part})
        direction, moments = adam.update(gradients, moments)
        expected = jax.tree.map(lambda p, d, step=step: p - schedule(step) * d, expected, direction)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9), state.params, expected)
