"""The tables of published results: what each row trains and prints, before anything has been trained."""

import csv
import shlex

import pytest

from rxrx_jax import reproduce, tables
from rxrx_jax.base import config_flag
from rxrx_jax.data import noise
from rxrx_jax.evaluate.protocols import cellsignal, separated, stratified, wilds_mixed, wilds_ood
from rxrx_jax.report import columns, runs, table
from rxrx_jax.tables import PRIMARY

NAMES = ("wilds", "cvprw2023", "cellsignal", "mae_probe")


def values_of(run, tmp_path):
    return config_flag.values(runs.command(run, tmp_path, 0)[3:])


@pytest.mark.parametrize("name", NAMES)
def test_every_row_is_of_a_config_and_the_protocol_that_it_names(name, tmp_path):
    made = tables.load(name)
    known = {run.name: run for run in made.runs}
    used = {run.name for run in tables.chain(made, made.rows)}
    assert used == set(known) and made.seeds == 3  # no run that no row needs
    for row in made.rows:
        assert row.runs or row.published, row.labels
        for run in row.runs:
            values = values_of(known[run], tmp_path)
            assert values["data"]["name"] == "rxrx1"
            if "protocol" in made.labels:
                assert row.labels[made.labels.index("protocol")] == values["protocol"]["name"]
            if row.prefix and not row.prefix.startswith("probe/"):
                assert row.prefix.rstrip("/") in values["post_hoc"]
            if "predictions" not in values["evaluators"]:
                assert row.prefix.startswith("probe/")


@pytest.mark.parametrize("name", NAMES)
def test_only_primary_sources_are_printed_as_published(name, tmp_path):
    """Nothing is trained: whatever a cell shows is of others, and stands where its mark belongs."""
    made = tables.load(name)
    lines = table.measure(made, tmp_path, range(made.seeds))
    seen = set()
    for line in lines:
        assert line.seeds == 0 and line.marks == ""
        for column, cell in zip(made.columns, line.cells):
            if column.summary not in (columns.published, columns.reported):
                assert cell.text == "" and set(cell.values.values()) <= {""}
            elif cell.text:
                assert (cell.values["_mark"] in PRIMARY) == (column.summary is columns.published)
                assert f"[{cell.values['_mark']}]" in cell.text and cell.values["_source"]
                seen.add((line.row.labels, column.metric))
    assert seen == {(row.labels, metric) for row in made.rows for metric in row.published}
    notes = table.notes(made, lines, [])
    for row in made.rows:
        for of in row.published.values():
            said = "published" if of.mark in PRIMARY else "reported"
            assert any(f"{said}: {of.source} [{of.mark}]." in note and row.labels[0] in note for note in notes)
    table.write_csv(tmp_path / "table.csv", made, lines)
    with open(tmp_path / "table.csv", newline="") as file:
        assert {row["seeds"] for row in csv.DictReader(file)} == {"0"}


def test_the_baselines_of_wilds_are_those_of_its_protocols():
    rows = {row.labels: row for row in tables.load("wilds").rows}
    for labels, protocol in (("ERM", wilds_ood), ("ERM, mixed-to-test", wilds_mixed)):
        row = next(row for (method, _), row in rows.items() if method == labels)
        assert {metric: (of.value, of.spread) for metric, of in row.published.items()} == {
            metric: (value, spread) for metric, (value, spread, _) in protocol.PUBLISHED.items()
        }


def test_what_an_epoch_is_without_data_is_what_the_protocols_count():
    fitted = {"separated": separated, "stratified": stratified, "cellsignal": cellsignal, "wilds_mixed": wilds_mixed}
    page = noise.PAGES["rxrx1"]
    assert {name: page[name] for name in fitted} == {name: module.COUNTS["fit"][0] for name, module in fitted.items()}
    assert page["cellsignal:controls"] == cellsignal.COUNTS["fit"][0] + cellsignal.CONTROLS
    assert page["train_images"] == wilds_ood.COUNTS["fit"][0]


@pytest.mark.parametrize("name", NAMES)
def test_the_commands_of_a_dry_run_are_the_runs_in_order(name, tmp_path, capsys):
    reproduce.main([name, f"--out={tmp_path / 'out'}", "--dry-run", "--seeds=1", "--data=a folder"])
    lines = capsys.readouterr().out.splitlines()
    made, started = tables.load(name), set()
    assert len(lines) == len(made.runs) and not (tmp_path / "out").exists()
    for line in lines:
        python, m, module, workdir, dashes, *trainer = shlex.split(line)
        assert (python, m, module, dashes) == ("python", "-m", "launch.host", "--")
        values = config_flag.values(trainer)
        assert values["seed"] == 0 and values["data"]["folder"].endswith("/a folder")
        start = values["init"]["path"]
        assert start in ("", "hf://timm/resnet50.tv_in1k") or start in started
        started.add(workdir.removeprefix("--workdir="))


def test_rows_are_chosen_by_number(tmp_path, capsys):
    reproduce.main(["mae_probe", f"--out={tmp_path}", "--dry-run", "--seeds=2", "--rows=4,1"])
    assert [line.partition("-- ")[0] for line in capsys.readouterr().out.splitlines()] == [
        f"python -m launch.host --workdir={tmp_path}/runs/{name}-seed{seed} "
        for name in ("mae-s", "probe-s", "mae-b", "probe-b")
        for seed in (0, 1)
    ]
    for rows in ("0", "1,x", "99", ""):
        with pytest.raises(reproduce.UserError, match=f"--rows={rows}: .* is not one of the numbers 1 to 13 of"):
            reproduce.main(["mae_probe", f"--out={tmp_path}", "--status", f"--rows={rows}"])


def test_a_table_of_which_nothing_is_measured_is_printed_twice_with_the_same_bytes(monkeypatch, tmp_path):
    monkeypatch.setattr(reproduce.runs, "run_missing", lambda *_: None)
    monkeypatch.setattr(reproduce.runs, "code_version", lambda: "today")
    names, printed = ("table.md", "table.tex", "table.csv", "runs.md"), []
    for _ in range(2):
        reproduce.reproduce("wilds", tmp_path)
        printed.append([(tmp_path / name).read_bytes() for name in names])
    assert printed[0] == printed[1]
    markdown, latex, values, links = (content.decode() for content in printed[0])
    assert "| 0.299 ± 0.004 [P] |" in markdown and "0.365 [R] ?" in markdown and "runs.md" in markdown
    assert r"0.299 $\pm$ 0.004 [P]" in latex and "arXiv 2012.07421v3" in values and links.count("\n") == 4
    assert "0.299 ± 0.004 [P]" in (tmp_path / "report.html").read_text()
