"""Training runs of a table: what is run, what is skipped, what is stale and run again."""

import json
import os
import sys

import pytest

from rxrx_jax.base.config import flatten
from rxrx_jax.base.errors import UserError
from rxrx_jax.report import runs
from rxrx_jax.tables import Run

# A stand-in for rxrx_jax.main: appends its workdir to order.txt and writes a finished run.
FAKE = """
import json, pathlib, sys
out, workdir, start, fail, config, code = sys.argv[1:]
workdir = pathlib.Path(workdir)
with open(out, "a") as f: f.write(workdir.name + "\\n")
if fail == "1": sys.exit("error: no such thing")
if start != "-": assert (pathlib.Path(start) / "metrics.jsonl").exists(), "started too early"
workdir.mkdir()
resolved = {"provenance": {"code": code, "data": "d"}} if code else {}
config = {"config": config, "init": {"path": start.strip("-") and start}, "resolved": resolved}
(workdir / "config.json").write_text(json.dumps(config))
(workdir / "metrics.jsonl").write_text(json.dumps({"step": 1, "done": True}) + "\\n")
"""
RUNS = (Run("second", "b.py", starts_from="first"), Run("first", "a.py"))
TODO = [(run, seed) for seed in range(2) for run in RUNS]


@pytest.fixture
def fake(monkeypatch, tmp_path):
    def command(run, out, seed):
        start = str(runs.workdir(run.starts_from, out, seed)) if run.starts_from else "-"
        fail = "1" if run.config == "fail" else "0"
        arguments = [tmp_path / "order.txt", runs.workdir(run.name, out, seed), start, fail, run.seeded(seed)]
        return [sys.executable, "-c", FAKE, *map(str, arguments), os.environ.get("CODE", "today")]

    monkeypatch.setattr(runs, "command", command)
    monkeypatch.setattr(runs, "values", lambda run, out, seed: {"config": run.seeded(seed), "init": {"path": ""}})
    monkeypatch.setattr(runs, "code_version", lambda: "today")
    return tmp_path


def order(out):
    return (out / "order.txt").read_text().split()


def test_runs_wait_for_the_run_they_start_from_and_finished_ones_are_skipped(fake, capsys):
    runs.run_missing(TODO, fake, jobs=2)
    assert sorted(order(fake)) == ["first-seed0", "first-seed1", "second-seed0", "second-seed1"]
    for seed in range(2):
        assert order(fake).index(f"first-seed{seed}") < order(fake).index(f"second-seed{seed}")
    runs.run_missing(TODO, fake, jobs=2)
    assert len(order(fake)) == 4
    assert "4 runs are done, 0 to do" in capsys.readouterr().out


def test_a_run_that_fails_is_named_with_its_log(fake):
    with pytest.raises(
        UserError, match=r"run bad with seed 0 failed: error: no such thing \(all of it in .*bad-seed0.log"
    ):
        runs.run_missing([(Run("bad", "fail"), 0), (Run("later", "a.py", starts_from="bad"), 0)], fake, jobs=1)
    assert order(fake) == ["bad-seed0"]


def test_a_run_that_fails_keeps_only_those_that_start_from_it(fake, capsys):
    later = [Run("later", "a.py", starts_from="bad"), Run("last", "a.py", starts_from="later")]
    todo = [(run, seed) for run in (Run("bad", "fail"), *later, Run("other", "a.py")) for seed in (0, 1)]
    with pytest.raises(UserError, match="run bad with seed 0 failed: .*; 1 more failed, named above$"):
        runs.run_missing(todo, fake, jobs=1)
    assert order(fake) == ["bad-seed0", "bad-seed1", "other-seed0", "other-seed1"]
    assert "other seed 1 done, 0 of 8 left" in capsys.readouterr().out


