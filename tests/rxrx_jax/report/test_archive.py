"""The archive of a table's finished runs: what it keeps, and a table that resumes from it where no workdir is."""

import json

import pytest

from rxrx_jax import reproduce
from rxrx_jax.base.errors import UserError
from rxrx_jax.report import columns, runs
from rxrx_jax.report import table as writers
from rxrx_jax.report.runs import archive
from rxrx_jax.tables import Column, Row, Run, Table

RUNS = (Run("probe", "b.py", starts_from="mae"), Run("mae", "a.py"), Run("erm", "c.py"))
ROWS = (Row(("probe",), "probe"), Row(("ERM",), "erm"))
SHOWN = (
    Column("cross-batch", "cross_batch/site_accuracy", columns.mean),
    Column("training", "accuracy", columns.training_accuracy),
    Column("CPU s", summary=columns.cpu_seconds),
    Column("marks", summary=columns.marks),
)
TABLE = Table(title="T", labels=("method",), columns=SHOWN, rows=ROWS, runs=RUNS, worlds=(3, 5))
JOBS = [(run, seed) for seed in TABLE.worlds for run in RUNS]


@pytest.fixture(autouse=True)
def today(monkeypatch):
    """Configs that are not read."""
    found = {"code": "today"}
    monkeypatch.setattr(runs, "values", lambda run, out, seed: {"config": run.seeded(seed), "init": {"path": ""}})
    monkeypatch.setattr(runs, "code_version", lambda: found["code"])
    return found


def finish(run, out, seed, accuracy=0.5, lines=200):
    folder = runs.workdir(run.name, out, seed)
    folder.mkdir(parents=True)
    (folder / "checkpoints").mkdir()
    start = {"path": str(runs.workdir(run.starts_from, out, seed)) if run.starts_from else ""}
    config = runs.values(run, out, seed) | {"init": start, "resolved": {"provenance": {"code": "today", "data": "d"}}}
    (folder / "config.json").write_text(json.dumps(config))
    training = [{"step": i, "loss": 1 / i, "accuracy": i / lines, "eta_seconds": 9.0} for i in range(1, lines + 1)]
    final = {"step": lines, "final": True, "cross_batch/site_accuracy": accuracy + seed / 100, "marks/cross_batch": "T"}
    end = {"step": lines, "done": True, "cpu_seconds": 10.0, "parameters_sha256": "ab", "data": "d"}
    text = "".join(json.dumps(line) + "\n" for line in [*training, final, end])
    (folder / "metrics.jsonl").write_text(text)


def names(out):
    return sorted(path.name for path in (out / "runs").iterdir())


def test_a_table_from_the_archive_is_the_table_of_the_workdirs(tmp_path):
    here, there, path = tmp_path / "here", tmp_path / "there", tmp_path / "docs" / "runs.jsonl"
    for run, seed in JOBS:
        finish(run, here, seed)
    archive.add(JOBS, here, path)
    lines = path.read_text().splitlines()
    order = [(json.loads(line)["run"], json.loads(line)["seed"]) for line in lines]
    assert order == sorted((run.name, seed) for run, seed in JOBS) and str(tmp_path) not in path.read_text()
    archive.restore(JOBS, JOBS, there, path)
    assert names(there) == names(here)
    printed = [writers.measure(TABLE, out, TABLE.worlds) for out in (here, there)]
    assert printed[0] == printed[1] and printed[0][0].cells[0].values[""] == pytest.approx(0.54)
    assert printed[0][0].marks == "T" and [cell.text for cell in printed[0][1].cells][1] == "0.978"
    for run, seed in JOBS:
        assert runs.is_done(run, there, seed) and runs.stale(run, there, seed) == []

    text = path.read_bytes()  # what came from it goes into it as it is
    archive.add(JOBS, there, path)
    assert path.read_bytes() == text


def test_a_curve_keeps_its_ends_and_is_thinned_once():
    lines = [{"step": i, "loss": 1.0, "accuracy": 0.5, "data_wait": 0.0} for i in range(500)]
    lines.insert(250, {"step": 250, "final": True, "x": 1})
    found = archive.thinned(lines)
    steps = [line["step"] for line in found if "loss" in line]
    assert len(steps) == archive.POINTS and steps[0] == 0 and steps[-archive.LAST :] == list(range(488, 500))
    assert {"step": 250, "final": True, "x": 1} in found and archive.thinned(found) == found
    assert "data_wait" not in found[0]


