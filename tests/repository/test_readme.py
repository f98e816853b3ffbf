"""What the README promises and no other test proves. test_pages.py has what it shares with docs/."""

import csv
import re

from paths import ROOT

import rxrx_jax
from rxrx_jax.tables import demo

README = (ROOT / "README.md").read_text()
DEMO = ROOT / "docs" / "demo"


def printed() -> list[str]:
    """The last lines of docs/demo/table.md: what made it, with which version, and the table."""
    return ("Made by " + (DEMO / "table.md").read_text().partition("\nMade by ")[2]).strip().splitlines()


def test_it_can_be_read_in_ten_minutes():
    assert len(README.split()) < 1500


def test_the_table_is_what_the_demo_printed():
    """The README's table is that of docs/demo/table.md, whose numbers are those of table.csv beside it."""
    shown = README.partition("<!-- table -->\n")[2].partition("<!-- /table -->")[0].strip().splitlines()
    assert shown == printed()
    table = [line for line in shown if line.startswith("|")]
    with open(DEMO / "table.csv", newline="") as f:
        rows = list(csv.DictReader(f))
    head, _, *body = ([cell.strip() for cell in line.strip("|").split("|")] for line in table)
    assert len(body) == len(rows)
    for row, cells in zip(rows, body):
        line = dict(zip(head, cells))
        assert all(line[key] == row[key] for key in ("row", "method", "normalisation", "marks"))
        for heading, key in (("in-batch", "in_batch"), ("cross-batch", "cross_batch")):
            assert line[heading] == f"{float(row[key]):.3f} ± {float(row[f'{key}_sd']):.3f}"
        assert line["in-batch wells"] == f"{float(row['in_batch_wells']):.3f}"
        assert line["95 % interval"] == f"{float(row['ci_low']):.3f} to {float(row['ci_high']):.3f}"
    assert {int(row["seeds"]) for row in rows} == {len(demo.TABLE.worlds)}
    assert [(row["method"], row["normalisation"]) for row in rows] == [row.labels for row in demo.TABLE.rows]
    assert any("handcrafted" in row["method"] for row in rows)


def test_the_table_carries_its_version_which_is_not_an_older_one():
    """The version that printed the numbers stands over them; a new minor version needs the demo again."""
    made = printed()[0]
    (version,) = re.findall(r"rxrx_jax (\d+\.\d+)\.\d+", made)
    assert made.startswith("Made by `python -m rxrx_jax.reproduce demo ")
    assert version == rxrx_jax.__version__.rpartition(".")[0], f"{made}: run the demo again with this version"
    assert "STALE" not in (DEMO / "table.md").read_text()


def test_ci_runs_the_commands_of_the_readme():
    script = (ROOT / ".ci" / "run").read_text()
    for pattern in (found := re.findall(r'\$\(line "(.+?)"\)', script)):
        assert re.search(pattern, README, re.M), pattern
    assert len(found) == 2


def test_ci_names_tests_that_exist():
    named = {
        path for script in (ROOT / ".ci").iterdir() for path in re.findall(r"tests/[\w/]+\.py", script.read_text())
    }
    assert len(named) > 5
    assert not [path for path in named if not (ROOT / path).exists()]


def test_every_page_of_docs_is_linked():
    pages = [path for path in (ROOT / "docs").rglob("*.md") if path.name != "table.md"]
    for name in (path.relative_to(ROOT).as_posix() for path in pages):
        assert f"]({name})" in README, name


def test_the_datasets_it_names_have_builders():
    from tfds_builders import prepare

    sentence = re.search(r"There are builders for (.*?);", README, re.S)[1].replace("WILDS'", "RxRx1-WILDS")
    named = re.findall(r"RxRx\w+(?:-core|-WILDS)?", sentence)
    assert {name.lower().replace("-", "_") for name in named} == set(prepare.names()) - {"rxrx_sim"}
