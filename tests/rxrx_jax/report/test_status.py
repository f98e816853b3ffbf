"""Where a table stands, from made-up workdirs: states, costs by hand, and the links of runs.md."""

import json

import pytest

from rxrx_jax.base import lock
from rxrx_jax.report import columns, runs, sources, status
from rxrx_jax.tables import Column, Published, Row, Run, Table
from rxrx_jax.training.describe import Figures

FLOP, STATE = 3.6e17, 5 * 10**8  # an hour at 100 TFLOP/s
RUNS = (Run("probe", "b.py", "mae"), Run("mae", "a.py"), Run("other", "c.py"))
ROWS = (Row(("x",), "probe"), Row(("y",), "other"), Row(("z",), published={"": Published(0.5, "P", "a paper")}))
TABLE = Table(
    title="T", labels=("method",), columns=[Column("published", "", columns.published)], rows=ROWS, runs=RUNS, seeds=2
)


@pytest.fixture
def out(monkeypatch, tmp_path):
    """The folder of a table whose configs are not read."""
    figures = Figures(10, 8, 80, "", 1, FLOP / 80, FLOP, STATE, 0)
    monkeypatch.setattr(status.describe, "measure", lambda values: figures)
    monkeypatch.setattr(status.describe, "steps", lambda values: figures.steps)
    today = lambda run, out, seed: {"keep_checkpoints": 2, "config": run.seeded(seed)}  # noqa: E731
    monkeypatch.setattr(runs, "values", today)
    monkeypatch.setattr(runs, "code_version", lambda: "today")
    status._figures.cache_clear()
    return tmp_path


def write(out, name, seed, *lines, code="today"):
    folder = runs.workdir(name, out, seed)
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps({"step": 10} | line) + "\n" for line in lines))
    run = next(run for run in RUNS if run.name == name)
    (folder / "checkpoints").mkdir()
    stored = runs.values(run, out, seed) | {"resolved": {"provenance": {"code": code, "data": "d"}}}
    (folder / "config.json").write_text(json.dumps(stored))


def end(hours=0.5, devices=4, **more):
    facts = {"train_seconds": 3600 * hours, "device": f"{devices} x A", "data": "fingerprint f manifest m"}
    return {"done": True, "parameters_sha256": "0123456789abcdef", "code": "today"} | facts | more


def test_states(out):
    mae = RUNS[1]
    assert status.state(mae, out, 0) == "missing"
    write(out, "mae", 0, end())
    write(out, "mae", 1, end(), code="yesterday")
    write(out, "other", 0, {"loss": 1.0})
    assert [status.state(mae, out, seed) for seed in (0, 1)] == ["done", "stale"]
    assert status.state(RUNS[2], out, 0) == "missing"  # interrupted
    with lock.only_one(runs.workdir("other", out, 0), lambda holder: None):
        assert status.state(RUNS[2], out, 0) == "running"
        assert lock.holder(runs.workdir("other", out, 0)).startswith("process ")
    assert status.state(RUNS[2], out, 0) == "missing" and lock.holder(out) == lock.holder(out / "none") == ""


def test_costs_by_hand(out):
    write(out, "mae", 0, end(hours=0.5, devices=4))
    write(out, "other", 0, {"loss": 1.0, "teraflops_per_chip": 200.0})
    done, half, none = (status.cost(run, out, range(2), 100.0) for run in (RUNS[1], RUNS[2], RUNS[0]))
    assert (none.flop, none.hours, none.left, none.measured) == (2 * FLOP, 2.0, 2.0, False)
    assert (done.hours, done.left, done.measured) == (0.5 * 4 + 1, 1.0, True)
    assert (half.hours, half.left, half.measured) == (1.0, 1.0, True)  # two seeds at the rate that one has measured
    assert none.disk == 2 * 2 * STATE

    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in
            status.text(TABLE, ROWS, out, range(2), 100.0).splitlines() if line.startswith("|")]  # fmt: skip
    head, bars, x, y, z, total = rows
    assert {len(row) for row in rows} == {8} and bars == ["---:", "---", "---:", "---", *["---:"] * 4]
    assert head == ["row", "method", "seeds", "state", "FLOP", "device hours", "of these left", "disk, GB"]
    assert x == ["1", "x", "2", "1 done, 3 missing", "1.4e+18", "5", "3", "4"]  # its own runs and those it starts from
    assert y == ["2", "y", "2", "missing", "7.2e+17", "1*", "1*", "2"] and z[3] == "of others"
    assert total == ["", "all, each run once", "", "", "2.2e+18", "6", "4", "6"]


def test_a_dry_run_names_what_is_missing_alone(out):
    write(out, "mae", 0, end())
    lines = status.launches(TABLE, ROWS, out, range(1))
    assert [line.split()[3] for line in lines] == [f"--workdir={out}/runs/{name}-seed0" for name in ("probe", "other")]
    assert lines[0].endswith(f"-- --config=b.py:seed=0 --config.init.path={out}/runs/mae-seed0")


def test_every_number_leads_to_its_run(out):
    for name in ("mae", "probe"):
        write(out, name, 1, end())
    text = sources.markdown(TABLE, out, range(2))
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if "|" in line]
    head, _, probe, mae = table
    assert dict(zip(head, probe)) == {
        "rows": "1", "run": "probe", "starts from": "mae", "seed": "1", "code": "today", "device": "4 x A",
        "workdir": "[probe-seed1](<runs/probe-seed1>)", "config": "[config.json](<runs/probe-seed1/config.json>)",
        "checkpoint": "[checkpoints/10](<runs/probe-seed1/checkpoints/10>)", "parameters": "0123456789ab",
        "data": "fingerprint f manifest m",
    }  # fmt: skip
    assert dict(zip(head, mae))["rows"] == "" and (out / "runs/probe-seed1/config.json").exists()
