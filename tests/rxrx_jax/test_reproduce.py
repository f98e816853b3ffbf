"""From runs to a table: what is run, what is skipped, what is computed."""

import csv
import json
import sys

import numpy as np
import pytest

from rxrx_jax import reproduce
from rxrx_jax.base.errors import UserError
from rxrx_jax.evaluate.accuracy import confidence_interval
from rxrx_jax.reproduce import Row, Run
from rxrx_jax.tables import demo

# A stand-in for rxrx_jax.main: appends its workdir to order.txt and writes a finished run.
FAKE = """
import json, pathlib, sys
out, workdir, start, cross, cpu, fail, config = sys.argv[1:]
workdir = pathlib.Path(workdir)
with open(out, "a") as f: f.write(workdir.name + "\\n")
if fail == "1": sys.exit("error: no such thing")
if start != "-": assert (pathlib.Path(start) / "metrics.jsonl").exists(), "started too early"
workdir.mkdir()
final = {"step": 1, "final": True, "in_batch/site_accuracy": 0.9, "cross_batch/site_accuracy": float(cross),
         "cross_batch/site_accuracy/A2-01": float(cross) - 0.1, "cross_batch/site_accuracy/A2-02": float(cross) + 0.1,
         "cross_batch/site_accuracy/A2": 7, "leakage/experiment_accuracy": 0.5}
done = {"step": 1, "done": True, "cpu_seconds": float(cpu), "transductive": start != "-", "parameters_sha256": "x"}
config = {"config": config, "init": {"path": start.strip("-") and start}, "resolved": {}}
(workdir / "config.json").write_text(json.dumps(config))
(workdir / "metrics.jsonl").write_text(json.dumps(final) + "\\n" + json.dumps(done) + "\\n")
"""
RUNS = (Run("second", "b.py", starts_from="first"), Run("first", "a.py"))


@pytest.fixture
def fake(monkeypatch, tmp_path):
    def command(self, out, seed):
        start = str(out / "runs" / f"{self.starts_from}-seed{seed}") if self.starts_from else "-"
        cross, cpu = (0.3 + 0.1 * seed, 10) if self.name == "first" else (0.6, 5)
        fail = "1" if self.config == "fail" else "0"
        arguments = [tmp_path / "order.txt", self.workdir(out, seed), start, cross, cpu, fail, self.seeded(seed)]
        return [sys.executable, "-c", FAKE, *map(str, arguments)]

    monkeypatch.setattr(Run, "command", command)
    monkeypatch.setattr(reproduce, "load", lambda config: {"config": config, "init": {"path": ""}})
    return tmp_path


def order(out):
    return (out / "order.txt").read_text().split()


def test_runs_wait_for_the_run_they_start_from_and_finished_ones_are_skipped(fake, capsys):
    todo = [(run, seed) for seed in range(2) for run in RUNS]
    reproduce.run_missing(todo, fake, jobs=2)
    assert sorted(order(fake)) == ["first-seed0", "first-seed1", "second-seed0", "second-seed1"]
    for seed in range(2):
        assert order(fake).index(f"first-seed{seed}") < order(fake).index(f"second-seed{seed}")
    reproduce.run_missing(todo, fake, jobs=2)
    assert len(order(fake)) == 4
    assert "4 runs are done, 0 to do" in capsys.readouterr().out
    changed = Run("first", "a.py:now=other")
    with pytest.raises(UserError, match="first-seed0 was made with another config than a.py:now=other is now"):
        reproduce.run_missing([(changed, 0)], fake, jobs=1)


def test_a_run_that_fails_is_named_with_its_log(fake):
    with pytest.raises(
        UserError, match=r"run bad with seed 0 failed: error: no such thing \(all of it in .*bad-seed0.log"
    ):
        reproduce.run_missing([(Run("bad", "fail"), 0), (Run("later", "a.py", starts_from="bad"), 0)], fake, jobs=1)
    assert order(fake) == ["bad-seed0"]


