"""docs/tables.md says what the commands that it names print."""

import json
import re

import pytest
from paths import ROOT

from rxrx_jax import reproduce, tables

PAGE = (ROOT / "docs" / "tables.md").read_text()
SHOWN = PAGE.partition("<!-- status -->\n")[2].partition("<!-- /status -->")[0].splitlines()
ROWS = {line.split("`")[1]: [cell.strip() for cell in line.strip("|").split("|")][1:] for line in SHOWN[2:]}
# Tracing ResNets and DenseNets for every method takes a minute or two.
NAMES = [pytest.param(name, marks=pytest.mark.slow if name == "mae_probe" else pytest.mark.full) for name in ROWS]


def test_every_table_of_published_results_is_there():
    named = re.findall(r"^\| `(\w+)` \| [^|]+ \|$", PAGE, re.M)
    assert named == list(ROWS) and set(named) < set(tables.names()) and "demo" not in named


@pytest.mark.parametrize("name", NAMES)
def test_what_a_table_takes_is_what_its_status_says(name, tmp_path, capsys):
    reproduce.main([name, f"--out={tmp_path}", "--status"])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    *_, flop, hours, left, disk = [cell.strip() for cell in lines[-1].strip("|").split("|")]
    assert [flop, hours, disk] == ROWS[name] and left == hours


def test_the_sizes_of_the_dataset_are_those_of_the_benchmark():
    found = json.loads((ROOT / "docs" / "encodings.json").read_text())
    assert "real sites" in found["sites"]
    png, delta = (125_510 * kilobytes / 1e6 for kilobytes in (found["png_kB"], found["encodings"]["delta"]["kB"]))
    assert f"125,510 sites are {png:.0f} GB of PNG files and {delta:.0f} GB of `delta`" in " ".join(PAGE.split())
