"""Schedules, optimisers and which parameters they touch, against PyTorch (reference/peers/torch_optim.py), float64."""

import math
import re

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from paths import REFERENCE

from rxrx_jax.base.config import Config
from rxrx_jax.base.errors import UserError
from rxrx_jax.training.optim import decays, ema_decay, ema_update, make_optimiser, make_schedule

STORED = REFERENCE / "optim.npz"
ADAMW = dict(name="adamw", betas=(0.9, 0.95), weight_decay=0.1, clip_norm=0.0)
ADAM_L2 = ADAMW | {"name": "adam_l2"}
LION = ADAMW | {"name": "lion"}
SGD = dict(name="sgd", momentum=0.9, weight_decay=0.1, clip_norm=0.0)
# As SETTINGS, DEPTH and CASES of reference/make_optim.py, which needs PyTorch to be imported.
LR, WARMUP, TOTAL, DEPTH = 0.05, 3, 11, 3
CASES = [
    (name, schedule, layer_decay, clip)
    for name in ("adamw", "adam_l2", "lion", "sgd")
    for schedule, layer_decay, clip in (("cosine", 1.0, 0.0), ("onecycle", 1.0, 8.0), ("cosine", 0.7, 8.0))
]


@pytest.fixture(scope="module")
def stored():
    with np.load(STORED) as arrays:
        return dict(arrays)


def under(arrays, prefix):
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}


def to_tree(flat, axis=0):
    """The reference's parameters by name -> the tree of a ViT encoder, blocks stacked along `axis`, and a head."""
    tree = {}
    for name, value in flat.items():
        if name.startswith("blocks."):
            _, i, part = name.split(".", 2)
            if i != "0":
                continue
            name = f"encoder.blocks.block.{part}"
            value = np.stack([flat[f"blocks.{j}.{part}"] for j in range(DEPTH)], axis)
        elif name.startswith("norm"):
            name = f"encoder.blocks.{name}"
        elif not name.startswith("head"):
            name = f"encoder.{name}"
        tree[tuple(name.split("."))] = value
    return flax.traverse_util.unflatten_dict(tree)


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


@pytest.mark.parametrize("total, percent", [(40, 10.0), (40, 25.0), (200, 10.0), (200, 25.0)])
def test_one_cycle_has_the_stored_rates_of_pytorch(stored, total, percent):
    schedule = schedule_of(total, schedule="onecycle", warmup_percent=percent)
    found = jax.vmap(schedule)(jnp.arange(total))
    np.testing.assert_allclose(found, stored[f"one_cycle/{total}/{percent}"], rtol=1e-5, atol=2e-8)


@pytest.mark.parametrize("total, warmup", [(1, 0), (2, 1), (9, 0), (9, 1), (9, 8)])
def test_one_cycle_at_its_shortest_still_peaks_and_ends(total, warmup):
    schedule = schedule_of(total, schedule="onecycle", warmup_steps=warmup)
    rates = [float(schedule(step)) for step in range(total)]
    peak = max(warmup - 1, 0)
    assert rates[peak] == pytest.approx(0.2) and max(rates) == rates[peak]
    if warmup > 1:
        assert rates[0] == pytest.approx(0.2 / 25)
    if peak < total - 1:
        assert rates[-1] == pytest.approx(0.2 / 25e4, rel=1e-2)


def test_an_unknown_schedule_is_an_error():
    with pytest.raises(UserError, match="optim.schedule='linear': expected cosine, constant or onecycle"):
        schedule_of(schedule="linear")


def test_a_warm_up_as_long_as_the_run_is_an_error():
    with pytest.raises(UserError, match="warm-up of 100 steps .* 100 steps"):
        schedule_of(warmup_steps=100)


def test_weight_decay_by_name():
    for name in ("encoder/embed/kernel", "encoder/blocks/block/qkv/kernel", "encoder/conv0/kernel"):
        assert decays(name)
    for name in (
        "encoder/embed/bias",
        "encoder/norm/scale",
        "mask_token",
        "encoder/class_token",
        "decoder/channel_tokens",
        "encoder/positions",
    ):
        assert not decays(name)
    with pytest.raises(UserError, match="no weight-decay rule matches parameter encoder/table; .*optim.py"):
        decays("encoder/table")


@pytest.mark.parametrize("frozen", [None, "encoder/"])
def test_a_parameter_that_no_rule_matches_is_an_error_even_when_frozen(frozen):
    with pytest.raises(UserError, match="encoder/table"):
        make_optimiser(Config(ADAMW), lambda step: 0.1, {"encoder": {"table": jnp.zeros(3)}}, frozen)


