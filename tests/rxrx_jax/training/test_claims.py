"""Whose a workdir is: one run's at a time."""

import fcntl
import os
import pathlib

import pytest
import step_tools
import tiny

from rxrx_jax.base import command, lock
from rxrx_jax.training import claims, metrics, train


@pytest.fixture(scope="module", autouse=True)
def small():
    with step_tools.small_models():
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


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
