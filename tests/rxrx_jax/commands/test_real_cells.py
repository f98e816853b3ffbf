"""The table of real cells: its rows and runs, from made-up sets, and short runs of every kind."""

import json
import pathlib
import re

import pytest
from crops_tools import write
from scipy.special import stdtrit

from rxrx_jax import crops_config, reproduce, tables
from rxrx_jax.base import command
from rxrx_jax.base.config import load
from rxrx_jax.base.errors import UserError
from rxrx_jax.report import runs
from rxrx_jax.training import metrics, train
from rxrx_jax.weights import efficientnet


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A set with controls and one without."""
    folder = tmp_path_factory.mktemp("data")
    write(folder / "drugs", batches=2, per=10)
    write(folder / "plain", batches=3, per=8, channels=1, classes=("dots", "stripes", "rings"))
    return folder


def rows_of(table, name):
    return {row.labels[:2]: row for row in table.rows if row.labels[2] == name}


def test_rows_and_runs_of_every_set(data, monkeypatch):
    monkeypatch.setattr(efficientnet, "published", lambda: pathlib.Path("lite0.pth"))
    table = tables.load("real_cells", data)
    drugs, plain = rows_of(table, "drugs"), rows_of(table, "plain")
    assert list(drugs) == list(plain)
    assert drugs["ERM", "dataset"].run == ("drugs-0-erm", "drugs-1-erm") and len(plain["ERM", "dataset"].run) == 3
    for labels, row in plain.items():
        needs = labels[0] == "control mean" or "controls" in labels[1]
        assert bool(row.runs) != needs and bool(drugs[labels].runs) != (labels[0] == "CORAL"), labels
    assert all(row.baseline == f"{row.labels[2]}/erm" for row in table.rows if row.runs and not row.name)
    probes = [run for run in table.runs if run.name.endswith("-probe")]
    assert [run.starts_from for run in probes] == [run.name.replace("probe", "mae") for run in probes]
    imagenet = [run for run in table.runs if "imagenet" in run.name]
    assert len(imagenet) == 2 * 5 and all(run.overrides == {"init.path": "lite0.pth"} for run in imagenet)
    assert any("drugs: 60 images of 16x16x2; 3 classes" in note for note in table.notes)

    monkeypatch.setattr(efficientnet, "published", lambda: None)
    without = tables.load("real_cells", data)
    assert not any("imagenet" in run.name for run in without.runs) and len(without.rows) == len(table.rows)
    assert any("pip install 'rxrx_jax[imagenet]'" in note for note in without.notes)


def miniature(run, workdir, **changes):
    """A run of the table, of two steps of tiny networks; returns its last evaluation and the last line as one."""
    values = load(run.seeded(0))
    values |= {"total_steps": 2, "log_steps": 1}
    values["data"]["minibatch"] = 8
    if values["data"]["unlabelled_minibatch"]:
        values["data"]["unlabelled_minibatch"] = 4
    if "widths" in values["model"]:
        values["model"]["widths"] = (4, 8)
    values |= changes
    train.run(values, workdir)
    lines = metrics.read(workdir / metrics.NAME)
    return lines[-1] | next((line for line in lines if line.get("final")), {})


def named(table, name):
    return next(run for run in table.runs if run.name == name)


def test_erm_and_what_is_read_of_it(data, tmp_path):
    table = tables.load("real_cells", data)
    found = miniature(named(table, "drugs-1-erm"), tmp_path / "run")
    needed = [row for row in table.rows if row.labels[2] == "drugs" and "drugs-1-erm" in row.runs]
    assert len(needed) == 4
    for row in needed:
        for metric in ("in_batch/site_accuracy", "cross_batch/site_accuracy", "cross_batch/balanced_accuracy"):
            assert 0 <= found[row.prefix + metric] <= 1
    marks = {row.prefix: found[f"marks/{row.prefix}cross_batch"] for row in needed}
    assert marks == {"": "", "adabn/": "T", "ttbna/": "T", "control_mean/": "C"}
    assert found["cross_batch/sites"] == 20  # no controls
    assert json.loads(found["cross_batch/experiments"]) == {"unspecified": ["b1"]}
    assert runs.stale(named(table, "drugs-1-erm"), tmp_path, 0) == []


def test_a_set_that_has_changed_since_is_refused(data, tmp_path):
    table = tables.load("real_cells", data)
    run = named(table, "plain-0-erm")
    values = load(run.seeded(0))
    values["data"]["crops"]["sha256"] = "0" * 64
    with pytest.raises(UserError, match="plain has changed since this run was planned"):
        train.run(values, tmp_path / "run")
    values["data"]["crops"] |= {"sha256": "", "fold": 3}
    with pytest.raises(UserError, match="data.crops.fold=3: .* has folds 0 to 2"):
        train.run(values, tmp_path / "run")


def test_mistakes_are_one_line(data, tmp_path, capsys):
    for arguments, message in (
        (["real_cells"], "table real_cells is of data of yours: add --data=DIR"),
        (["demo", f"--data={data}"], "table demo makes the worlds that it trains on; leave it out"),
        (["real_cells", f"--data={tmp_path}"], "no metadata.csv there or in a folder of it"),
    ):
        assert command.run(reproduce.main, [*arguments, f"--out={tmp_path / 'out'}"]) == 2
        assert message in capsys.readouterr().err
    with pytest.raises(UserError, match="config argument stage=map: expected classify, mae, probe"):
        load(f"{crops_config.__file__}:stage=map")
    write(tmp_path / "a,b")
    with pytest.raises(UserError, match="a folder with a comma cannot be named in a config"):
        tables.load("real_cells", tmp_path)


def test_the_table_and_the_page_are_made_of_the_folds(data, tmp_path, monkeypatch, capsys):
    """Of made-up runs, in which each fold of a set has an accuracy of its own."""
    monkeypatch.setattr(efficientnet, "published", lambda: None)
    table = tables.load("real_cells", data / "plain")

    def run_missing(todo, out, jobs, ended):
        for run, seed in todo:
            fold, final = int(run.name.split("-")[1]), {"step": 3, "final": True}
            for prefix in {row.prefix for row in table.rows if run.name in row.runs}:
                for role, value in (("in_batch", 0.9), ("cross_batch", 0.4 + 0.1 * fold)):
                    name = f"{prefix}{role}"
                    final |= {f"{name}/site_accuracy": value, f"{name}/site_accuracy/b{fold}": value}
                    final |= {f"{name}/balanced_accuracy": value - 0.05, f"marks/{name}": "", f"{name}/sites": 24}
                    final[f"{name}/experiments"] = json.dumps({"unspecified": [f"b{fold}"]})
            lines = [{"step": i, "loss": 1.0 / i, "accuracy": 0.95} for i in (1, 2, 3)]
            lines += [final, {"step": 3, "done": True, "cpu_seconds": 7.0}]
            workdir = runs.workdir(run.name, out, seed)
            workdir.mkdir(parents=True)
            (workdir / metrics.NAME).write_text("".join(json.dumps(line) + "\n" for line in lines))

    monkeypatch.setattr(runs, "run_missing", run_missing)
    lines = reproduce.reproduce("real_cells", tmp_path / "out", data=data / "plain")
    half = stdtrit(2, 0.975) * 0.1 / 3**0.5
    for line in lines:
        values = {column.field: cell.values for column, cell in zip(table.columns, line.cells)}
        if not line.row.runs:
            assert not any(cell.text for cell in line.cells)
            continue
        assert values["cross_batch"][""] == pytest.approx(0.5) and values["cross_balanced"][""] == pytest.approx(0.45)
        assert values["ci"]["_low"] == pytest.approx(0.5 - half) and values["ci"]["_high"] == pytest.approx(0.5 + half)
        if line.row.baseline:
            assert values["difference"][""] == values["difference"]["_low"] == pytest.approx(0)
        assert values["cpu_seconds"][""] == (14 if "probe/" in line.row.prefix else 7)
    text = (tmp_path / "out" / "table.md").read_text()
    assert "t over 3 folds" in text and "real_cells --data=DIR --out=DIR --seeds=1" in text
    page = (tmp_path / "out" / "report.html").read_text()
    for fold in range(3):
        assert re.search(rf">b{fold}</td><td[^>]*>cross-batch</td><td[^>]*>0\.{4 + fold}00<", page)


@pytest.mark.full
def test_the_whole_table_of_one_set_and_again(data, tmp_path, monkeypatch, capsys):
    """Every kind of run, in this process."""
    ran = []

    def run_missing(todo, out, jobs, ended):
        for run, seed in todo:
            if not runs.is_done(run, out, seed):
                start = {"init": {"path": str(runs.workdir(run.starts_from, out, seed))}} if run.starts_from else {}
                miniature(run, runs.workdir(run.name, out, seed), **start)
                ran.append(run.name)

    monkeypatch.setattr(efficientnet, "published", lambda: None)
    monkeypatch.setattr(runs, "run_missing", run_missing)
    lines = reproduce.reproduce("real_cells", tmp_path, data=data / "drugs")
    assert len(ran) == 2 * 6  # no CORAL
    text = (tmp_path / "table.md").read_text()
    assert "t over 2 folds" in text and "--data=DIR" in text and "sphered on controls" in text
    for line in lines:
        values = [cell.values.get("") for cell in line.cells[1:3]]
        assert all(0 <= value <= 1 for value in values) if line.row.runs else values == [None, None]
    again = reproduce.reproduce("real_cells", tmp_path, data=data / "drugs")
    assert len(ran) == 2 * 6 and again == lines
    page = (tmp_path / "report.html").read_text()
    assert "Accuracy within and across the batches of real cells" in page