def train(case, weights, gradients):
    """The parameters after one update for each of `gradients`, whose arrays are stacked along the first axis."""
    name, schedule, layer_decay, clip = case
    config = {c["name"]: c for c in (ADAMW, ADAM_L2, LION, SGD)}[name] | {"clip_norm": clip, "layer_decay": layer_decay}
    schedule = schedule_of(TOTAL, lr=LR, warmup_steps=WARMUP, schedule=schedule)
    params, gradients = jax.tree.map(jnp.asarray, (to_tree(weights), to_tree(gradients, axis=1)))
    optimiser = make_optimiser(Config(config), schedule, params, None)

    def step(carry, gradient):
        params, state = carry
        updates, state = optimiser.update(gradient, state, params)
        return (jax.tree.map(jnp.add, params, updates), state), None

    (params, _), _ = jax.jit(lambda *carry: jax.lax.scan(step, carry, gradients))(params, optimiser.init(params))
    return params


def assert_same(ours, theirs):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), ours, theirs)


# PyTorch divides by norm + 1e-6 when it clips, which for these norms is a relative 3e-7.
@pytest.mark.parametrize("case", CASES, ids=str)
def test_ten_updates_are_the_stored_ones_of_pytorch(stored, case):
    weights, gradients, expected = (under(stored, prefix) for prefix in ("weight/", "gradient/", f"{case}/"))
    del expected["rates"]
    assert_same(train(case, weights, gradients), to_tree(expected))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_ten_updates_are_those_of_pytorch(case):
    pytest.importorskip("torch", reason="PyTorch is not installed; the stored values are compared in any case")
    from reference import make_optim
    from reference.peers import torch_optim

    assert make_optim.CASES == CASES
    name, schedule, layer_decay, clip = case
    weights, gradients = make_optim.draw(100), make_optim.gradients_of(101)
    settings = make_optim.SETTINGS | {"clip_norm": clip}
    expected, rates = torch_optim.train(weights, gradients, DEPTH, name, schedule, layer_decay, settings)
    stack = {name: np.stack([gradient[name] for gradient in gradients]) for name in weights}
    assert_same(train(case, weights, stack), to_tree(expected))
    ours = schedule_of(TOTAL, lr=LR, warmup_steps=WARMUP, schedule=schedule)
    np.testing.assert_allclose([ours(step) for step in range(len(rates))], rates, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("config", [ADAMW, LION, SGD], ids=str)
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


def test_coupled_decay_is_part_of_the_gradient_of_every_parameter():
    """Adam's first step is the sign of what it is given, whose size it does not see."""
    params = jax.tree.map(jnp.asarray, draw(0))
    optimiser = make_optimiser(Config(ADAM_L2), lambda step: 0.5, params, None)
    zero = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimiser.update(zero, optimiser.init(params), params)
    jax.tree.map(lambda u, p: np.testing.assert_allclose(u, -0.5 * np.sign(p), rtol=1e-4), updates, draw(0))


@pytest.mark.parametrize("config", [ADAMW | {"clip_norm": 2.0}, ADAM_L2, LION, SGD], ids=str)
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
    with pytest.raises(UserError, match="optim.name='lamb': expected adamw, adam_l2, lion or sgd"):
        make_optimiser(Config({"name": "lamb"}), lambda step: 0.1, {}, None)


def blocks_and_head(depth=3):
    """A ViT's parameters in small, all of them ones."""
    block = {"qkv": {"kernel": jnp.ones((depth, 2, 2)), "bias": jnp.ones((depth, 2))}}
    encoder = {
        "embed": {"kernel": jnp.ones((4, 2)), "bias": jnp.ones(2)},
        "class_token": jnp.ones((1, 1, 2)),
        "positions": jnp.ones((1, 5, 2)),
        "blocks": {"block": block, "norm": {"scale": jnp.ones(2)}},
    }
    return {"encoder": encoder, "embed": {"kernel": jnp.ones((2, 2))}, "decoder": {"positions": jnp.ones((1, 5, 2))}}


@pytest.mark.parametrize("frozen", [None, "encoder/embed"])
def test_layer_decay_scales_the_update_from_the_embedding_to_what_follows_the_blocks(frozen):
    params = blocks_and_head()
    optimiser = make_optimiser(Config(LION | {"layer_decay": 0.5}), lambda step: 1.0, params, frozen)
    updates, _ = jax.jit(optimiser.update)(params, optimiser.init(params), params)
    encoder = updates["encoder"]
    # Lion's step is -1, that of a kernel of ones decays by 0.1 more.
    np.testing.assert_allclose(encoder["embed"]["kernel"], 0.0 if frozen else -1.1 / 16, rtol=1e-6)
    np.testing.assert_allclose(encoder["class_token"], -1 / 16)
    np.testing.assert_allclose(encoder["positions"], -1 / 16)
    qkv = encoder["blocks"]["block"]["qkv"]
    for i, factor in enumerate((1 / 8, 1 / 4, 1 / 2)):
        np.testing.assert_allclose(qkv["kernel"][i], -1.1 * factor, rtol=1e-6)
        np.testing.assert_allclose(qkv["bias"][i], -factor)
    for after in (
        encoder["blocks"]["norm"]["scale"],
        updates["embed"]["kernel"] / 1.1,
        updates["decoder"]["positions"],
    ):
        np.testing.assert_allclose(after, -1.0, rtol=1e-6)


@pytest.mark.parametrize("value", [0.0, -0.5, 1.5])
def test_a_layer_decay_out_of_range_is_an_error(value):
    with pytest.raises(UserError, match=f"optim.layer_decay={value}: expected a number above 0"):
        make_optimiser(Config(SGD | {"layer_decay": value}), lambda step: 0.1, blocks_and_head(), None)


def test_layer_decay_without_blocks_is_an_error():
    with pytest.raises(UserError, match=r"optim.layer_decay=0.5 needs a model of transformer blocks"):
        make_optimiser(Config(SGD | {"layer_decay": 0.5}), lambda step: 0.1, {"encoder": {"kernel": jnp.ones(2)}}, None)


@pytest.mark.parametrize("config", [ADAMW, ADAM_L2, LION], ids=str)
def test_the_first_moment_in_bfloat16_is_half_as_large_and_nearly_the_same(config):
    params, gradient = (jax.tree.map(jnp.float32, draw(seed)) for seed in (0, 1))
    found = {}
    for dtype in ("float32", "bfloat16"):
        optimiser = make_optimiser(Config(config | {"moment_dtype": dtype}), lambda step: 0.5, params, None)
        state = optimiser.init(params)
        for _ in range(2):
            updates, state = optimiser.update(gradient, state, params)
        leaves = jax.tree_util.tree_leaves_with_path(state)
        dtypes = {re.search(r"\.(mu|nu)", jax.tree_util.keystr(p)).group(1): x.dtype for p, x in leaves if x.ndim}
        assert dtypes["mu"] == dtype and dtypes.get("nu", jnp.float32) == jnp.float32
        found[dtype] = updates
    same = jax.tree.map(lambda a, b: a.dtype == b.dtype and np.allclose(a, b, rtol=1e-2), *found.values())
    assert all(jax.tree.leaves(same))
    plain = make_optimiser(Config(config), lambda step: 0.5, params, None).init(params)
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(plain) if x.ndim)


