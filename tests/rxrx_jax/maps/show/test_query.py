"""Neighbours of a gene and of a compound: what was planted comes first, with its evidence."""

import numpy as np
import pytest

from rxrx_jax.base import command
from rxrx_jax.base.errors import UserError
from rxrx_jax.maps import __main__ as maps
from rxrx_jax.maps import relate
from rxrx_jax.maps.benchmark import relations
from rxrx_jax.maps.benchmark.genome import Genome
from rxrx_jax.maps.show import query


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


@pytest.mark.parametrize("name", ["G3", "drug"])
@pytest.mark.parametrize("block", [query.BLOCK, 5])
def test_the_nearest_are_those_of_all_pairs(found, name, block, monkeypatch):
    """By trying every dose of every one, at the percentile that a sort of the null gives."""
    monkeypatch.setattr(query, "BLOCK", block)
    entities = query.Entities(found)
    mine, best = entities.find(name), {}
    for other in sorted(set(entities.name) - {name}):
        for i in mine:
            for j in entities.find(other):
                null = entities.null(entities.kind[i], entities.kind[j])
                cosine = entities.u[i] @ entities.u[j]
                percentile = relate.percentiles(null.copy(), np.array([cosine]))[0]
                key = (abs(percentile - 0.5), abs(cosine))
                best[other] = max(best.get(other, (0, 0, 0, 0, 0)), (*key, i, j, percentile))
    ones = len(entities.start) - 1
    own, other, cosine, percentile = (of[entities.one(name)] for of in query.nearest(entities, 0, ones, 70))
    found_of = {entities.name[j]: k for k, j in enumerate(other.tolist()) if j >= 0}
    assert found_of.keys() == best.keys() and len(best) == (other >= 0).sum() == ones - 1
    far = np.abs(percentile[: ones - 1] - 0.5)
    assert (np.diff(far) <= 0).all()  # the farthest out first
    for one, (_, _, i, j, expected) in best.items():
        k = found_of[one]
        assert percentile[k] == pytest.approx(expected, abs=1e-2)  # up to a rank or two of few pairs
        if far[k] > 0.1:
            assert (own[k], other[k]) == (i, j) and cosine[k] == pytest.approx(entities.u[i] @ entities.u[j])


def test_neighbours_and_doses_of_a_compound(found):
    entities = query.Entities(found)
    rows = query.neighbours(entities, "drug", 3)
    assert {row["name"] for row in rows[:2]} == {"G0", "G1"} and all(row["own_dose"] == 10 for row in rows[:2])
    curve = query.dose_response(entities, "drug", "G0")
    assert curve["dose"] == [0.1, 1.0, 10.0] and curve["length_spearman"] == pytest.approx(1)
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
    assert "Clusters" not in said
    said = capsys.readouterr().out
    assert "drug 0.1 uM: 4 replicates" in said and "Spearman correlation with the dose: length 1.000, cosine" in said


def test_clusters_that_neighbours_are_rich_in(found, tmp_path, capsys):
    near = [row["name"] for row in query.neighbours(query.Entities(found), "G0", 9) if row["kind"] == "gene"]
    path = tmp_path / "clusters.tsv"
    path.write_text(f"complex\t{' '.join(near[:5])}\nother\tG0 {near[5]} " + " ".join(f"G{i}" for i in range(40, 60)))
    argv = ["query", str(found.path), "G0", "--top=9", f"--clusters={path}"]
    assert command.run(maps.main, argv) == 0
    said = capsys.readouterr().out.partition(f"Clusters that these {len(near)} genes are rich in:")[2]
    assert f"| complex | 5 | 5 | {5 / len(near):.3f} |" in said and "| other |" not in said
    path.write_text("far\tG40 G41\n")
    assert command.run(maps.main, argv) == 0
    assert "No cluster is enriched among them at FDR .05." in capsys.readouterr().out
