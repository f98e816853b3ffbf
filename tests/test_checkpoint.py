"""Checkpoints: every bit comes back, a part loads into the next stage, and what does not fit is named."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rxrx_jax import optim
from rxrx_jax.checkpoint import Checkpoints, find_checkpoint, load_parameters, stored_parameters
from rxrx_jax.config import Config
from rxrx_jax.errors import UserError
from rxrx_jax.sharding import make_mesh, state_shardings
from rxrx_jax.state import TrainState, parameters_sha256

CLOCK = {"train_seconds": 12.0625}


def make_state(step, seed=0):
    """Random bits, so subnormal numbers, infinities and NaNs too; some are frozen, some bfloat16."""
    random = np.random.default_rng(seed)
    bits = lambda *shape: random.integers(0, 2**32, shape, dtype=np.uint32).view(np.float32)  # noqa: E731
    params = {
        "encoder": {"embed": {"kernel": bits(4, 6), "bias": bits(6)}},
        "head": {"linear": {"kernel": bits(6, 3), "bias": bits(3)}},
        "mask_token": bits(1, 1, 4),
        "low": {"kernel": random.integers(0, 2**16, (5, 2), dtype=np.uint16).view(jnp.bfloat16)},
    }
    config = Config(dict(name="adamw", betas=(0.9, 0.95), weight_decay=0.1, clip_norm=1.0))
    opt_state = optim.make_optimiser(config, lambda step: 0.1, params, "encoder/").init(params)
    opt_state = jax.tree.map(lambda x: bits(*x.shape).astype(x.dtype) if x.dtype == jnp.float32 else x, opt_state)
    stats = {"encoder": {"norm": {"mean": bits(6), "var": bits(6)}}, "head": {}}
    return jax.tree.map(jnp.asarray, TrainState(jnp.int32(step), params, stats, opt_state, {}))


def shapes_of(state):
    placement = state_shardings(state, make_mesh())
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), state, placement)


def save(folder, *steps, keep=1):
    with Checkpoints(folder / "checkpoints", keep) as checkpoints:
        for step in steps:
            checkpoints.save(make_state(step, seed=step), CLOCK)
    return str(folder)


def names(folder):
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def assert_same_bits(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(expected)):
        assert a.dtype == b.dtype and np.asarray(a).tobytes() == np.asarray(b).tobytes(), jax.tree_util.keystr(path)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A workdir with the checkpoint of step 7."""
    return save(tmp_path_factory.mktemp("run"), 7)


def test_every_bit_comes_back(tmp_path):
    state = make_state(7)
    expected = jax.tree.map(np.array, state)
    with Checkpoints(tmp_path / "checkpoints", 1) as checkpoints:
        assert checkpoints.restore(shapes_of(state)) is None
        checkpoints.save(state, CLOCK)
        jax.tree.map(lambda x: x.delete(), state)  # the next step may take the memory while the save goes on
    with Checkpoints(tmp_path / "checkpoints", 1) as checkpoints:
        found, clock = checkpoints.restore(shapes_of(expected))
    assert_same_bits(found, expected)
    assert clock == CLOCK
    assert parameters_sha256(found.params) == parameters_sha256(expected.params)


@pytest.mark.parametrize("keep, kept", [(1, ["30"]), (2, ["20", "30"])])
def test_the_newest_are_kept(tmp_path, keep, kept):
    save(tmp_path, 10, 20, 30, keep=keep)
    assert names(tmp_path) == kept
    assert find_checkpoint(str(tmp_path)).name == "30"


def test_the_newest_by_number_is_restored(tmp_path):
    save(tmp_path, 9, 10, keep=5)
    state = make_state(10, seed=10)
    with Checkpoints(tmp_path / "checkpoints", 5) as checkpoints:
        found, _ = checkpoints.restore(shapes_of(state))
    assert_same_bits(found, state)
    assert find_checkpoint(str(tmp_path)).name == "10"


def test_a_half_written_checkpoint_is_ignored_and_cleaned_up(tmp_path):
    path = save(tmp_path, 7)
    killed = tmp_path / "checkpoints" / "9.orbax-checkpoint-tmp"
    (killed / "pytree").mkdir(parents=True)
    (killed / "pytree" / "half").write_bytes(b"x")
    assert find_checkpoint(path).name == "7"
    state = make_state(7, seed=7)
    assert_same_bits(load_parameters(path, "encoder", shapes_of(state).params["encoder"]), state.params["encoder"])
    with Checkpoints(tmp_path / "checkpoints", 1) as checkpoints:
        found, _ = checkpoints.restore(shapes_of(state))
        assert int(found.step) == 7
        checkpoints.save(make_state(8), CLOCK)
    assert names(tmp_path) == ["8"]


def test_a_part_is_loaded_from_a_workdir_or_a_checkpoint(run):
    state = make_state(7, seed=7)
    shapes = shapes_of(state).params
    for path in (run, f"{run}/checkpoints/7"):
        for part in ("encoder", "low", "mask_token"):
            assert_same_bits(load_parameters(path, part, shapes[part]), state.params[part])
        found = stored_parameters(path)
        assert_same_bits(jax.tree.map(jnp.asarray, found), state.params)


def test_a_workdir_may_be_called_by_a_number(tmp_path):
    path = save(tmp_path / "3", 7)
    assert find_checkpoint(path) == tmp_path / "3" / "checkpoints" / "7"


def test_a_missing_checkpoint_is_an_error(tmp_path):
    for path in (tmp_path, tmp_path / "never"):
        with pytest.raises(UserError, match=f"init.path={path}: no checkpoint there; .*--workdir={path}"):
            load_parameters(str(path), "encoder", {})


def test_a_missing_part_is_an_error(run):
    with pytest.raises(
        UserError, match=f"checkpoint {run}/checkpoints/7 has no parameters 'decoder' in params; it has encoder, head"
    ):
        load_parameters(run, "decoder", {})


@pytest.mark.parametrize(
    "embed, message",
    [
        (
            {"kernel": (4, 8), "bias": (6,)},
            r"params/encoder/embed/kernel is \(4, 6\) there and \(4, 8\) in this model",
        ),
        (
            {"kernel": (6, 4), "bias": (6,)},
            r"params/encoder/embed/kernel is \(4, 6\) there and \(6, 4\) in this model",
        ),
        ({"kernel": (4, 6)}, r"params/encoder/embed/bias is \(6,\) there and absent in this model"),
        (
            {"kernel": (4, 6), "bias": (6,), "scale": (6,)},
            r"params/encoder/embed/scale is absent there and \(6,\) in this model",
        ),
    ],
)
def test_a_part_that_does_not_fit_is_an_error(run, embed, message):
    shapes = {"embed": {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in embed.items()}}
    with pytest.raises(UserError, match=f"checkpoint {run}/checkpoints/7 does not fit: {message}"):
        load_parameters(run, "encoder", shapes)


def test_a_state_that_does_not_fit_is_an_error(tmp_path):
    save(tmp_path, 7)
    shapes = shapes_of(make_state(7))
    shapes.params["head"]["linear"]["bias"] = jax.ShapeDtypeStruct((4,), jnp.float32)
    with Checkpoints(tmp_path / "checkpoints", 1) as checkpoints:
        with pytest.raises(UserError, match=r"params/head/linear/bias is \(3,\) there and \(4,\) in this model"):
            checkpoints.restore(shapes)
