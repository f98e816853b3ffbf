"""The cells of a table from made-up runs, and the table as Markdown, LaTeX and CSV."""

import csv
import json

import numpy as np
import pytest

import rxrx_jax
from rxrx_jax import tables
from rxrx_jax.base.errors import UserError
from rxrx_jax.evaluate import intervals
from rxrx_jax.report import columns, table
from rxrx_jax.report.records import by_experiment, cell_types, marks_of
from rxrx_jax.tables import Column, Published, Row, Run, Table, demo

CROSS = "cross_batch/site_accuracy"
COLUMNS = (
    Column("marks", summary=columns.marks),
    Column("in-batch", "in_batch/site_accuracy", columns.spread),
    Column("cross-batch", CROSS, columns.spread),
    Column("95 % interval", CROSS, columns.interval, key="ci"),
    Column("difference", CROSS, columns.difference, "+.3f"),
    Column("training", "accuracy", columns.training_accuracy, ".2f"),
    Column("leakage", "leakage/experiment_accuracy", columns.above("leakage/experiment_floor"), ".2f"),
    Column("published", summary=columns.published, format=".1f"),
    Column("CPU s", summary=columns.cpu_seconds, format=".0f", key="cpu_seconds"),
)
STRATA = {"A-01": "A", "A-02": "A", "A-03": "A", "B-01": "B", "B-02": "B"}


def accuracies(prefix, values):
    found = {f"{prefix}{CROSS}/{name}": value for name, value in values.items()}
    listed = {"A": [n for n in values if n < "B"], "B": [n for n in values if n > "B"]}
    return found | {
        f"{prefix}{CROSS}": float(np.mean(list(values.values()))),
        f"{prefix}in_batch/site_accuracy": 0.9,
        f"marks/{prefix}in_batch": "",
        f"{prefix}cross_batch/experiments": json.dumps(listed),
    }


