"""Whose a workdir is: one run's at a time."""

import fcntl
import json
import os
import pathlib
import shutil
import sys

import pytest
import tiny

from rxrx_jax.base import command, lock
from rxrx_jax.base.errors import UserError
from rxrx_jax.base.hosts import departure
from rxrx_jax.training import claims, metrics, train

pytestmark = pytest.mark.usefixtures("small_models")


@pytest.fixture(scope="module")
def finished(folder, tmp_path_factory):
    """(workdir, values) of a finished run of two steps."""
    workdir, values = tmp_path_factory.mktemp("runs") / "a", tiny.values("convnet.py", folder, evaluators={})
    train.run(values, workdir)
    return workdir, values


def told(values, workdir, capsys) -> str:
    """The one line in which a start of the run is refused, as the command prints it."""
    capsys.readouterr()
    assert command.run(lambda _: train.run(values, workdir) and None, []) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1, err
    return err


def wait(_):
    raise AssertionError("it is free")


def test_a_second_run_in_a_workdir_is_refused_and_changes_nothing(finished, capsys):
    workdir, values = finished
    before = {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()}
    with lock.only_one(workdir, wait):
        line = told(values, workdir, capsys)
        assert f"{workdir} is in use by another run (process {os.getpid()} on " in line and "--workdir" in line
        told(values | {"measure": "synthetic"}, workdir, capsys)
    assert {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()} == before
    assert metrics.finished(workdir / "metrics.jsonl")["done"] is True
    assert train.run(values, workdir)["done"] is True  # and it is free again
    assert not (workdir / "lock").exists()


def test_a_run_that_fails_before_it_begins_leaves_no_folder(folder, tmp_path, capsys):
    values = tiny.values("convnet.py", folder, **{"optim.name": "adamm"})
    assert "adamm" in told(values, tmp_path / "runs" / "a", capsys)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def pointer(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    return str(path)


@pytest.mark.parametrize("others", [False, True])
@pytest.mark.parametrize(
    "key, value, words",
    [
        ("mirror", "foo", "mirror='foo': expected"),
        ("mirror", "wandb", "wandb is not installed"),
        ("init.path", None, "is a Git LFS pointer"),
    ],
)
def test_what_is_refused_before_it_trains_leaves_nothing(
    folder, tmp_path, pointer, key, value, words, others, monkeypatch, capsys
):
    monkeypatch.setitem(sys.modules, "wandb", None)
    workdir = tmp_path / "runs" / "a"
    if others:
        workdir.mkdir(parents=True)
        (workdir / "notes.txt").write_text("mine")
    values = tiny.values("convnet.py", folder, **{key: value or pointer})
    assert words in told(values, workdir, capsys)
    assert [path.name for path in tmp_path.rglob("*")] == ["model.safetensors"] or others
    assert not others or [path.name for path in workdir.iterdir()] == ["notes.txt"]


def test_the_lock_goes_with_a_host_that_ends_at_once(tmp_path):
    with claims.alone(tmp_path / "a"):
        (tmp_path / "a" / "config.json").write_text("{}")
        departure._clean_up(UserError("refused"))
        assert not (tmp_path / "a").exists()
    with claims.alone(tmp_path / "a"):
        (tmp_path / "a" / "config.json").write_text("{}")
        departure._clean_up(OSError("lost"))  # and a restart finds what was there
        assert [path.name for path in (tmp_path / "a").iterdir()] == ["config.json"]


def test_where_files_cannot_be_locked_a_run_says_so_and_trains(tmp_path, monkeypatch, capsys):
    def flock(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", flock)
    with claims.alone(pathlib.Path(tmp_path / "a")):
        assert (tmp_path / "a").is_dir()
    assert capsys.readouterr().err == (
        f"note: {tmp_path}/a: its file system does not lock files (Function not implemented): nothing keeps a second "
        "run out\n"
    )


@pytest.fixture
def copy(finished, tmp_path):
    """(workdir, values) to break."""
    workdir, values = finished
    return pathlib.Path(shutil.copytree(workdir, tmp_path / "a")), values


def no_longer_done(workdir):
    path = workdir / "metrics.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))


@pytest.mark.parametrize("done", [True, False])
@pytest.mark.parametrize(
    "name, content, words",
    [
        ("metrics.jsonl", b'{"step": 1}\xff\n{"step": 2}\n', "is not text"),
        ("metrics.jsonl", b"[1]\n", ":1 is not an object with a step"),
        ("metrics.jsonl", b"{}\n", ":1 is not an object with a step"),
        ("metrics.jsonl", b'{"step": 1}\n{"step": "2"}\n{"step": 3}\n', ":2 is not an object with a step"),
        ("metrics.jsonl", b"[" * 100_000 + b"\n{}\n", ":1 is not JSON"),
        ("metrics.jsonl", None, "metrics.jsonl cannot be read (Is a directory)"),
        ("config.json", b"", "is damaged (empty)"),
        ("config.json", b'{"seed": 1, "opt', "is damaged ("),
        ("config.json", b"[]", "is damaged (not a JSON object)"),
        ("config.json", b"\xff\xfe", "is damaged ("),
        ("config.json", None, "config.json cannot be read (Is a directory)"),
        ("checkpoints", b"", "checkpoints is a file where"),
    ],
)
def test_a_damaged_workdir_is_one_line_and_stays_as_it_is(copy, name, content, words, done, capsys):
    workdir, values = copy
    done or no_longer_done(workdir)
    path = workdir / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    path.mkdir() if content is None else path.write_bytes(content)
    line = told(values, workdir, capsys)
    assert words in line and str(path) in line
    assert path.is_dir() if content is None else path.read_bytes() == content


def test_a_config_that_a_power_cut_left_empty_before_anything_was_trained_is_written_again(copy):
    workdir, values = copy
    shutil.rmtree(workdir / "checkpoints")
    (workdir / "metrics.jsonl").unlink()
    (workdir / "config.json").write_text("")
    assert train.run(values, workdir)["done"] is True
    assert json.loads((workdir / "config.json").read_text())["seed"] == values["seed"]


@pytest.mark.parametrize("step", [1, 2])
def test_done_needs_the_checkpoint_that_it_names(copy, step, capsys):
    workdir, values = copy
    no_longer_done(workdir)
    shutil.rmtree(workdir / "checkpoints" / "2")
    with open(workdir / "metrics.jsonl", "a") as file:
        file.write(json.dumps({"step": step, "done": True}) + "\n")
    assert f"says done at step {step}, and checkpoints/2 is not there" in told(values, workdir, capsys)


@pytest.mark.parametrize("edit", [{}, {"parameters_sha256": "0" * 64}, {"parameters_sha256": 1 << 70}])
def test_done_needs_the_hash_of_the_parameters_that_it_ended_with(copy, edit, capsys):
    workdir, values = copy
    *before, last = metrics.read(workdir / "metrics.jsonl")
    forged = last | edit if edit else {"step": last["step"], "done": True}
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in [*before, forged]))
    line = told(values, workdir, capsys)
    assert f"{workdir}/metrics.jsonl says done with parameters_sha256 " in line and "remove its last line" in line
    no_longer_done(workdir)
    assert train.run(values, workdir)["parameters_sha256"] == last["parameters_sha256"]


