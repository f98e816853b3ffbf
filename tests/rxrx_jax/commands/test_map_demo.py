"""The map demo in miniature: a small planted screen through the command of its run, and its rows read back."""

import csv
import dataclasses
import json

import numpy as np
import pytest

from rxrx_jax import planted_maps
from rxrx_jax.base import command, config
from rxrx_jax.maps.planted import score
from rxrx_jax.maps.planted.world import Settings
from rxrx_jax.report import runs
from rxrx_jax.report import table as writers
from rxrx_jax.tables import map_demo
from rxrx_jax.training import metrics

ALIGNMENTS = ("none", "combat")
SMALL = """
import ml_collections
def get_config(argument=None):
    screen = dict(dim=8, biology=6, genes=150, guides=2, complexes=8, largest=4, mean_size=3.5, compounds=6, inert=2,
                  batches=2, blocks=1, plates=1, compound_wells=1, weakest_guide=0.9)
    return ml_collections.ConfigDict(dict(screen=screen, alignments=("none", "combat")))
"""

PIXELS = """
import ml_collections
def get_config(argument=None):
    pixels = dict(image_size=32, cell_types=("SIMA",), train=("SIMA-01", "SIMA-02"), val=(), test=(), plates=1,
                  treatments=24, replicates=1, positive_controls=0, untreated_wells=8, sites_per_well=1, seed=0)
    return ml_collections.ConfigDict(dict(pixels=pixels, alignments=("none", "combat")))
"""


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    out = tmp_path_factory.mktemp("map_demo")
    for name, text in (("planted", SMALL), ("pixels", PIXELS)):
        (out / f"{name}.py").write_text(text)
        argv = [f"--config={out / name}.py", f"--workdir={runs.workdir(name, out, 0)}"]
        assert command.run(planted_maps.main, argv) == 0
    return out


def test_every_row_is_read_from_the_run(out):
    rows = [row for row in map_demo.ROWS if row.prefix.partition("/")[0] in ALIGNMENTS]
    table = dataclasses.replace(map_demo.TABLE, rows=rows)
    lines = writers.measure(table, out, range(1))
    assert [line.row.labels for line in lines[:4]] == [
        ("none", "none"), ("none", "shrunk"), ("none", "published"), ("ComBat", "none")
    ]  # fmt: skip
    final = next(line for line in metrics.read(runs.workdir("planted", out, 0) / metrics.NAME) if line.get("final"))
    writers.write_csv(out / "table.csv", table, lines)
    with open(out / "table.csv", newline="") as file:
        found = list(csv.DictReader(file))
    assert [row["marks"] for row in found] == ["", "", "", "T", "T", "T", "", "T"]
    for row, line in zip(found[:6], lines):
        assert float(row["recall_across_arms"]) == final[f"{line.row.prefix}map/recall_across"]
        assert float(row["targets_floor"]) == final[f"{line.row.prefix}map/targets_chance"]


def test_pictures_have_rows_without_arms_guides_and_compounds(out):
    final = next(line for line in metrics.read(runs.workdir("pixels", out, 0) / metrics.NAME) if line.get("final"))
    for name in ALIGNMENTS:
        assert 0 <= final[f"{name}/none/map/recall_across"] <= 1 and np.isfinite(final[f"{name}/none/map/wells"])
    assert not any("guides" in name or "targets" in name or "/shrunk/" in name for name in final)
    assert final["marks/none/none/map"] == "" and final["marks/combat/none/map"] == "T"


def test_pathways_of_pictures_are_found_where_nothing_disturbs_them(monkeypatch):
    """Recall is of planted pairs: near 1 where the features are the effects themselves, and at chance where they are
    of treatments in another order."""
    pathway = lambda rows: np.array([row["perturbation_id"] // 3 for row in rows])  # noqa: E731
    noise = np.random.default_rng(0).normal(size=(100, 8))
    told = lambda screen, rows: noise[pathway(rows)] + 0.01 * np.arange(len(rows))[:, None] % 0.1  # noqa: E731
    monkeypatch.setattr(planted_maps, "features", told)
    settings = planted_maps.PIXELS | {"seed": 1}
    ((*_, found),) = planted_maps.score_pixels(settings, ["none"])
    assert found["recall_across"] > 0.95 and found["wells"] > 0.3  # one treatment of three of a pathway
    monkeypatch.setattr(
        planted_maps, "features", lambda screen, rows: np.random.default_rng(1).normal(size=(len(rows), 8))
    )
    ((*_, found),) = planted_maps.score_pixels(settings, ["none"])
    assert found["recall_across"] < 0.35 and abs(found["wells"]) < 0.05


def test_a_finished_run_is_kept_and_another_screen_is_stale(out):
    run, _ = map_demo.TABLE.runs
    assert runs.is_done(run, out, 0)
    (differs,) = runs.stale(run, out, 0)
    assert differs.startswith("config (screen.") or "alignments" in differs
    stored = json.loads((runs.workdir("planted", out, 0) / "config.json").read_text())
    assert stored["screen"]["genes"] == 150 and stored["resolved"]["provenance"]["code"]


def test_the_demo_is_the_committed_screen_and_every_row_is_printed(out):
    run, pictures = map_demo.TABLE.runs
    assert config.load(run.seeded(3))["screen"] == dataclasses.asdict(Settings(seed=3))
    assert config.load(pictures.seeded(3))["pixels"] == planted_maps.PIXELS | {"seed": 3}
    assert runs.command(run, out, 3)[1:3] == ["-m", "rxrx_jax.planted_maps"]
    assert [row.labels for row in map_demo.ROWS] == [
        (map_demo.LABELS[name], how) for name in score.ALIGNMENTS for how in ("none", "shrunk", "published")
    ] + [(f"{map_demo.LABELS[name]}, pixels", "none") for name in score.ALIGNMENTS]