def write(out, name, seed, final, training=0.95, cpu=10.0):
    folder = out / "runs" / f"{name}-seed{seed}"
    folder.mkdir(parents=True)
    lines = [{"step": i, "loss": 1.0, "accuracy": training if i > 5 else 0.1} for i in range(1, 16)]
    if training is None:
        lines = [{"step": 1, "loss": 1.0}]
    lines += [{"step": 15, "final": True} | final]
    lines += [{"step": 15, "done": True, "cpu_seconds": cpu}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def values_of(rng, mean):
    return dict(zip(STRATA, mean + 0.1 * rng.normal(size=len(STRATA))))


def make(rows, runs, **more):
    runs = [Run(name, "x.py", start) for name, start in runs.items()]
    return Table(title="A | B", labels=("method",), columns=COLUMNS, rows=rows, runs=runs, **more)


def cells(made, line):
    return dict(zip((column.heading for column in made.columns), line.cells))


def test_a_row_of_folds_is_their_mean_and_its_interval_is_over_them(tmp_path):
    """Each fold holds other experiments out, so that these cannot be paired; the folds can."""
    rng = np.random.default_rng(0)
    erm, dann = ([[values_of(rng, mean) for _ in range(2)] for _ in range(3)] for mean in (0.3, 0.5))
    names = {kind: tuple(f"{fold}-{kind}" for fold in range(3)) for kind in ("erm", "dann")}
    for kind, of in (("erm", erm), ("dann", dann)):
        for fold, name in enumerate(names[kind]):
            for seed in range(2):
                cpu, trained = 10.0 + fold, 0.8 if (fold, seed) == (1, 1) else 0.95
                write(tmp_path, name, seed, accuracies("", of[fold][seed]) | {"marks/cross_batch": ""}, trained, cpu)
    rows = [Row(("ERM",), names["erm"], name="erm"), Row(("DANN",), names["dann"], baseline="erm"), Row(("none",))]
    made = make(rows, dict.fromkeys((*names["erm"], *names["dann"])), seeds=2)
    first, second, third = (cells(made, line) for line in table.measure(made, tmp_path, range(2)))
    means = np.array([[[np.mean(list(seed.values())) for seed in fold] for fold in kind] for kind in (erm, dann)])
    assert first["cross-batch"].values[""] == pytest.approx(means[0].mean())
    over = intervals.over_units(means[1].mean(1), unit="folds")
    assert second["95 % interval"].text == f"{over.low:.3f} to {over.high:.3f}"
    assert second["95 % interval"].how == "t over 3 folds"
    paired = intervals.over_units(means[1].mean(1) - means[0].mean(1), unit="folds")
    assert second["difference"].values[""] == pytest.approx(paired.mean)
    assert second["difference"].values["_low"] == pytest.approx(paired.low)
    assert first["training"].text == "not converged (0.80)" and first["CPU s"].text == "11"
    assert {cell.text for cell in third.values()} == {""}
    table.write_csv(tmp_path / "table.csv", made, table.measure(made, tmp_path, range(2)))
    with open(tmp_path / "table.csv", newline="") as f:
        assert [line["run"] for line in csv.DictReader(f)] == [" ".join(names["erm"]), " ".join(names["dann"]), ""]
    with pytest.raises(
        UserError, match="the runs of a row are folds of one dataset, and the table has simulated worlds"
    ):
        make(rows, dict.fromkeys((*names["erm"], *names["dann"])), worlds=range(2))


def test_numbers_over_five_worlds(tmp_path):
    rng = np.random.default_rng(0)
    erm, dann = ([values_of(rng, mean) for _ in range(5)] for mean in (0.3, 0.5))
    for seed in range(5):
        leakage = {"leakage/experiment_accuracy": 0.8, "leakage/experiment_floor": 0.25}
        write(tmp_path, "erm", seed, accuracies("", erm[seed]) | leakage | {"marks/cross_batch": "T"})
        write(tmp_path, "dann", seed, accuracies("", dann[seed]) | {"marks/cross_batch": "TC"}, cpu=5.0)
    rows = [Row(("ERM",), "erm", name="erm"), Row(("DANN",), "dann", baseline="erm")]
    rows.append(Row(("CORAL",), published={"": Published(28.4, "P", "WILDS, Table 7", 0.3, "T")}))
    made = make(rows, {"erm": None, "dann": "erm"}, worlds=range(5))
    lines = table.measure(made, tmp_path, range(5))
    first, second, third = (cells(made, line) for line in lines)
    means = [np.mean(list(world.values())) for world in erm]
    assert first["cross-batch"].text == f"{np.mean(means):.3f} ± {np.std(means, ddof=1):.3f}"
    interval = intervals.over_units(means, unit="worlds")
    assert first["95 % interval"].text == f"{interval.low:.3f} to {interval.high:.3f}"
    assert first["95 % interval"].how == "t over 5 worlds"
    assert first["marks"].text == "T" and second["marks"].text == "TC"
    assert first["leakage"].text == "0.80 (floor 0.25)" and second["leakage"].text == ""
    assert first["difference"].text == "" and first["published"].text == ""
    gained = [np.mean(list(b.values())) - np.mean(list(a.values())) for a, b in zip(erm, dann)]
    difference = intervals.over_units(gained)
    text = f"{np.mean(gained):+.3f} ({difference.low:+.3f} to {difference.high:+.3f}), p "
    assert second["difference"].text.startswith(text)
    assert (first["CPU s"].text, second["CPU s"].text) == ("10", "15")
    assert third["published"].text == "28.4 ± 0.3 [P] T" and third["cross-batch"].text == third["marks"].text == ""

    shown = table.notes(made, lines, ["erm, seed 0: other code"])
    assert "95 % interval: t over 5 worlds." in shown and "[P]: the primary source was read." in shown
    assert "CORAL, published: WILDS, Table 7 [P]." in shown and not any(note.startswith("†") for note in shown)
    assert shown[-1] == "STALE erm, seed 0: other code; --fresh runs it again."
    assert any(note.startswith("T: transductive") for note in shown) and not any(n.startswith("X: ") for n in shown)

    text = table.markdown(made, lines, shown, "cmd")
    assert f"Made by `cmd`, rxrx_jax {rxrx_jax.__version__}." in text
    body = [line for line in text.splitlines() if line.startswith("|")]
    assert len(body) == 5 and {line.count("|") for line in body} == {len(COLUMNS) + 3}
    assert body[3].startswith("| 2 | DANN | TC | 0.900 ± 0.000 | ")

    tex = table.latex(made, lines, shown, "cmd_1")
    assert r"\begin{tabular}{rllllllllll}" in tex and r"95 \% interval" in tex and r"$\pm$" in tex
    assert tex.count(r"\\" + "\n") == 4

    table.write_csv(tmp_path / "table.csv", made, lines)
    with open(tmp_path / "table.csv", newline="") as f:
        read = list(csv.DictReader(f))
    assert [row["method"] for row in read] == ["ERM", "DANN", "CORAL"] and [r["seeds"] for r in read] == ["5", "5", "0"]
    assert float(read[0]["cross_batch"]) == np.mean(means) and float(read[0]["ci_low"]) == interval.low
    assert float(read[1]["difference_low"]) == pytest.approx(difference.low)
    assert read[2]["published_mark"] == "P" and read[2]["cross_batch"] == "" and read[0]["leakage_floor"] == "0.25"


def test_fewer_than_five_worlds_and_one_dataset_are_said(tmp_path):
    rng = np.random.default_rng(1)
    found = [values_of(rng, 0.3) for _ in range(3)]
    for seed in range(3):
        write(tmp_path, "erm", seed, accuracies("", found[seed]))
    rows, runs = [Row(("ERM",), "erm")], {"erm": None}
    worlds = make(rows, runs, worlds=range(5))
    lines = table.measure(worlds, tmp_path, range(3))
    assert cells(worlds, lines[0])["95 % interval"].text.endswith(" (3 worlds†)")
    assert any(note.startswith("†: fewer than 5 worlds") for note in table.notes(worlds, lines, []))
    lines = table.measure(worlds, tmp_path, range(1))
    cell = cells(worlds, lines[0])["95 % interval"]
    alone = intervals.over_experiments(found[0], STRATA)
    assert cell.text == f"{alone.low:.3f} to {alone.high:.3f} (1 world†)"
    assert cell.how == "t over 5 experiments within 2 cell types (3/2; B: fewer than 3, with the pooled variance)"

    one = make(rows, runs, seeds=3)  # three seeds of one dataset are not worlds
    lines = table.measure(one, tmp_path, range(3))
    mean = {name: np.mean([of[name] for of in found]) for name in STRATA}
    expected = intervals.over_experiments(mean, STRATA)
    cell = cells(one, lines[0])["95 % interval"]
    assert cell.text == f"{expected.low:.3f} to {expected.high:.3f}" and cell.how == expected.how


def test_a_row_that_did_not_converge_says_so(tmp_path):
    values = values_of(np.random.default_rng(2), 0.3)
    probe = accuracies("probe/x/", values)
    for seed, training in ((0, 0.97), (1, 0.736)):
        write(tmp_path, "erm", seed, accuracies("", values) | accuracies("adabn/", values) | probe, training)
        write(tmp_path, "mae", seed, probe, None)
    rows = [Row(("a",), "erm"), Row(("b",), "erm", "adabn/"), Row(("c",), "erm", "probe/x/")]
    made = make([*rows, Row(("d",), "mae", "probe/x/")], {"erm": None, "mae": None}, worlds=range(5))
    shown = [cells(made, line)["training"].text for line in table.measure(made, tmp_path, range(2))]
    assert shown == ["not converged (0.74)", "not converged (0.74)", "", ""]
    shown = [cells(made, line)["training"].text for line in table.measure(made, tmp_path, range(1))]
    assert shown == ["0.97", "0.97", "", ""]


def test_a_metric_follows_the_rows_prefix_or_a_slash(tmp_path):
    values = values_of(np.random.default_rng(3), 0.3)
    leakage = {"leakage/experiment_accuracy": 0.5, "adabn/leakage/experiment_accuracy": 0.4}
    write(tmp_path, "erm", 0, accuracies("", values) | accuracies("adabn/", values) | leakage)
    rows = [Row(("x",), "erm"), Row(("y",), "erm", "adabn/")]
    absolute = Column("of the run", "/leakage/experiment_accuracy", columns.mean, ".1f")
    runs = [Run("erm", "x.py")]
    made = Table(title="t", labels=("method",), columns=(*COLUMNS, absolute), rows=rows, runs=runs)
    shown = [cells(made, line) for line in table.measure(made, tmp_path, range(1))]
    assert [cell["leakage"].text for cell in shown] == ["0.50", "0.40"]
    assert [cell["of the run"].text for cell in shown] == ["0.5", "0.5"]


def test_marks_are_those_of_the_metrics():
    assert marks_of({"marks/cross_batch": "", f"adabn/{CROSS}": 0.5}, "") == ""
    assert marks_of({"marks/adabn/cross_batch": "T"}, "adabn/") == "T"
    assert marks_of({"marks/cross_batch": "T", f"adabn/{CROSS}": 0.5}, "adabn/") == "?"  # scored, and not marked
    assert marks_of({"marks/cross_batch": "T"}, "adabn/") == ""


def test_a_number_shows_the_marks_that_its_row_has_not(tmp_path):
    final = accuracies("", dict.fromkeys(STRATA, 0.3)) | {"in_batch_wells/site_accuracy": 0.8}
    write(tmp_path, "erm", 0, final | {"marks/cross_batch": "C", "marks/in_batch_wells": "TC"})
    wells = Column("wells", "in_batch_wells/site_accuracy", columns.mean)
    runs, rows = [Run("erm", "x.py")], [Row(("ERM",), "erm")]
    made = Table(title="t", labels=("method",), columns=(*COLUMNS, wells), rows=rows, runs=runs)
    lines = table.measure(made, tmp_path, range(1))
    shown = cells(made, lines[0])
    assert shown["wells"].text == "0.800 T" and shown["marks"].text == "C"
    assert any(note.startswith("T: transductive") for note in table.notes(made, lines, []))


def test_a_number_that_is_marked_by_itself_shows_it(tmp_path):
    """Of the stages of a competition, those that look at a plate's wells together."""
    final = {"private/stages/well": 0.5, "private/stages/hungarian": 0.9, "marks/private": "", "private/sites": 9}
    write(tmp_path, "a", 0, final | {"marks/private/stages/hungarian": "T"})
    shown = tuple(Column(stage, f"private/stages/{stage}", columns.mean) for stage in ("well", "hungarian"))
    made = Table(title="A", labels=("method",), columns=shown, rows=[Row(("ERM",), "a")], runs=[Run("a", "x.py")])
    (line,) = table.measure(made, tmp_path, range(1))
    assert [cell.text for cell in line.cells] == ["0.500", "0.900 T"]


def test_a_row_that_has_not_converged_is_named_in_every_table(tmp_path):
    write(tmp_path, "erm", 0, accuracies("", dict.fromkeys(STRATA, 0.3)), training=0.7)
    one = Column("cross-batch", CROSS, columns.mean)
    made = Table(title="t", labels=("method",), columns=[one], rows=[Row(("ERM",), "erm")], runs=[Run("erm", "x.py")])
    shown = table.notes(made, table.measure(made, tmp_path, range(1)), [])
    assert "ERM: not converged, its training accuracy ended at 0.70 in a seed." in shown


def test_a_probe_whose_regression_did_not_converge_says_so_in_its_row_and_in_the_notes(tmp_path):
    values = accuracies("probe/x/", dict.fromkeys(STRATA, 0.3)) | accuracies("probe/y/", dict.fromkeys(STRATA, 0.3))
    for seed in range(2):
        write(tmp_path, "a", seed, values | {"probe/x/converged": float(seed), "probe/y/converged": 1.0})
    rows = [Row(("first",), "a", "probe/x/"), Row(("second",), "a", "probe/y/")]
    made = make(rows, {"a": None}, worlds=range(5))
    lines = table.measure(made, tmp_path, range(2))
    assert [cells(made, line)["training"].text for line in lines] == ["not converged (1 of 2 fits)", ""]
    told = [note for note in table.notes(made, lines, []) if "converged" in note]
    assert told == ["first: not converged, 1 of 2 regressions stopped before the gradient was small."]


def test_what_a_number_leaves_out_is_a_note(tmp_path):
    lost = {"x/cross_batch/absent_classes": 3, "x/cross_batch/absent_sites": 1200, "x/in_batch/absent_classes": 0}
    for seed, bare in ((0, {"x/leakage/plate_without_controls": 2}), (1, {})):
        write(tmp_path, "a", seed, accuracies("x/", dict.fromkeys(STRATA, 0.5)) | lost | bare)
    made = make([Row(("probe",), "a", "x/"), Row(("other",))], {"a": None}, seeds=2)
    lines = table.measure(made, tmp_path, range(2))
    assert lines[1].left_out == () and [
        note for note in table.notes(made, lines, []) if note.startswith("probe: ")
    ] == [
        "probe: cross-batch: 3 classes have no training row; their 1,200 sites count as wrong.",
        "probe: leakage of plates is without 2 experiments, which have no control well.",
    ]


def test_a_row_of_a_dataset_with_other_counts_is_named_partial(tmp_path):
    words = "fit is 40,612 images of 33 experiments and this dataset has 8 of 1"
    write(tmp_path, "a", 0, accuracies("", dict.fromkeys(STRATA, 0.5)) | {"partial": words})
    write(tmp_path, "b", 0, accuracies("", dict.fromkeys(STRATA, 0.5)))
    made = make([Row(("ERM",), "a"), Row(("DANN",), "b")], {"a": None, "b": None})
    lines = table.measure(made, tmp_path, range(1))
    assert [line.row.labels for line in lines] == [("ERM (partial)",), ("DANN",)]
    assert [note for note in table.notes(made, lines, []) if "40,612" in note] == [f"ERM (partial): {words}."]


def test_experiments_are_told_from_cell_types():
    line = {f"{CROSS}/{name}": 0.1 for name in ("HUVEC", "gene-01", "HEPG2", "gene-02")}
    line["cross_batch/experiments"] = json.dumps({"HUVEC": ["gene-01"], "HEPG2": ["gene-02"]})
    assert by_experiment(line, CROSS) == {"gene-01": 0.1, "gene-02": 0.1}
    assert cell_types(line, CROSS) == {"gene-01": "HUVEC", "gene-02": "HEPG2"}
    older = {f"{CROSS}/{name}": 0.1 for name in ("A2", "A2-01", "A2-02", "B", "B-01")}
    assert cell_types(older, CROSS) == {"A2-01": "A2", "A2-02": "A2", "B-01": "B"}


def test_rows_that_cannot_be_measured_are_named(tmp_path):
    values = values_of(np.random.default_rng(4), 0.3)
    write(tmp_path, "a", 0, accuracies("", values))
    write(tmp_path, "b", 0, accuracies("", {k: v for k, v in values.items() if k != "B-02"}))
    with pytest.raises(UserError, match="table row x: run a has no metric probe/in_batch/site_accuracy or "):
        table.measure(make([Row(("x",), "a", "probe/")], {"a": None}), tmp_path, range(1))
    rows = [Row(("x",), "a", name="x"), Row(("y",), "b", baseline="x")]
    with pytest.raises(UserError, match="row y and its baseline cannot be paired: experiments differ: B-02"):
        table.measure(make(rows, {"a": None, "b": None}), tmp_path, range(1))


@pytest.mark.parametrize(
    "rows, runs, words",
    [
        ([Row(("x",), "gone")], {"a": None}, "row x: unknown run 'gone'"),
        ([Row(("x", "y"), "a")], {"a": None}, "2 labels for the headings method"),
        ([Row(("x",), "a", baseline="z")], {"a": None}, "no row is named 'z'"),
        ([Row(("x",), published={"": Published(1, "M", "")})], {"a": None}, "the mark 'M' is not one of"),
        ([Row(("x",), published={"": Published(1, "P", "", seen="TZ")})], {"a": None}, "had seen, 'Z', is not made"),
        ([Row(("x",), published={"z": Published(1, "P", "")})], {"a": None}, "no column has the metric 'z'"),
        ([], {"a": "gone"}, "run a starts from 'gone'"),
        ([Row(("x",), "a", name="n")] * 2, {"a": None}, "two rows are called 'n'"),
    ],
)
def test_mistakes_in_a_table_are_named(rows, runs, words):
    with pytest.raises(UserError, match=words):
        make(rows, runs)


def test_tables_are_found_by_name_or_path(tmp_path):
    assert tables.load("demo").title == demo.TABLE.title and {"demo", "real_cells"} < set(tables.names())
    with pytest.raises(UserError, match="table='nothing': expected .*demo, .*real_cells, .*or the path"):
        tables.load("nothing")
    path = tmp_path / "mine.py"
    path.write_text("ROWS = ()")
    with pytest.raises(UserError, match="mine.py needs TABLE"):
        tables.load(str(path))


def test_the_demo_table_is_whole():
    """Six rows, the baseline of handcrafted features among them; every run used and existing."""
    made = demo.TABLE
    runs = {run.name: run for run in made.runs}
    used = {row.run for row in made.rows}
    used |= {runs[name].starts_from for name in used}
    assert used - {None} == runs.keys() and len(made.rows) == 6 and len(made.worlds) >= 5
    methods = {row.labels[0] for row in made.rows}
    assert {"ERM", "batch-pure AdaBN", "linear probe: untrained ViT", "linear probe: handcrafted features"} <= methods
