"""Real profiles, genes and relations; skips where the data is missing."""

import json

import numpy as np
import pytest
from paths import ROOT

from rxrx_jax.base import command
from rxrx_jax.maps import __main__ as maps
from rxrx_jax.maps.benchmark import genome

LEFT_OUT = {"LOH12CR2", "LONP1", "LONP2", "LONRF1", "LONRF2", "LONRF3", "LORICRIN", "LOX", "LOXHD1", "LOXL1",
            "LOXL1-AS1", "LOXL2", "LOXL3", "LOXL4"}  # fmt: skip


@pytest.mark.full
def test_arms_are_those_of_the_public_table_and_fourteen_genes_it_lacks(shared_data):
    folder = shared_data / "maps" / "genome"
    public, ours = genome.read(folder / "gene_arms_hg38.tsv.gz"), genome.read(folder)
    place = ours.places(public.gene)
    assert (place >= 0).all() and set(ours.gene) - set(public.gene) == LEFT_OUT
    for name in ("arm", "start", "end"):
        np.testing.assert_array_equal(getattr(ours, name)[place], getattr(public, name))


@pytest.mark.full
def test_the_page_says_what_a_knockout_map_gives(shared_data, tmp_path):
    """The first row of the table in docs/maps.md, and that centring as published over-corrects there."""
    data, text = shared_data / "maps", (ROOT / "docs/maps.md").read_text()
    table = data / "depmap" / "depmap_23q2_dependency_pca50_genes.csv.gz"
    build = ["build", f"--embeddings={table}", "--by=genes", f"--genome={data / 'genome'}"]
    for arms, row in (("", "left alone"), ("shrunk", "`--arms=shrunk`"), ("published", "`--arms=published`")):
        out = tmp_path / f"map{arms}"
        assert command.run(maps.main, [*build, f"--out={out}", *([f"--arms={arms}"] if arms else [])]) == 0
        cells = next(line for line in text.splitlines() if line.startswith(f"| {row} |")).split(" | ")
        if arms:
            probability = json.loads((out / "build.json").read_text())["arm_centring"]["probability_after"]
            assert f"{probability:.3f}".lstrip("0") == cells[1]
            continue
        argv = ["benchmark", str(out), f"--relations={data / 'relations'}", f"--genome={data / 'genome'}"]
        assert command.run(maps.main, argv) == 0
        found = json.loads((out / "benchmark.json").read_text())
        assert f"{found['proximity']['genome']['probability']:.3f}".lstrip("0") == cells[1]
        shown = [f"{row['recall']:.3f} ({row['ci_low']:.3f} to {row['ci_high']:.3f})".replace("0.", ".")
                 for row in found["recall"] if row["low"] == 0.05 and row["arms"] == "all"]  # fmt: skip
        assert shown == cells[2:5]
