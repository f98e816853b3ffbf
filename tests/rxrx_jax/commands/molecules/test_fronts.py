"""The page of generated objects: what it says, that nothing of it is markup, and the sliders in Chromium."""

import json

import pytest
from browser_tools import CONTRAST, watched

from rxrx_jax import fronts
from rxrx_jax.base import command
from rxrx_jax.molecules import drawing

EVIL = "<script>alert('no')</script></script>"


def write(folder, environment="grid", names=("c1ccccc1O", EVIL, "CCN")):
    """A workdir with objects of these names, of which each preference has one."""
    folder.mkdir()
    task = {"name": "flow", "environment": environment, "objectives": ["one", "two"]}
    (folder / "config.json").write_text(json.dumps({"task": task}))
    values = [(0.9, 0.1), (0.5, 0.5), (0.1, 0.8)]
    rows = [{"state": name, "one": a, "two": b, "gap": a - b} for name, (a, b) in zip(names, values)]
    preferences = [{"w": [1 - i / 2, i / 2], "best": [row, rows[1]]} for i, row in enumerate(rows)]
    samples = {"objectives": ["one", "two"], "front": rows, "preferences": preferences}
    (folder / "samples.json").write_text(json.dumps(samples))
    lines = [{"step": 3, "final": True, "hypervolume": 0.375}, {"step": 3, "done": True}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_names_are_escaped_and_the_same_run_gives_the_same_bytes(tmp_path, capsys):
    run = write(tmp_path / "run")
    assert command.run(fronts.main, [str(run)]) == 0
    assert str(run / "page.html") in capsys.readouterr().out
    text = (run / "page.html").read_text()
    assert EVIL not in text and "&lt;script&gt;alert" in text and "0.375" in text
    assert "default-src 'none'" in text and "http://" not in text.partition("<script")[0]
    assert command.run(fronts.main, [str(run), f"--out={tmp_path / 'again.html'}"]) == 0
    assert (tmp_path / "again.html").read_text() == text


def test_what_has_no_front_is_one_line(tmp_path, capsys):
    assert command.run(fronts.main, [str(tmp_path)]) == 2
    assert "is not the workdir of a run" in capsys.readouterr().err
    (tmp_path / "config.json").write_text(json.dumps({"task": {"name": "mae"}}))
    assert command.run(fronts.main, [str(tmp_path)]) == 2
    assert "is of task.name=mae, which generates nothing" in capsys.readouterr().err
    run = write(tmp_path / "run")
    (run / "samples.json").unlink()
    assert command.run(fronts.main, [str(run)]) == 2
    assert "has no samples.json: the run is not evaluated yet" in capsys.readouterr().err


def test_molecules_are_drawn_alike_each_time():
    pytest.importorskip("rdkit")
    found = drawing.svg("c1ccccc1O")
    assert found == drawing.svg("c1ccccc1O") != drawing.svg("CCN") and b"<svg" in found and b"<rect" not in found
    with pytest.raises(ValueError, match="is not a valid SMILES, and cannot be drawn"):
        drawing.svg("C1CC")


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_sliders_choose_what_was_made(chromium, tmp_path, scheme):
    pytest.importorskip("rdkit")
    run = write(tmp_path / "run", "fragments", ("c1ccccc1O", "CCO", "CCN"))
    assert command.run(fronts.main, [str(run)]) == 0
    with watched(chromium, run / "page.html") as opened:
        page = opened(color_scheme=scheme, viewport={"width": 390, "height": 844})
        assert "one 0.50, two 0.50" in page.locator("#nearest").inner_text()
        assert page.locator("#made code").all_inner_texts() == ["CCO"]  # once, though it is there twice
        page.locator(".weight").first.focus()
        page.keyboard.press("Home")  # nothing for the first objective
        assert page.locator("#made code").all_inner_texts() == ["CCN", "CCO"]
        assert page.locator(".weights output").all_inner_texts() == ["0.00", "1.00"]
        assert page.locator("#made figure").first.locator("dd").all_inner_texts() == ["0.100", "0.800", "-0.700"]
        page.wait_for_function("document.images.length == 2 && [...document.images].every(one => one.naturalWidth > 0)")
        ringed = "Bokeh.documents.map(doc => doc.get_model_by_name('chosen')).find(Boolean).data"
        assert page.evaluate(f"[...{ringed}.o1]") == [0.8, 0.5]
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        ratio, where = page.evaluate(CONTRAST)
        assert ratio >= 4.5, where
