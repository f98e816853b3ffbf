"""Checkpoints: every bit comes back, a part loads into the next stage, and what does not fit is named."""

import os
import shutil
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checkpoint_tools import CLOCK, assert_same_bits, make_state, names, save, shapes_of
from orbax.checkpoint import v1 as ocp

from rxrx_jax.base.errors import UserError
from rxrx_jax.base.sharding import parameters_sha256
from rxrx_jax.training.checkpoint import Checkpoints, find_checkpoint, load_parameters, stored_parameters


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
        jax.tree.map(lambda x: x.delete(), state)  # the next step may take the memory while the save is under way
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
    for path, words in ((tmp_path, "no checkpoint there"), (tmp_path / "never", "no such file or folder")):
        with pytest.raises(UserError, match=f"^{path}: {words}"):
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
            r"params/encoder/embed/kernel is \(4, 6\) there and \(4, 8\) here",
        ),
        (
            {"kernel": (6, 4), "bias": (6,)},
            r"params/encoder/embed/kernel is \(4, 6\) there and \(6, 4\) here",
        ),
        ({"kernel": (4, 6)}, r"params/encoder/embed/bias is \(6,\) there and absent here"),
        (
            {"kernel": (4, 6), "bias": (6,), "scale": (6,)},
            r"params/encoder/embed/scale is absent there and \(6,\) here",
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
        with pytest.raises(UserError, match=r"params/head/linear/bias is \(3,\) there and \(4,\) here"):
            checkpoints.restore(shapes)


def test_a_folder_that_cannot_be_written_is_an_error_before_anything_waits_for_it(tmp_path, monkeypatch):
    """Orbax's threads would wait ten minutes for the folder that they could not make."""
    monkeypatch.setattr(os, "access", lambda *_: False)
    monkeypatch.setattr(ocp.training.Checkpointer, "save_checkpointables_async", None)
    with pytest.raises(PermissionError), Checkpoints(tmp_path / "checkpoints", 2) as checkpoints:
        checkpoints.save(make_state(1), CLOCK)
    assert names(tmp_path) == []


def test_a_checkpoint_for_which_there_is_no_room_is_not_begun(tmp_path, monkeypatch):
    """Each host writes its part, and would wait for the others'."""
    with Checkpoints(tmp_path / "checkpoints", 2) as checkpoints:
        checkpoints.save(make_state(1), CLOCK)
        checkpoints.wait()
        monkeypatch.setattr(ocp.training.Checkpointer, "save_checkpointables_async", None)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: types.SimpleNamespace(total=1 << 20, free=100))
        with pytest.raises(UserError, match="step 2 is not saved, that of step 1 is kept; free some"):
            checkpoints.save(make_state(2), CLOCK)
    assert names(tmp_path) == ["1"]