def test_numbers_of_a_row(fake):
    reproduce.run_missing([(run, seed) for seed in range(2) for run in RUNS], fake, jobs=2)
    row = reproduce.measure(1, Row("m", "image", "fixed", "first"), RUNS, fake, seeds=2)
    assert row["cross_batch"] == pytest.approx(0.35) and row["cross_batch_sd"] == pytest.approx(
        np.std([0.3, 0.4], ddof=1)
    )
    # The cell type's own line (its name may end in a digit, as HEPG2) is no unit of the interval.
    assert (row["ci_low"], row["ci_high"]) == pytest.approx(confidence_interval([0.2, 0.4, 0.3, 0.5]))
    assert row["cpu_seconds"] == 10 and row["transductive"] is False and row["leakage"] == 0.5
    child = reproduce.measure(2, Row("m2", "image", "fixed", "second"), RUNS, fake, seeds=2)
    assert child["cpu_seconds"] == 15 and child["transductive"] is True
    single = reproduce.measure(1, Row("m", "image", "fixed", "first", transductive=True), RUNS, fake, seeds=1)
    assert single["cross_batch_sd"] is None and single["transductive"] is True
    with pytest.raises(UserError, match="run first has no metric probe/cross_batch/site_accuracy"):
        reproduce.measure(1, Row("m", "image", "fixed", "first", prefix="probe/"), RUNS, fake, seeds=1)

    reproduce.write_csv(fake / "table.csv", [row, child])
    with open(fake / "table.csv", newline="") as f:
        header, first, _ = list(csv.reader(f))
    assert (
        header[:11]
        == "row method normalisation layout transductive seeds in_batch cross_batch ci_low ci_high cpu_seconds".split()
    )
    assert first[6:8] == ["0.9", "0.35"]
    text = reproduce.markdown([row, child], "T", ["a note"], "cmd")
    assert (
        "| 1 | m | image | fixed |  | 0.900 ± 0.000 | 0.350 ± 0.071 |" in text
        and "| 2 | m2 | image | fixed | T |" in text
    )


def test_the_demo_table_is_whole():
    """Every row that the demo promises, on both layouts where plate mates matter; every run used and existing."""
    runs = {run.name: run for run in demo.RUNS}
    assert len(runs) == len(demo.RUNS)
    assert all(row.run in runs for row in demo.ROWS)
    assert all(run.starts_from in runs for run in demo.RUNS if run.starts_from)
    used = {row.run for row in demo.ROWS}
    used |= {runs[name].starts_from for name in used}
    assert used - {None} == runs.keys()
    layouts = {}
    for row in demo.ROWS:
        layouts.setdefault((row.method, row.normalisation), set()).add(row.layout)
    both = {"fixed", "reshuffled"}
    for method, normalisation in (
        ("ERM", "experiment"),
        ("ERM", "plate"),
        ("post-hoc AdaBN", "dataset"),
        ("batch-pure AdaBN", "plate"),
        ("DANN, transductive", "image"),
        ("its lambda = 0 control", "image"),
        ("linear probe: MAE", "plate"),
        ("linear probe: untrained ViT", "plate"),
        ("linear probe: hand-made statistics", "plate"),
        ("linear probe: hand-made statistics, standardised per experiment", "plate"),
        ("linear probe: untrained ViT, standardised per experiment", "plate"),
    ):
        assert layouts[method, normalisation] == both, method
    assert {("ERM", "dataset"), ("ERM", "image"), ("DANN, inductive", "image")} <= layouts.keys()


def test_the_command_of_a_run(tmp_path):
    command = Run("x", "dann_vit.py:layout=fixed", starts_from="mae").command(tmp_path, 2)
    assert command[3:] == [
        "--config=dann_vit.py:layout=fixed,seed=2",
        f"--workdir={tmp_path}/runs/x-seed2",
        f"--config.init.path={tmp_path}/runs/mae-seed2",
    ]
    assert Run("x", "mae_vit.py").command(tmp_path, 0)[3] == "--config=mae_vit.py:seed=0"


def test_jobs_are_cores_without_an_accelerator(monkeypatch):
    monkeypatch.setattr(reproduce, "cores", lambda: [0, 1, 2])
    monkeypatch.setattr(reproduce.importlib.util, "find_spec", lambda name: None)
    assert reproduce.default_jobs() == 3
    monkeypatch.setattr(reproduce.importlib.util, "find_spec", lambda name: name == "libtpu")
    assert reproduce.default_jobs() == 1


def test_metrics_lines_are_flat_json(fake):
    reproduce.run_missing([(RUNS[1], 0)], fake, jobs=1)
    for line in (fake / "runs" / "first-seed0" / "metrics.jsonl").read_text().splitlines():
        assert not any(isinstance(v, (dict, list)) for v in json.loads(line).values())
