"""What the README promises and no other test proves."""

import csv
import pathlib
import re

import tiny
from paths import ROOT

from rxrx_jax.base import config
from rxrx_jax.tables import demo
from rxrx_jax.training import train

README = (ROOT / "README.md").read_text()


def test_the_table_is_what_the_demo_printed():
    """The README's table is that of docs/demo/table.md, whose numbers are those of table.csv beside it."""
    shown = README.partition("<!-- table -->\n")[2].partition("<!-- /table -->")[0].strip().splitlines()
    printed = (ROOT / "docs" / "demo" / "table.md").read_text().splitlines()
    assert shown == [line for line in printed if line.startswith("|")]
    with open(ROOT / "docs" / "demo" / "table.csv", newline="") as f:
        rows = list(csv.DictReader(f))
    head, _, *body = ([cell.strip() for cell in line.strip("|").split("|")] for line in shown)
    assert len(body) == len(rows)
    for row, cells in zip(rows, body):
        line = dict(zip(head, cells))
        assert all(line[key] == row[key] for key in ("row", "method", "normalisation", "layout"))
        for heading, key in (("in-batch", "in_batch"), ("cross-batch", "cross_batch")):
            assert line[heading] == f"{float(row[key]):.3f} ± {float(row[f'{key}_sd']):.3f}"
        assert line["95 % interval"].startswith(f"{float(row['ci_low']):.3f} to {float(row['ci_high']):.3f}")
    assert {row["seeds"] for row in rows} == {"3"} and "--seeds=3" in README
    assert [(r["method"], r["normalisation"], r["layout"]) for r in rows] == [row.labels for row in demo.TABLE.rows]


def test_every_config_and_command_in_the_readme_exists(tmp_path):
    for name, argument in re.findall(r"--config=([\w]+\.py)(?::(\S+))?", README):
        if name == "mine.py":
            continue
        tiny_values = config.find(name)
        assert pathlib.Path(tiny_values).exists()
        if argument and "rxrx1" not in argument:
            assert tiny.values(f"{name}:{argument}", tmp_path)
    for module in re.findall(r"python -m ((?:rxrx_jax|tfds_builders)\.[\w.]+)", README):
        assert (ROOT / f"{module.replace('.', '/')}.py").exists(), module
    for path in re.findall(r"`((?:rxrx_jax|configs|benchmarks|tests|tfds_builders)/[\w/.]*)`", README):
        assert (ROOT / path).exists(), path


def test_the_forked_config_of_the_readme_runs(tmp_path, tmp_path_factory):
    code = re.search(r"```python\n(.*?)```", README, re.S)[1]
    (tmp_path / "mine.py").write_text(code)
    values = tiny.values(str(tmp_path / "mine.py") + ":transductive=True", tmp_path / "data")
    last = train.run(values, tmp_path / "run")
    assert last["done"] and last["transductive"]


def test_ci_runs_the_commands_of_the_readme():
    script = (ROOT / ".ci" / "run").read_text()
    for pattern in (found := re.findall(r'\$\(line "(.+?)"\)', script)):
        assert re.search(pattern, README, re.M), pattern
    assert len(found) == 2


def test_what_the_readme_says_of_the_table():
    with open(ROOT / "docs" / "demo" / "table.csv", newline="") as f:
        rows = list(csv.DictReader(f))
    score = {(r["method"], r["normalisation"], r["layout"]): float(r["cross_batch"]) for r in rows}
    for layout in ("fixed", "reshuffled"):
        networks = {k: v for k, v in score.items() if not k[0].startswith("linear probe") and k[2] == layout}
        assert max(networks, key=networks.get) == ("batch-pure AdaBN", "plate", layout)
        assert score["DANN, transductive", "image", layout] > score["its lambda = 0 control", "image", layout] + 0.02
        mae, untrained = (score[f"linear probe: {e}", "plate", layout] for e in ("MAE", "untrained ViT"))
        assert mae > untrained + 0.02
        statistics = score["linear probe: handcrafted statistics, standardised per experiment", "plate", layout]
        assert statistics == max(v for k, v in score.items() if k[2] == layout)
        between = [score["ERM", n, layout] for n in ("dataset", "experiment", "plate")]
        assert max(between) - min(between) > max(networks.values()) - score["ERM", "plate", layout]
    assert score["DANN, inductive", "image", "fixed"] < score["ERM", "image", "fixed"]