def test_an_unknown_moment_dtype_is_an_error():
    with pytest.raises(UserError, match="optim.moment_dtype='float16': expected float32 or bfloat16"):
        make_optimiser(Config(LION | {"moment_dtype": "float16"}), lambda step: 0.1, {}, None)


def test_moving_average_of_parameters():
    ema = {"kernel": jnp.array([1.0, 2.0]), "bias": jnp.array(0.0)}
    params = {"kernel": jnp.array([3.0, 2.0]), "bias": jnp.array(1.0)}
    found = jax.jit(ema_update)(ema, params, 0.9)
    np.testing.assert_allclose(found["kernel"], [1.2, 2.0], rtol=1e-6)
    np.testing.assert_allclose(found["bias"], 0.1, rtol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, ema_update(ema, params, 0.0), params)
    assert ema_decay(Config({})) == 0.0 and ema_decay(Config({"ema_decay": 0.999})) == 0.999
    for wrong in (1.0, -0.1):
        with pytest.raises(UserError, match=f"optim.ema_decay={wrong}: expected a number from 0"):
            ema_decay(Config({"ema_decay": wrong}))


def test_parts_have_learning_rates_of_their_own():
    """A factor of 4 is a learning rate four times as high, weight decay included; other parts are as they were."""
    params = {name: {"kernel": jnp.ones((2, 2))} for name in ("policy", "log_z")}

    def update(lr, **more):
        optimiser = make_optimiser(Config(ADAMW | more), lambda step: lr, params, None)
        return optimiser.update(params, optimiser.init(params), params)[0]

    found, once, four = update(0.1, lr_factors={"log_z": 4.0}), update(0.1), update(0.4)
    np.testing.assert_array_equal(found["policy"]["kernel"], once["policy"]["kernel"])
    np.testing.assert_allclose(found["log_z"]["kernel"], four["log_z"]["kernel"], rtol=1e-6)
    for factors in ({"logz": 2.0}, {"log_z": 0.0}):
        with pytest.raises(UserError, match="expected a number above 0, of policy, log_z"):
            update(0.1, lr_factors=factors)
