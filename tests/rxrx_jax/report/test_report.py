"""rxrx_jax.report: the page of a table, from made-up workdirs."""

import html.parser
import json
import re

import numpy as np
import pytest

import rxrx_jax
from rxrx_jax.base import embeddings as embeddings_file
from rxrx_jax.report import columns, pictures, records
from rxrx_jax.report.columns import Cell
from rxrx_jax.report.page import write_report
from rxrx_jax.report.table import Line
from rxrx_jax.tables import Column, Row, Run, Table

EXPERIMENTS = {
    "in_batch": ("HUVEC-01", "HUVEC-02"),
    "validation": ("U2OS-01",),
    "cross_batch": ("HUVEC-03", "HUVEC-04"),
}
SPLITS = {"in_batch": "id_test", "cross_batch": "test"}
CONFIG = {"task": {"name": "classify"}, "protocol": {"name": "held_out_experiments"}, "seed": 0}
TITLE, COMMAND = 'A <table> & its "runs"', "python -m x --out='<DIR>' && true"
NOTES = ["SIMULATED data <made up>.", "Nothing & nobody."]


class Page(html.parser.HTMLParser):
    """Checks that every element is closed, and collects text, attributes by name and ids."""

    VOID = {"meta", "img", "input"}

    def __init__(self, source: str):
        super().__init__()
        self.open, self.attributes, self.text, self.tags = [], [], "", []
        self.feed(source)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.handle_startendtag(tag, attributes)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes
        assert len({name for name, _ in attributes}) == len(attributes), (tag, attributes)

    def handle_endtag(self, tag):
        assert tag not in self.VOID and self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.text += data

    def values(self, name):
        return [value for key, value in self.attributes if key == name]


def accuracies(prefix, rng):
    found = {}
    for split, names in EXPERIMENTS.items():
        by_name = {name: float(rng.uniform(0.1, 0.9)) for name in (*names, names[0].split("-")[0])}
        found |= {f"{prefix}{split}/site_accuracy/{name}": value for name, value in by_name.items()}
        found |= {
            f"{prefix}{split}/site_accuracy": float(np.mean(list(by_name.values()))),
            f"{prefix}{split}/sites": 421,
        }
    return found


def write_run(workdir, final=(), config=(), done=True, embeddings=0, picture=False, loss="loss", genes=False):
    """A workdir as train.py leaves it, with `embeddings` sites in every experiment."""
    workdir.mkdir(parents=True)
    rng = np.random.default_rng(0)
    lines = [{"step": s, "accuracy": s / 100, "loss": 3 - s / 50, loss: 2 - s / 50} for s in range(10, 60, 10)]
    lines += [{"step": 50, **dict(final), "final": True}] * done
    lines += [{"step": 50, "done": True, "parameters_sha256": f"sha-of-{workdir.name}", "cpu_seconds": 1.0}] * done
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (workdir / "config.json").write_text(json.dumps(CONFIG | dict(config)))
    if embeddings:
        sites = [
            (f"{name}_1_B{i:02d}_1", SPLITS[split])
            for split in SPLITS
            for name in EXPERIMENTS[split]
            for i in range(embeddings)
        ]
        ids, splits = (np.array(x) for x in zip(*sites))
        table = columns_of(ids, splits)
        if genes:
            table["perturbation"] = np.array([f"gene<{i % 11}>" for i in range(len(ids))])
        embeddings_file.write(workdir / embeddings_file.NAME, table, rng.normal(size=(len(ids), 5)))
    if picture:
        images = rng.uniform(size=(2, 16, 16, 6))
        mask = np.zeros_like(images)
        mask[:, :8] = 1
        pictures.save_reconstructions(workdir / "reconstruction.png", images, mask, images, ["a_1", "b_2"])


def columns_of(ids, splits):
    """What a protocol reads of an embeddings file."""
    experiments = np.array([site.rsplit("_", 3)[0] for site in ids])
    found = {"split": splits, "site_id": ids, "well_id": ids, "experiment": experiments, "cell_type": experiments}
    return found | {"perturbation_id": np.zeros(len(ids), np.int32)}


COLUMNS = (
    Column("in-batch", "in_batch/site_accuracy", columns.spread, strip="in"),
    Column("cross-batch", "cross_batch/site_accuracy", columns.spread, strip="cross"),
    Column("95 % interval", "cross_batch/site_accuracy", columns.interval, strip="interval"),
    Column("published <x>", "", columns.published),
    Column("marks", summary=columns.marks),
    Column("leakage", "leakage/experiment_accuracy", columns.mean),
)


