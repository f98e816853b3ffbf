"""Damaged checkpoints: no fault gives wrong values, the one before is used, and stderr says so."""

import gc
import json
import pathlib
import shutil
import subprocess
import sys

import checkpoint_killed
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checkpoint_tools import CLOCK, assert_same_bits, make_state, names, save, shapes_of
from orbax.checkpoint import v1 as ocp

from rxrx_jax.base.errors import UserError
from rxrx_jax.training.checkpoint import Checkpoints, load_parameters, manifest, stored_parameters
from rxrx_jax.training.checkpoint.digests import differing, digests

SHAPES = shapes_of(make_state(0))


def flip(content, at):
    return content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :]


FAULTS = {
    "first byte": lambda content: flip(content, 0),
    "a third in": lambda content: flip(content, len(content) // 3),
    "two thirds in": lambda content: flip(content, 2 * len(content) // 3),
    "last byte": lambda content: flip(content, len(content) - 1),
    "cut off": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "zeros": lambda content: bytes(len(content)),
    "gone": None,
}


def damage(folder, file, fault):
    path = folder / file
    if fault is None:
        path.unlink()
    else:
        path.write_bytes(fault(path.read_bytes()))


def restore(folder, keep=5):
    with Checkpoints(folder / "checkpoints", keep) as checkpoints:
        return checkpoints.restore(SHAPES)


@pytest.fixture
def run(tmp_path):
    """A workdir with the checkpoints of steps 7 and 8."""
    save(tmp_path, 7, 8, keep=2)
    return tmp_path


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kept")
    save(folder, 7, 8, keep=2)
    return folder


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Orbax gives up with reads under way
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_any_file_gives_the_same_bits_or_those_of_the_one_before(kept, tmp_path, capfd, fault):
    newest, detected = kept / "checkpoints" / "8", set()
    for path in filter(lambda path: path.is_file(), newest.rglob("*")):
        file, folder = path.relative_to(newest), tmp_path / "run"
        shutil.copytree(kept, folder)
        damage(folder / "checkpoints" / "8", file, FAULTS[fault])
        state, clock = restore(folder)
        said = "checkpoints/8 is damaged" in capfd.readouterr().err
        assert_same_bits(state, make_state(7 if said else 8, seed=7 if said else 8))
        assert clock == CLOCK and said == (folder / "damaged-8").exists()
        if said:
            detected.add(file.parts[0] if len(file.parts) == 1 else f"{file.parts[0]}/{file.parts[1]}")
        shutil.rmtree(folder)
    gc.collect()  # what Orbax has given up complains
    essential = {"manifest/data.json", "state/manifest.ocdbt"}
    if fault in ("cut off", "empty", "zeros", "gone"):  # a single byte of these may say nothing
        essential |= {"state/_METADATA", "state/d"}
    assert detected >= essential


def test_the_one_before_is_used_and_the_step_can_be_saved_again(run, capsys):
    damage(run / "checkpoints" / "8", "manifest/data.json", FAULTS["a third in"])
    with Checkpoints(run / "checkpoints", 2) as checkpoints:
        state, _ = checkpoints.restore(SHAPES)
        assert int(state.step) == 7
        checkpoints.save(make_state(8, seed=3), CLOCK)
    assert capsys.readouterr().err == (
        f"WARNING: checkpoint {run}/checkpoints/8 is damaged (its manifest differs): set aside as "
        f"{run}/damaged-8; resuming from step 7\n"
    )
    assert_same_bits(restore(run)[0], make_state(8, seed=3))
    damage(run / "checkpoints" / "8", "manifest/data.json", FAULTS["a third in"])
    assert int(restore(run)[0].step) == 7
    assert (run / "damaged-8").is_dir() and (run / "damaged-8-2").is_dir()


@pytest.mark.parametrize("name", ["encoder/embed/bias", "low/kernel"])
def test_a_bit_that_changed_before_it_was_written_is_found(run, capsys, name):
    """What storage cannot notice: an array that is stored whole and is not the one that was to be saved."""
    state = make_state(9)
    *parents, last = name.split("/")
    node = state.params
    for key in parents:
        node = node[key]
    table = manifest.describe({"params": state.params} | vars(make_state(9)), CLOCK)
    bits = np.array(node[last])
    bits.view(np.uint16).reshape(-1)[1] ^= 1
    node[last] = jnp.asarray(bits)
    with manifest.storage():
        parts = {manifest.STATE: vars(state), manifest.MANIFEST: table}
        ocp.save_checkpointables(run / "checkpoints" / "9", parts)
    message = rf"checkpoint {run}/checkpoints/9 is damaged \(params/{name}: digest differs\)"
    with pytest.raises(UserError, match=rf"{message}: give the one before, {run}/checkpoints/8$"):
        load_parameters(run, name.partition("/")[0], SHAPES.params[name.partition("/")[0]])
    with pytest.raises(UserError, match=message):
        stored_parameters(f"{run}/checkpoints/9")
    assert int(restore(run)[0].step) == 8
    assert f"(params/{name}: digest differs): set aside as {run}/damaged-9; resuming from" in capsys.readouterr().err


def test_when_all_are_damaged_none_is_moved_and_nothing_starts_from_scratch(run):
    for step in (7, 8):
        damage(run / "checkpoints" / str(step), "manifest/data.json", FAULTS["gone"])
    with pytest.raises(
        UserError, match=rf"every checkpoint is damaged: {run}/checkpoints/8 \(.*; .*/7 \(.* start from"
    ):
        restore(run)
    assert names(run) == ["7", "8"]
    with pytest.raises(UserError, match="checkpoints/7 is damaged .*: train that run again"):
        stored_parameters(f"{run}/checkpoints/7")


def test_a_state_that_does_not_fit_is_not_damage(run):
    shapes = shapes_of(make_state(7))
    shapes.params["head"]["linear"]["bias"] = jax.ShapeDtypeStruct((4,), jnp.float32)
    with Checkpoints(run / "checkpoints", 2) as checkpoints:
        with pytest.raises(UserError, match=r"8 does not fit: params/head/linear/bias is \(3,\) there and \(4,\) here"):
            checkpoints.restore(shapes)
    assert names(run) == ["7", "8"]


class Busy(Exception):
    """How gcsfs reports that an object store does not respond."""

    code = 503


@pytest.mark.parametrize(
    "error", [PermissionError("no"), MemoryError(), ValueError("UNAVAILABLE: 503"), TimeoutError("60 s"), Busy()]
)
def test_what_goes_wrong_elsewhere_is_not_damage(run, monkeypatch, error):
    def fail(*_):
        raise error

    monkeypatch.setattr(ocp, "load_checkpointables", fail)
    with pytest.raises(type(error)) as found:
        restore(run)
    assert found.value is error
    assert names(run) == ["7", "8"]


def test_what_lies_about_is_passed_over(run, capsys):
    checkpoints = run / "checkpoints"
    (checkpoints / "20").mkdir()  # a power cut: the name is there, what was in it is not
    (checkpoints / "9.orbax-checkpoint-tmp" / "state").mkdir(parents=True)
    (checkpoints / "021").mkdir()
    (checkpoints / "notes").write_text("mine")
    (checkpoints / "19").write_text("a file")
    assert int(restore(run)[0].step) == 8
    said = capsys.readouterr().err.splitlines()
    assert [line.split(" is damaged ")[0] for line in said] == [
        f"WARNING: checkpoint {checkpoints}/{s}" for s in (20, 19)
    ]
    assert names(run) == ["021", "7", "8", "9.orbax-checkpoint-tmp", "notes"]
    with Checkpoints(checkpoints, 2) as opened:
        opened.restore(SHAPES)
        opened.save(make_state(9, seed=9), CLOCK)
    assert_same_bits(restore(run)[0], make_state(9, seed=9))
    assert names(run) == ["021", "8", "9", "notes"]


def test_an_old_one_that_is_half_deleted_harms_nothing(run):
    """What a process leaves that is killed while it deletes."""
    damage(run / "checkpoints" / "7", "_CHECKPOINT_METADATA", None)
    damage(run / "checkpoints" / "7", "state/manifest.ocdbt", None)
    with Checkpoints(run / "checkpoints", 2) as checkpoints:
        assert int(checkpoints.restore(SHAPES)[0].step) == 8
        checkpoints.save(make_state(9, seed=9), CLOCK)
    assert names(run) == ["8", "9"]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32", "uint8", "bool", "float8_e4m3fn"])
def test_every_bit_is_in_the_digest(dtype):
    random = np.random.default_rng(0)
    for shape in [(), (7,), (3, 5), (2, 3, 4)]:
        x = np.asarray(jnp.asarray(random.integers(0, 2, shape), dtype))
        seen = {digests({"x": jnp.asarray(x)})["x"]}
        for i in range(x.size):
            other = np.array(x)
            bits = other.view(f"u{x.dtype.itemsize}").reshape(-1)
            bits[i] ^= 1 if dtype == "bool" else 1 << (i % (8 * x.dtype.itemsize))
            seen.add(digests({"x": jnp.asarray(other)})["x"])
        assert len(seen) == x.size + 1


def test_digests_know_order_and_place():
    x = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    others = [x[::-1], x[:, ::-1], x[..., ::-1], x.swapaxes(0, 1).reshape(2, 3, 4), x + 0, np.zeros_like(x), x * 0 + 1]
    found = [digests({"x": jnp.asarray(other)})["x"] for other in others]
    assert found[4] == digests({"x": jnp.asarray(x)})["x"]
    assert len(set(found)) == len(others)
    assert digests({"x": jnp.zeros((0, 3))}) == {"x": 0}


def test_digests_are_those_of_their_definition():
    """So that what is stored today is read tomorrow."""
    x = np.array([[1, 2], [3, 4]], np.float32)
    odd = lambda n: int(splitmix64(n)) | 1  # noqa: E731
    words = x.view(np.uint32).tolist()
    expected = sum(words[r][n] * odd(~r) * odd(n) for r in range(2) for n in range(2)) % 2**64
    assert digests({"x": jnp.asarray(x)}) == {"x": expected}
    assert differing({"x": jnp.asarray(x)}, {"x": expected}) == []
    assert differing({"x": jnp.asarray(x)}, {"x": expected ^ 1}) == ["x"]


def splitmix64(n):
    mask = 2**64 - 1
    n = (n + 1) * 0x9E3779B97F4A7C15 & mask
    n = (n ^ (n >> 30)) * 0xBF58476D1CE4E5B9 & mask
    n = (n ^ (n >> 27)) * 0x94D049BB133111EB & mask
    return n ^ (n >> 31)


@pytest.mark.slow
def test_a_process_killed_at_any_moment_loses_at_most_the_save_under_way(tmp_path):
    script = pathlib.Path(checkpoint_killed.__file__)
    done = subprocess.run([sys.executable, str(script), str(tmp_path), "12", "0"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert not found["wrong"] and len(found["resumed at"]) == 12
    assert found["resumed at"] == sorted(found["resumed at"]) and found["resumed at"][-1] > 0
