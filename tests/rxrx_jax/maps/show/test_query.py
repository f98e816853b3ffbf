"""Neighbours of a gene and of a compound: what was planted comes first, with its evidence."""

import json

import numpy as np
import pytest

from rxrx_jax.base import command, embeddings
from rxrx_jax.base.errors import UserError
from rxrx_jax.maps import __main__ as maps
from rxrx_jax.maps import folder
from rxrx_jax.maps.benchmark import relations
from rxrx_jax.maps.benchmark.genome import Genome
from rxrx_jax.maps.show import query

DOSES = np.array([0.1, 1.0, 10.0])


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """A map of 60 genes, of which G1 has two guides and is the opposite of G0, and of compounds that inhibit G0 (drug)
    or do nothing (inert)."""
    path = tmp_path_factory.mktemp("query")
    random = np.random.default_rng(0)
    x = random.normal(size=(60, 12))
    x[1] = -x[0]
    guides = np.concatenate([np.arange(60), [1]])
    features = np.concatenate(
        [x[guides], DOSES[:, None] * -x[0] / 5 + random.normal(size=(3, 12)) * 0.3, random.normal(size=(3, 12))]
    )
    n, drugs = len(features), ["drug"] * 3 + ["inert"] * 3
    columns = {
        "perturbation": np.array([f"G{i}_guide_{int(k >= 60)}" for k, i in enumerate(guides)] + drugs, object),
        "kind": np.array(["gene"] * 61 + ["compound"] * 6, object),
        "gene": np.array([f"G{i}" for i in guides] + [""] * 6, object),
        "guide": np.array([str(int(k >= 60)) for k in range(61)] + [""] * 6, object),
        "concentration_um": np.concatenate([np.full(61, np.nan), DOSES, DOSES]),
        "n_replicates": np.full(n, 4, np.int32), "n_batches": np.full(n, 2, np.int32),
    }  # fmt: skip
    embeddings.write(path / "map.parquet", columns, features.astype(np.float32))
    (path / "build.json").write_text(json.dumps({"marks": ""}))
    return folder.read(path)


def test_neighbours_of_a_gene(found):
    known = [relations.make("CORUM", np.array([["G1", "G0"], ["G0", "G5"]]))]
    genome = Genome(
        np.array(["G0", "G1", "G2"], object), np.array(["chr1p", "chr1p", "chr1q"], object), np.zeros(3), np.zeros(3)
    )
    entities = query.Entities(found)
    rows = query.neighbours(entities, "G0", 60, known, genome)
    assert [row["name"] for row in rows[:2]] == ["G1", "drug"] or [row["name"] for row in rows[:2]] == ["drug", "G1"]
    by_name = {row["name"]: row for row in rows}
    assert len(by_name) == len(rows) == 60 and "G0" not in by_name  # every other gene, and each compound once
    assert by_name["G1"]["cosine"] == pytest.approx(-1) and by_name["G1"]["known"] == ["CORUM"]
    assert by_name["G1"]["same_arm"] == "chr1p" and by_name["G2"]["same_arm"] == ""
    assert by_name["drug"]["dose"] == 10 and by_name["drug"]["kind"] == "compound"
    square = entities.u[:60] @ entities.u[:60].T
    null = square[np.triu_indices(60, 1)]
    below = (null < square[0, entities.find("G7")[0]]).sum()
    assert abs(round(by_name["G7"]["percentile"] * len(null)) - below) <= 1


def test_neighbours_and_doses_of_a_compound(found):
    entities = query.Entities(found)
    rows = query.neighbours(entities, "drug", 3)
    assert {row["name"] for row in rows[:2]} == {"G0", "G1"} and all(row["own_dose"] == 10 for row in rows[:2])
    curve = query.dose_response(entities, "drug", "G0")
    assert curve["dose"] == DOSES.tolist() and curve["length_spearman"] == pytest.approx(1)
    assert curve["cosine"][2] < -0.9 and curve["cosine"] == sorted(curve["cosine"], reverse=True)
    assert query.dose_response(entities, "G0") is None


def test_compounds_and_genes_have_nulls_of_their_own(found):
    entities = query.Entities(found)
    assert len(entities.null("gene", "gene")) == 60 * 59 // 2 and len(entities.null("gene", "compound")) == 360
    assert len(entities.null("compound", "compound")) == 9  # of two compounds, not of two doses of one


def test_a_name_that_is_not_there_is_one_line(found, capsys):
    with pytest.raises(UserError, match=r"^g7 is not a gene or compound of the map; did you mean G7\?$"):
        query.Entities(found).find("g7")
    with pytest.raises(UserError, match="^XYZ is not a gene or compound of the map$"):
        query.Entities(found).find("XYZ")
    assert command.run(maps.main, ["query", str(found.path), "G0", "--top=0"]) == 2
    assert capsys.readouterr().err == "error: --top=0: must be at least 1\n"


def test_the_command_prints_it(found, capsys):
    assert command.run(maps.main, ["query", str(found.path), "G1", "--top=2"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("G1_guide_0: 4 replicates in 2 batches\nG1_guide_1: ") and "| G0 | gene |" in said
    assert command.run(maps.main, ["query", str(found.path), "drug"]) == 0
    said = capsys.readouterr().out
    assert "drug 0.1 uM: 4 replicates" in said and "Spearman correlation with the dose: length 1.000, cosine" in said