def table_of(rows, runs=()):
    """A table of (method, group, run, prefix, marks, in-batch, cross-batch, low, high, leakage)."""
    lines = []
    for number, (method, group, run, prefix, marks, *values) in enumerate(rows, 1):
        inside, cross, low, high, leakage = values
        cells = [Cell(f"{v:.3f} ± 0.1", {"": v}) if v is not None else Cell() for v in (inside, cross)]
        cells.append(Cell(f"{low:.3f} to {high:.3f}", {"_low": low, "_high": high}) if low is not None else Cell())
        cells += [
            Cell("0.299 <P>"),
            Cell(marks),
            Cell(f"{leakage:.3f}", {"": leakage}) if leakage is not None else Cell(),
        ]
        lines.append(Line(number, Row((method, "plate", group), run, prefix), 2, marks, cells))
    names = dict.fromkeys([*runs, *(line.row.run for line in lines)])
    made = Table(
        title=TITLE,
        labels=("method", "normalisation", "layout"),
        group="layout",
        columns=COLUMNS,
        rows=[line.row for line in lines],
        runs=[Run(name, "x.py") for name in names],
    )
    return made, lines


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(page, source, folder) of whole, unfinished, damaged and absent runs, and pretraining without a row."""
    out = tmp_path_factory.mktemp("report")
    rng = np.random.default_rng(1)
    runs = {
        name: [out / "runs" / f"{name}-seed{s}" for s in range(2)] for name in ("erm <&>", "dann", "mae", "late", "odd")
    }
    for s in range(2):
        final = accuracies("", rng) | accuracies("adabn_experiment/", rng)
        write_run(runs["erm <&>"][s], final, {"optim": {"lr": 0.125}}, embeddings=12, genes=True)
        write_run(runs["dann"][s], accuracies("", rng), {"optim": {"lr": 0.5}, "extra<": 1}, loss="class_loss")
        init = {"init": {"path": str(out / "runs" / "x")}, "evaluators": {"reconstruction": {"images": 2}}}
        final = {"reconstruction/cross_batch/loss": 0.7654}
        write_run(runs["mae"][s], final, {**init, "task": {"name": "mae"}}, embeddings=12, picture=s == 0)
    write_run(runs["late"][0], done=False)
    (runs["late"][0] / "embeddings.parquet").write_bytes(b"PAR1 not a parquet file")
    runs["odd"][0].mkdir()
    (runs["odd"][0] / "metrics.jsonl").write_text('{"step": 1, "lo\n{}\n')
    (runs["odd"][0] / "config.json").write_text("[")
    numbers = (0.81234, 0.30001, 0.2111, 0.3999)
    rows = [
        ("ERM <b>", "fixed", "erm <&>", "", "", *numbers, 0.875),
        ("AdaBN", "re&mix", "erm <&>", "adabn_experiment/", "T", 0.81234, 0.45678, 0.2, 0.5, None),
        ("DANN", "fixed", "dann", "", "TC", *numbers, 0.9),
        ("unfinished", "fixed", "late", "", "", None, None, None, None, None),
        ("damaged", "fixed", "odd", "", "", None, None, None, None, None),
        ("nowhere", "fixed", "gone", "", "", *numbers, None),
    ]
    table, lines = table_of(rows, runs)
    write_report(out / "report.html", table, NOTES, lines, runs, COMMAND)
    source = (out / "report.html").read_text()
    return Page(source), source, out


def test_the_page_needs_nothing_from_outside(made):
    page, source, _ = made
    assert not {"link", "iframe", "object", "base"} & set(page.tags)
    assert "default-src 'none'; img-src data:; " in page.values("content")[-1]
    assert page.values("src") and all(v.startswith("data:image/") for v in page.values("src"))
    assert all(v.startswith("#") and v[1:] in page.values("id") for v in page.values("href"))
    assert len(set(page.values("id"))) == len(page.values("id"))
    assert len(source) < 6_000_000


def test_the_skeleton_is_that_of_a_document(made):
    page, source, _ = made
    assert page.tags.count("main") == page.tags.count("h1") == 1
    assert page.tags.count("table") == page.tags.count("caption") > 0
    assert page.tags.count("th") == len(page.values("scope")) and {"row", "col"} == set(page.values("scope"))
    assert page.tags.count("img") == len(page.values("alt"))


def test_title_notes_command_and_versions_are_shown_as_given(made):
    page, source, _ = made
    for text in (TITLE, *NOTES, COMMAND, f"rxrx_jax {rxrx_jax.__version__}", "jax ", "flax "):
        assert text in page.text
    assert f'<p class="warning">{html.escape(NOTES[0])}</p>' in source


def test_every_row_and_run_is_named_and_escaped(made):
    page, source, _ = made
    names = ("ERM <b>", "AdaBN", "DANN", "unfinished", "damaged", "nowhere", "erm <&>", "mae", "late", "odd", "gone")
    for text in (*names, "fixed", "re&mix"):
        assert text in page.text
    assert "<b>ERM" not in source and "erm <&>" not in source and "extra<" not in source and "gene<" not in source
    assert 'title="transductive: ' in source and re.search(
        'title="transductive: [^"<>]*; anchored [^"<>]*">TC<', source
    )


def rows(source, caption):
    """The rows of the table with this caption, by heading."""
    table = next(t for t in re.findall("<table.*?</table>", source, re.S) if f"<caption>{caption}" in t)
    text = lambda cell: html.unescape(re.sub("<[^>]*>", "", cell))  # noqa: E731
    heads, *body = [
        [text(cell) for cell in re.findall("<t[hd].*?</t[hd]>", row, re.S)]
        for row in re.findall("<tr.*?</tr>", table, re.S)
    ]
    return [dict(zip(heads, cells)) for cells in body]


def test_cells_are_those_given(made):
    erm, adabn, dann, *_ = rows(made[1], "Mean over 2 seeds")
    assert erm["method"] == "ERM <b>" and erm["normalisation"] == "plate" and adabn["layout"] == "re&mix"
    assert erm["in-batch"] == "0.812 ± 0.1" and erm["cross-batch"] == "0.300 ± 0.1" and erm["marks"] == ""
    assert erm["95 % interval"] == "0.211 to 0.400" and erm["leakage"] == "0.875" and dann["marks"] == "TC"
    assert adabn["cross-batch"] == "0.457 ± 0.1" and adabn["leakage"] == "–"
    assert erm["published <x>"] == "0.299 <P>"
    assert 'data-value="0.81234"' in made[1]  # by which it is sorted


def test_accuracies_by_experiment_are_means_over_seeds(made):
    _, source, out = made
    final = [records.read_seed(out / "runs" / f"dann-seed{s}").final for s in range(2)]
    found = {(row["row"], row["experiment"]): row for row in rows(source, "Accuracy per site in every experiment")}
    for split, names in EXPERIMENTS.items():
        for name in names:
            values = [seed[f"{split}/site_accuracy/{name}"] for seed in final]
            row = found["3 DANN, plate, fixed", name]
            assert row["accuracy"] == f"{np.mean(values):.3f}"
            assert row["over seeds"] == f"{min(values):.3f} to {max(values):.3f} (2 seeds)"
            assert row["scored as"] == split.replace("_", "-") and row["cell type"] == name.split("-")[0]
    assert not any(name == "HUVEC" for _, name in found)  # a cell type is not an experiment
    worst = min(EXPERIMENTS["cross_batch"], key=lambda name: float(found["3 DANN, plate, fixed", name]["accuracy"]))
    assert rows(source, "Mean over 2 seeds")[2]["worst experiment"].startswith(worst)


def test_what_is_missing_is_said(made):
    page, _, _ = made
    missing = page.text[page.text.index("Missing from this page") : page.text.index("Table")]
    for text in (
        "late, runs/late-seed0: the run did not finish",
        "late, runs/late-seed1: the run was never started",
        "odd, runs/odd-seed0: metrics.jsonl cannot be read",
        "config.json cannot be read",
        "gone: no workdir is known",
    ):
        assert text in missing
    for text in ("no training lines", "dann: no embeddings.parquet", "No config.", "No thumbnails: the images are not"):
        assert text in page.text
    assert "late: embeddings.parquet cannot be read" in page.text
    assert "Missing: runs/mae-seed1/reconstruction.png" in page.text


def test_curves_reconstruction_and_maps_are_drawn(made):
    page, source, _ = made
    drawn = page.values("aria-label")
    assert {f"training loss of {name}" for name in ("erm <&>", "dann", "mae", "late")} <= set(drawn)
    assert "reconstructions of mae" in page.values("alt") and "cross-batch 0.765" in page.text
    for name in ("erm <&>", "mae"):
        assert {f"{name}: PCA, map of 48 points", f"{name}: t-SNE, map of 48 points"} <= set(drawn)
    assert "first row with embeddings, highest cross-batch accuracy, lowest leakage; 48 wells" in page.text
    assert "no row of its own; 48 wells" in page.text
    (data,) = re.findall('<script type="application/json" class="data">([^<]*colourings[^<]*)</script>', source)
    data = json.loads(data)
    assert list(data["colourings"]) == [
        "experiment",
        "cell type",
        "perturbation",
        "scored as",
        "plate",
        "right or wrong",
    ]
    assert data["colourings"]["right or wrong"]["names"] == ["right", "wrong"] and data["sets"] == ["erm <&>", "mae"]
    assert (
        len(data["colourings"]["experiment"]["codes"]) == 1 and len(data["colourings"]["right or wrong"]["codes"]) == 2
    )


def test_provenance(made):
    page, _, _ = made
    text = page.text[page.text.rindex("Provenance") :]
    assert "sha-of-erm <&>-seed1" in text and "runs/dann-seed0" in text
    assert "sites scored: in-batch 421; validation 421; cross-batch 421" in text
    assert "optim.lr = 0.125" in text and "optim.lr = 0.5" in text and "extra< = 1" in text
    assert "config: 2 differences from erm <&>" in text  # of dann: optim.lr and extra<
    assert "optim.lr is not set" in text and 'init.path = "runs/x"' in text


def test_the_same_runs_give_the_same_page(made, tmp_path):
    out = made[2]
    runs = {"mae": [out / "runs" / "mae-seed0"]}
    pages = []
    for name in ("a.html", "b.html"):
        write_report(tmp_path / name, table_of([], runs)[0], [], [], runs, "c")
        pages.append((tmp_path / name).read_text())
    assert pages[0] == pages[1]
    Page(pages[0])


def test_a_page_without_anything(tmp_path):
    write_report(tmp_path / "r.html", table_of([])[0], [], [], {}, "c")
    assert "No run has embeddings to show." in Page((tmp_path / "r.html").read_text()).text