def test_runs_of_other_code_config_or_data_are_stale(fake, monkeypatch):
    runs.run_missing(TODO, fake, jobs=2)
    assert runs.list_stale(TODO, fake) == []
    changed = Run("first", "a.py:now=other")
    assert runs.list_stale([(changed, 0)], fake) == ["first, seed 0: another config (config)"]
    monkeypatch.setattr(runs, "data_today", lambda settings: "e")
    assert runs.list_stale([(RUNS[1], 0)], fake) == ["first, seed 0: other data"]
    monkeypatch.setattr(runs, "data_today", lambda settings: "d")  # as it is stored
    assert runs.list_stale([(RUNS[1], 0)], fake) == []
    monkeypatch.setattr(runs, "code_version", lambda: "tomorrow")
    assert runs.list_stale(TODO[1:2] + TODO[3:], fake) == ["first, seed 0, 1: other code (today, now tomorrow)"]
    monkeypatch.setattr(runs, "NAMED", 1)
    assert runs.list_stale(TODO, fake) == ["4 runs, second among them: other code (today, now tomorrow)"]
    path = runs.workdir("first", fake, 0) / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"resolved": {}}))
    assert runs.stale(RUNS[1], fake, 0) == ["its provenance is unknown"]
    path.write_text("[")
    assert runs.list_stale([(RUNS[1], 0)], fake) == ["first, seed 0: its config.json cannot be read"]
    assert runs.stale(Run("never", "a.py"), fake, 0) == []


@pytest.mark.parametrize(
    "run, key, value",
    [
        (Run("x", "convnet.py", overrides={"total_steps": 30}), "total_epochs", None),
        (Run("x", "convnet.py", overrides={"evaluators.leakage": False}), "evaluators.leakage", None),
        (
            Run("x", "mae_vit.py", overrides={"task.decoder": (64, 1, 4), "data.folder": "f"}),
            "task.decoder",
            (64, 1, 4),
        ),
        (Run("x", "linear_probe.py", starts_from="mae"), "task.name", "probe"),
    ],
)
def test_a_run_is_compared_with_what_its_command_makes(run, key, value, monkeypatch, tmp_path):
    """Whatever the override replaces or removes, the run is not stale until the config changes."""
    monkeypatch.setattr(runs, "code_version", lambda: "today")
    folder = runs.workdir("x", tmp_path, 3)
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text(json.dumps({"step": 1, "done": True}) + "\n")
    stored = runs.values(run, tmp_path, 3) | {"resolved": {"provenance": {"code": "today"}}}
    assert stored["seed"] == 3 and flatten(stored).get(key) == value
    for changes, expected in ({}, []), ({"accumulate": 2}, ["another config (accumulate)"]):
        (folder / "config.json").write_text(runs.to_json(stored | changes))
        assert runs.stale(run, tmp_path, 3) == expected


def test_fresh_runs_again_what_is_stale_and_what_starts_from_it(fake, monkeypatch, capsys):
    alone = Run("alone", "c.py")
    todo = [*TODO[:2], (alone, 0)]
    runs.run_missing(todo, fake, jobs=1)
    runs.remove_stale(todo, fake)
    runs.run_missing(todo, fake, jobs=1)
    assert len(order(fake)) == 3  # nothing was stale
    path = runs.workdir("first", fake, 0) / "config.json"
    path.write_text(path.read_text().replace("today", "yesterday"))
    kept = runs.workdir("alone", fake, 0) / "config.json"
    made = kept.stat().st_mtime_ns
    runs.remove_stale(todo, fake)
    runs.run_missing(todo, fake, jobs=1)
    assert order(fake)[3:] == ["first-seed0", "second-seed0"] and kept.stat().st_mtime_ns == made
    assert runs.list_stale(todo, fake) == []
    assert "first seed 0 is run again" in capsys.readouterr().out


def test_the_command_of_a_run(tmp_path):
    command = runs.command(Run("x", "dann_vit.py:layout=fixed", starts_from="mae"), tmp_path, 2)
    assert command[3:] == [
        "--config=dann_vit.py:layout=fixed,seed=2",
        f"--workdir={tmp_path}/runs/x-seed2",
        f"--config.init.path={tmp_path}/runs/mae-seed2",
    ]
    assert runs.command(Run("x", "mae_vit.py"), tmp_path, 0)[3] == "--config=mae_vit.py:seed=0"


def test_jobs_are_cores_without_an_accelerator(monkeypatch):
    monkeypatch.setattr(runs, "cores", lambda: [0, 1, 2])
    monkeypatch.setattr(runs.importlib.util, "find_spec", lambda name: None)
    assert runs.default_jobs() == 3
    monkeypatch.setattr(runs.importlib.util, "find_spec", lambda name: name == "libtpu")
    assert runs.default_jobs() == 1