@pytest.mark.parametrize("left", ["metrics.jsonl", "checkpoints"])
@pytest.mark.parametrize("lr", [None, 0.5])
def test_a_run_without_its_config_is_refused(copy, left, lr, capsys):
    workdir, values = copy
    (workdir / "config.json").unlink()
    shutil.rmtree(workdir / "checkpoints") if left == "metrics.jsonl" else (workdir / "metrics.jsonl").unlink()
    other = values | {"optim": values["optim"] | {"lr": lr}} if lr else values
    assert f"{workdir} holds a run and its config.json is not there: put back a copy" in told(other, workdir, capsys)
    assert not (workdir / "config.json").exists()


def test_checkpoints_alone_are_a_run_of_their_config(copy, capsys):
    workdir, values = copy
    (workdir / "metrics.jsonl").unlink()
    other = values | {"optim": values["optim"] | {"lr": 0.5}}
    assert "holds a run with another config: optim.lr" in told(other, workdir, capsys)


def test_a_run_whose_checkpoints_are_gone_says_that_it_begins_again(copy, capsys):
    workdir, values = copy
    no_longer_done(workdir)
    shutil.rmtree(workdir / "checkpoints")
    assert train.run(values, workdir)["done"] is True
    assert f"WARNING: {workdir} has metrics up to step 2 and no checkpoint: starting from" in capsys.readouterr().err
    assert train.run(values | {"seed": 1}, workdir.parent / "b")["done"] is True
    assert "WARNING" not in capsys.readouterr().err


def test_a_workdir_of_another_config_names_the_keys_that_differ(finished, capsys):
    workdir, values = finished
    other = values | {"optim": values["optim"] | {"lr": 0.5}, "seed": 3, "log_epochs": 1}
    del other["log_steps"]
    line = told(other, workdir, capsys)
    assert "log_epochs is absent there and 1 here; log_steps is 1 there and absent here; optim.lr is 0.002" in line
    assert line.endswith("(and 1 more); use another --workdir\n") and "delete" not in line
