"""Mirrors of metrics.jsonl: what each package is called with, and that none can harm a run."""

import json
import math
import sys
import types

import pytest

from rxrx_jax.base.errors import UserError
from rxrx_jax.training.metrics import Writer, mirrors, read

LINE = {"loss": 0.5, "bad": math.nan, "name": "x", "final": True, "n": 2}


def write(workdir, mirror):
    with Writer(workdir, 0, mirror) as writer:
        writer.write(3, LINE)
        writer.write(4, {"name": "no number"})


@pytest.fixture
def calls(monkeypatch):
    """What the three packages, which are not those of the world, are called with."""
    found = []

    class Board:
        def __init__(self, folder):
            found.append(("init", folder))

        def add_scalar(self, *args):
            found.append(args)

        def close(self):
            found.append("closed")

    tracker = types.SimpleNamespace(
        init=lambda **about: found.append(("init", about)),
        log=lambda numbers, step: found.append((numbers, step)),
        finish=lambda: found.append("closed"),
    )
    monkeypatch.setitem(sys.modules, "tensorboardX", types.SimpleNamespace(SummaryWriter=Board))
    monkeypatch.setitem(sys.modules, "wandb", tracker)
    monkeypatch.setitem(sys.modules, "trackio", tracker)
    return found


def test_tensorboard_gets_the_numbers(tmp_path, calls):
    write(tmp_path, "tensorboard")
    assert calls == [("init", str(tmp_path / "tensorboard")), ("loss", 0.5, 3), ("n", 2, 3), "closed"]


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_trackers_get_the_numbers_and_the_config_under_a_name_that_stays(tmp_path, calls, name):
    (tmp_path / "config.json").write_text(json.dumps({"seed": 3}))
    for _ in range(2):
        write(tmp_path, name)
    (_, about), numbers, closed, (_, again), *_ = calls
    assert numbers == ({"loss": 0.5, "n": 2}, 3) and closed == "closed"
    assert about == again  # a run that resumes is the same run there
    assert about["config"] == {"seed": 3} and about["project"] == "rxrx_jax" and about["resume"] == "allow"
    assert about["name"].startswith(tmp_path.name) and ("id" in about) == (name == "wandb")
    other = tmp_path / "other" / tmp_path.name
    other.mkdir(parents=True)
    write(other, name)
    key = "id" if name == "wandb" else "name"
    assert calls[-3][1][key] != about[key]  # a workdir of the same name elsewhere


@pytest.mark.parametrize("name", mirrors.NAMES)
def test_a_missing_package_is_named_with_its_extra(tmp_path, monkeypatch, name):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    package = "tensorboardX" if name == "tensorboard" else name
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf"{package} is not installed; .*pip install 'rxrx_jax\[{name}\]'"):
        Writer(tmp_path, 0, name)
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1}\n'  # the file is as it was


def test_other_names_and_none(tmp_path):
    with pytest.raises(UserError, match="mirror='mlflow': expected tensorboard, wandb, trackio, or nothing"):
        mirrors.make("mlflow", tmp_path)
    assert mirrors.make("", tmp_path) is None


def test_a_mirror_that_does_not_start_is_one_line(tmp_path, monkeypatch):
    def refuse(**about):
        raise RuntimeError("no API key\nconfigured")

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=refuse))
    with pytest.raises(UserError, match=r"mirror=wandb does not start \(RuntimeError: no API key configured\); log in"):
        mirrors.make("wandb", tmp_path)


def test_a_mirror_that_fails_is_left_and_the_run_continues(tmp_path, calls, monkeypatch, capsys):
    def fail(numbers, step):
        calls.append("tried")
        raise ConnectionError("gone")

    monkeypatch.setattr(sys.modules["wandb"], "log", fail)
    with Writer(tmp_path, 0, "wandb") as writer:
        for step in (1, 2):
            writer.write(step, {"loss": 1.0})
    assert [line["step"] for line in read(tmp_path / "metrics.jsonl")] == [1, 2]
    said = capsys.readouterr().err
    assert calls.count("tried") == 1 and said.count("WARNING: wandb gets no more numbers (ConnectionError: gone)") == 1