def test_a_later_run_takes_the_place_of_an_earlier_one(tmp_path):
    path = tmp_path / "runs.jsonl"
    for out, accuracy in (("a", 0.1), ("b", 0.2)):
        finish(RUNS[2], tmp_path / out, 3, accuracy)
        archive.add(JOBS, tmp_path / out, path)
    (entry,) = archive.read(path).values()
    assert entry["metrics"][-2]["cross_batch/site_accuracy"] == pytest.approx(0.23)


def test_what_is_to_be_trained_gets_the_checkpoint_that_it_starts_from(tmp_path, capsys):
    here, there, path = tmp_path / "here", tmp_path / "there", tmp_path / "runs.jsonl"
    for run in RUNS[1:]:
        finish(run, here, 3)
    archive.add(JOBS, here, path)
    jobs = [(run, 3) for run in RUNS]
    archive.restore(jobs, [(RUNS[2], 3)], there, path)  # the probe's row is not asked for
    assert names(there) == ["erm-seed3", "mae-seed3"]
    archive.restore(jobs, jobs, there, path)
    assert names(there) == ["erm-seed3"] and "mae seed 3 is run again: probe starts from" in capsys.readouterr().out
    finish(RUNS[1], there, 3)
    archive.restore(jobs, jobs, there, path)  # its own checkpoint is there
    assert names(there) == ["erm-seed3", "mae-seed3"]


def test_another_config_is_not_taken_and_other_code_is_unless_fresh(tmp_path, monkeypatch, today):
    here, path = tmp_path / "here", tmp_path / "runs.jsonl"
    finish(RUNS[2], here, 3)
    archive.add(JOBS, here, path)
    changed = [(Run("erm", "c.py:lr=1"), 3)]
    archive.restore(changed, changed, tmp_path / "other", path)
    assert not (tmp_path / "other").exists()
    today["code"] = "tomorrow"
    archive.restore(JOBS, JOBS, tmp_path / "fresh", path, fresh=True)
    assert not (tmp_path / "fresh").exists()
    archive.restore(JOBS, JOBS, tmp_path / "later", path)
    assert runs.list_stale(JOBS, tmp_path / "later") == ["erm, seed 3: other code (today, now tomorrow)"]


def test_each_run_is_kept_when_it_has_finished(tmp_path, monkeypatch):
    """Of an interrupted table the archive has what was finished; the next start asks for the rest alone."""
    asked, prepared, path = [], [], tmp_path / "runs.jsonl"

    def run_missing(todo, out, jobs, ended):
        missing = [(run, seed) for run, seed in todo if not runs.is_done(run, out, seed)]
        asked.append([(run.name, seed) for run, seed in missing])
        for run, seed in sorted(missing, key=lambda job: job[0].starts_from is not None)[: 2 if out.name == "a" else 9]:
            finish(run, out, seed)
            ended(run, seed)
        if out.name == "a":
            raise UserError("stopped")

    monkeypatch.setattr(reproduce.tables, "load", lambda name, data: TABLE)
    prepare = lambda todo, out: prepared.append(sorted({seed for _, seed in todo}))  # noqa: E731
    monkeypatch.setattr(reproduce.runs, "prepare_worlds", prepare)
    monkeypatch.setattr(reproduce.runs, "run_missing", run_missing)
    with pytest.raises(UserError, match="stopped"):
        reproduce.reproduce("t", tmp_path / "a", kept=path)
    assert set(archive.read(path)) == {("mae", 3), ("erm", 3)}
    lines = reproduce.reproduce("t", tmp_path / "b", kept=path)
    assert len(archive.read(path)) == 6 and [line.seeds for line in lines] == [2, 2]
    assert ("erm", 3) not in asked[1] and ("mae", 3) in asked[1]  # the probe starts from its checkpoint
    again = reproduce.reproduce("t", tmp_path / "c", kept=path)
    assert again == lines and asked[2] == [] and prepared == [[3, 5], [3, 5], []]
    assert "| elsewhere |" in (tmp_path / "c" / "runs.md").read_text()


def test_a_damaged_line_is_named(tmp_path):
    path = tmp_path / "runs.jsonl"
    path.write_text('{"run": "x", "seed": 0, "config": {}, "metrics": []}\n{"run": "x"}\n')
    with pytest.raises(UserError, match="runs.jsonl:2 is not a run of an archive"):
        archive.read(path)
