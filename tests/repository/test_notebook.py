"""docs/quickstart.ipynb runs, cell by cell, and shows nothing that was not computed then."""

import json
import re

import pytest
from paths import ROOT

NOTEBOOK = ROOT / "docs" / "quickstart.ipynb"


def test_every_cell_runs(capsys):
    """Without a kernel: cells are plain Python, whose last expression is what a notebook would show."""
    content = json.loads(NOTEBOOK.read_text())
    cells = ["".join(cell["source"]) for cell in content["cells"] if cell["cell_type"] == "code"]
    names: dict = {}
    for number, source in enumerate(cells):
        exec(compile(source, f"{NOTEBOOK.name}, code cell {number}", "exec"), names)
    assert names["embedding"].shape == (len(names["images"]), 96) and len(cells) >= 6
    assert 0 <= names["same_plate"] <= 1 and "nearest neighbours: " in capsys.readouterr().out
    assert names["run"].metrics[-1]["done"] and names["run"].config["total_steps"] == 4


def test_it_is_kept_without_outputs_and_valid():
    content = json.loads(NOTEBOOK.read_text())
    code = [cell for cell in content["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
    nbformat.validate(content)


def test_its_links_exist():

    text = "".join("".join(cell["source"]) for cell in json.loads(NOTEBOOK.read_text())["cells"])
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", text)
    assert links and all((ROOT / "docs" / link).exists() for link in links)
