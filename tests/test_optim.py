"""Schedules, optimisers and which parameters they touch, against formulas in float64."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rxrx_jax.config import Config
from rxrx_jax.errors import UserError
from rxrx_jax.optim import decays, make_optimiser, make_schedule

ADAMW = dict(name="adamw", betas=(0.9, 0.95), weight_decay=0.1, clip_norm=0.0)
SGD = dict(name="sgd", momentum=0.9, weight_decay=0.1, clip_norm=0.0)


def draw(seed):
    random = np.random.default_rng(seed)
    return {
        "encoder": {"embed": {"kernel": random.normal(size=(4, 3)), "bias": random.normal(size=3)}},
        "head": {"norm": {"scale": random.normal(size=3)}, "linear": {"kernel": random.normal(size=(3, 2))}},
    }


def schedule_of(total=100, minibatch=8, examples=80, **settings):
    return make_schedule(Config({"lr": 0.2} | settings, "optim."), total, minibatch, examples)


@pytest.mark.parametrize(
    "settings, warmup",
    [
        (dict(warmup_percent=10.0), 10),
        (dict(warmup_steps=25), 25),
        (dict(warmup_epochs=2), 20),
        (dict(warmup_examples=40), 5),
        (dict(warmup_steps=0), 0),
        (dict(), 0),
    ],
)
def test_schedule(settings, warmup):
    schedule = schedule_of(**settings)
    for step in (0, 1, 4, 5, 10, 20, 25, 26, 50, 99, 100):
        if step < warmup:
            expected = 0.2 * step / warmup
        else:
            expected = 0.2 * (1 + math.cos(math.pi * (step - warmup) / (100 - warmup))) / 2
        assert float(schedule(step)) == pytest.approx(expected, abs=1e-7), step


def test_a_warm_up_as_long_as_the_run_is_an_error():
    with pytest.raises(UserError, match="warm-up of 100 steps .* 100 steps"):
        schedule_of(warmup_steps=100)


def test_weight_decay_by_name():
    for name in ("encoder/embed/kernel", "encoder/blocks/block/qkv/kernel", "encoder/conv0/kernel"):
        assert decays(name)
    for name in ("encoder/embed/bias", "encoder/norm/scale", "mask_token"):
        assert not decays(name)
    with pytest.raises(UserError, match="no weight-decay rule matches parameter encoder/positions; .*optim.py"):
        decays("encoder/positions")


@pytest.mark.parametrize("frozen", [None, "encoder/"])
def test_a_parameter_that_no_rule_matches_is_an_error_even_when_frozen(frozen):
    with pytest.raises(UserError, match="encoder/positions"):
        make_optimiser(Config(ADAMW), lambda step: 0.1, {"encoder": {"positions": jnp.zeros(3)}}, frozen)


def formula(config, schedule, params, gradients):
    """The parameters after all updates: AdamW (Loshchilov & Hutter 2019), or SGD with Nesterov momentum."""
    path_leaves, structure = jax.tree.flatten_with_path(params)
    names = [path[-1].key for path, _ in path_leaves]
    x = [leaf for _, leaf in path_leaves]
    first, second = [np.zeros_like(a) for a in x], [np.zeros_like(a) for a in x]
    for t, gradient in enumerate(gradients):
        g = jax.tree.leaves(gradient)
        norm = math.sqrt(sum((a**2).sum() for a in g))
        if config["clip_norm"] and norm > config["clip_norm"]:
            g = [a * config["clip_norm"] / norm for a in g]
        lr = float(schedule(t))
        for i, name in enumerate(names):
            decay = config["weight_decay"] * x[i] if name == "kernel" else 0
            if config["name"] == "adamw":
                b1, b2 = config["betas"]
                first[i] = b1 * first[i] + (1 - b1) * g[i]
                second[i] = b2 * second[i] + (1 - b2) * g[i] ** 2
                mean, square = first[i] / (1 - b1 ** (t + 1)), second[i] / (1 - b2 ** (t + 1))
                x[i] = x[i] - lr * (mean / (np.sqrt(square) + 1e-8) + decay)
            else:
                step = g[i] + decay
                first[i] = config["momentum"] * first[i] + step
                x[i] = x[i] - lr * (step + config["momentum"] * first[i])
    return structure.unflatten(x)


@pytest.mark.parametrize("config", [ADAMW, SGD, ADAMW | {"clip_norm": 2.0}, SGD | {"clip_norm": 2.0}], ids=str)
def test_ten_updates_against_the_formula(config):
    schedule = schedule_of(total=12, warmup_steps=3)
    gradients = [draw(seed) for seed in range(1, 11)]
    with jax.enable_x64(True):
        params = jax.tree.map(jnp.asarray, draw(0))
        optimiser = make_optimiser(Config(config), schedule, params, None)
        state = optimiser.init(params)
        update = jax.jit(lambda g, s, p: optimiser.update(g, s, p))
        for gradient in gradients:
            updates, state = update(gradient, state, params)
            params = jax.tree.map(jnp.add, params, updates)
    expected = formula(config, schedule, draw(0), gradients)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), params, expected)


@pytest.mark.parametrize("config", [ADAMW, SGD], ids=str)
def test_only_kernels_decay(config):
    params = jax.tree.map(jnp.asarray, draw(0))
    optimiser = make_optimiser(Config(config), lambda step: 0.5, params, None)
    zero = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimiser.update(zero, optimiser.init(params), params)
    nesterov = 1.9 if config is SGD else 1.0
    for path, update in jax.tree_util.tree_leaves_with_path(updates):
        if path[-1].key == "kernel":
            value = draw(0)[path[0].key][path[1].key]["kernel"]
            np.testing.assert_allclose(update, -0.5 * 0.1 * nesterov * value, rtol=1e-5)
        else:
            assert not np.any(update), path


@pytest.mark.parametrize("config", [ADAMW | {"clip_norm": 2.0}, SGD], ids=str)
def test_frozen_parameters_get_no_update_and_no_state(config):
    params, gradient = (jax.tree.map(jnp.asarray, draw(seed)) for seed in (0, 1))
    optimiser = make_optimiser(Config(config), lambda step: 0.5, params, "encoder/")
    state = optimiser.init(params)
    shapes = {x.shape for x in jax.tree.leaves(state)}
    assert (4, 3) not in shapes and (3, 2) in shapes
    updates, state = optimiser.update(gradient, state, params)
    assert not any(np.any(u) for u in jax.tree.leaves(updates["encoder"]))
    assert all(np.any(u) for u in jax.tree.leaves(updates["head"]))
    alone = make_optimiser(Config(config), lambda step: 0.5, {"head": params["head"]}, None)
    expected, _ = alone.update(
        {"head": gradient["head"]}, alone.init({"head": params["head"]}), {"head": params["head"]}
    )
    # Clipping, too, looks at the trained parameters only.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), updates["head"], expected["head"])


def test_frozen_is_matched_from_the_start_of_the_path():
    params = {"head": {"encoder": {"kernel": jnp.ones((2, 2))}}}
    optimiser = make_optimiser(Config(SGD), lambda step: 0.5, params, "encoder/")
    updates, _ = optimiser.update(params, optimiser.init(params), params)
    assert np.all(updates["head"]["encoder"]["kernel"])


def test_an_unknown_optimiser_is_an_error():
    with pytest.raises(UserError, match="optim.name='lamb': expected adamw or sgd"):
        make_optimiser(Config({"name": "lamb"}), lambda step: 0.1, {}, None)
