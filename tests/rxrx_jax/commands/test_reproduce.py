"""From runs to a table: CONTRIBUTING's example, with its runs in miniature."""

import csv
import html.parser
import json
import re
import sys

import pytest
from paths import ROOT

from rxrx_jax import reproduce
from rxrx_jax.base import command, config
from rxrx_jax.report import runs
from rxrx_jax.tables import Run

EXAMPLE = re.search(r"```python\n(from rxrx_jax\.report.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.S)[1]


@pytest.fixture
def miniature(monkeypatch, tmp_path):
    """The example's file; its runs are small networks on the tiny simulated screen."""

    def in_miniature(run, out, seed):
        config = run.seeded(seed).replace("rxrx1,model=resnet50,", "")
        workdir = runs.workdir(run.name, out, seed)
        tiny = str(ROOT / "tests" / "tools" / "tiny.py")
        return [sys.executable, tiny, config, str(workdir), str(tmp_path / "data"), "evaluators.embeddings={}"]

    monkeypatch.setattr(runs, "command", in_miniature)
    monkeypatch.setattr(runs, "values", lambda run, out, seed: config.load(run.seeded(seed)))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    path = tmp_path / "mine.py"
    path.write_text(EXAMPLE)
    return path


@pytest.mark.slow
def test_the_example_table_of_contributing_runs(miniature, tmp_path, capsys):
    assert len([line for line in EXAMPLE.splitlines() if line]) in range(15, 26)
    out = tmp_path / "out"
    lines = reproduce.reproduce(str(miniature), out, seeds=1)
    assert [line.row.labels for line in lines] == [("ERM", "image"), ("ERM", "plate")]
    finals = []
    for name in ("image", "plate"):
        text = (out / "runs" / f"{name}-seed0" / "metrics.jsonl").read_text()
        read = [json.loads(line) for line in text.splitlines()]
        finals.append(next(line for line in read if line.get("final"))["cross_batch/site_accuracy"])
    with open(out / "table.csv", newline="") as f:
        image, plate = csv.DictReader(f)
    assert [float(row["cross_batch"]) for row in (image, plate)] == pytest.approx(finals)
    assert float(plate["gain"]) == pytest.approx(finals[1] - finals[0])
    assert (image["published"], image["published_mark"]) == ("0.299", "P")
    assert image["marks"] == "" and plate["marks"] == "T"
    text = (out / "table.md").read_text()
    assert "0.299 [P]" in text and "95 % interval: t over 2 experiments." in text
    printed = capsys.readouterr()
    assert "stale: image, seed 0: another config (" in printed.err and "STALE plate, seed 0" in text
    assert r"\toprule" in (out / "table.tex").read_text()

    page = html.parser.HTMLParser()
    found = []
    page.handle_data = found.append
    page.feed((out / "report.html").read_text())
    shown = " ".join(found)
    assert "0.299 [P]" in shown and "What plate statistics give on RxRx1" in shown and "SIMB-01" in shown

    again = reproduce.reproduce(str(miniature), out, seeds=1)
    assert again == lines and "2 runs are done, 0 to do" in capsys.readouterr().out


def test_partial_is_of_each_runs_own_protocol():
    for overrides, name in (
        ({}, "held_out_experiments:partial"),
        ({"protocol.name": "wilds_ood"}, "wilds_ood:partial"),
        ({"protocol.name": "k_shot:k=2"}, "k_shot:k=2,partial"),
    ):
        run = reproduce._as_partial(Run("erm", "convnet.py:rxrx1", overrides=overrides | {"seed": 1}))
        assert run.overrides == {"seed": 1, "protocol.name": name}


def test_mistakes_are_one_line(tmp_path, capsys):
    assert command.run(reproduce.main, ["nothing", f"--out={tmp_path}"]) == 2
    assert capsys.readouterr().err.startswith("error: table='nothing': expected adaptation, ")
    with pytest.raises(SystemExit):
        reproduce.main(["demo", f"--out={tmp_path}", "--seeds=0"])
    assert "--seeds and --jobs must be at least 1" in capsys.readouterr().err
