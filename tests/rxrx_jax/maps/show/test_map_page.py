"""The page of a map: what it holds is what the map says, in the same bytes each time, and names are no markup."""

import base64
import json
import re

import numpy as np
import pytest

from rxrx_jax.base import command
from rxrx_jax.maps import __main__ as maps
from rxrx_jax.maps import folder
from rxrx_jax.maps.benchmark import relations
from rxrx_jax.maps.benchmark.genome import Genome
from rxrx_jax.maps.show import order, pack, page, query

GENES = np.array([f"G{i}" for i in range(60)], object)
GENOME = Genome(GENES[:50], np.array(["chr1p", "chr2q"] * 25, object), np.arange(50)[::-1], np.arange(50))
KNOWN = [relations.make("CORUM", np.array([["G1", "G0"], ["G0", "G5"], ["drug", "G0"]]))]


def array(of) -> np.ndarray:
    kind, text = of
    return np.frombuffer(base64.b64decode(text), np.dtype(kind.removesuffix("Array").lower()))


def data_of(text: str) -> dict:
    return json.loads(re.search(r'id="map-data">(.*?)</script>', text, re.S)[1])


@pytest.fixture(scope="module")
def text(found, tmp_path_factory):
    return page.write(found, tmp_path_factory.mktemp("page") / "page.html", KNOWN, GENOME, "made so").read_text()


def test_its_neighbours_are_those_of_a_query(found, text):
    data, entities = data_of(text), query.Entities(found)
    assert data["names"] == [*sorted(GENES.tolist()), "drug", "inert"] and data["genes"] == 60
    start, top = array(data["start"]), data["top"]
    other, cosine, own = (array(data[key]) for key in ("other", "cosine", "own"))
    owner = np.repeat(np.arange(62), np.diff(start))
    known = dict.fromkeys(array(data["known"]["at"]).tolist())
    for name in ("G1", "G17", "drug"):
        one, rows = data["names"].index(name), query.neighbours(entities, name, top, KNOWN, GENOME)
        places = np.arange(one * top, (one + 1) * top)
        place_of = {data["names"][owner[other[place]]]: place for place in places}
        assert list(place_of)[:2] == [row["name"] for row in rows[:2]] or name == "drug"
        rows = [row for row in rows if row["name"] in place_of]
        assert len(rows) >= top - 1  # the last ones may be as far out as another
        places = [place_of[row["name"]] for row in rows]
        np.testing.assert_allclose(cosine[places] / 32767, [row["cosine"] for row in rows], atol=2e-5)
        assert [place in known for place in places] == [bool(row["known"]) for row in rows]
        if name == "drug":
            doses = [data["dose"][own[place - one * top] - 60] for place in places]
            assert doses[:10] == [row["own_dose"] for row in rows[:10]]
    curve = data["curves"]["60"]
    assert curve["dose"] == [0.1, 1, 10] and curve["length_spearman"] == 1 and curve["target"] in ("G0", "G1")
    assert array(data["counts"])[3:6].tolist() == [2, 8, 2]  # two guides of G1


def test_its_nulls_give_the_percentiles_of_a_query(found, text):
    data, entities = data_of(text), query.Entities(found)
    rows = query.neighbours(entities, "G0", 61)
    for kind, key in (("gene", "00"), ("compound", "01")):
        some = [row for row in rows if row["kind"] == kind]
        at = np.interp([row["cosine"] for row in some], array(data["nulls"][key]), data["shares"])
        np.testing.assert_allclose(at, [row["percentile"] for row in some], atol=5e-3)


@pytest.mark.parametrize("width", [12, 300])
def test_rows_in_bytes_keep_cosines_and_say_how_well(width):
    random = np.random.default_rng(0)
    u = random.normal(size=(50, 6)) @ random.normal(size=(6, width)) + random.normal(size=(50, width)) * 0.02
    u /= np.linalg.norm(u, axis=1, keepdims=True)
    rows, scale, error = pack.small(u)
    back = rows * scale[:, None]
    assert rows.dtype == np.int8 and rows.shape == (50, min(width, pack.VALUES)) and 0 < error < 0.02
    apart = np.abs(back @ back.T - u @ u.T)[np.triu_indices(50, 1)]
    assert apart.max() == pytest.approx(error, rel=1e-3)


@pytest.mark.parametrize("whole", [order.WHOLE, 20])
def test_alike_rows_stand_together(whole, monkeypatch):
    monkeypatch.setattr(order, "WHOLE", whole)
    monkeypatch.setattr(order, "PART", 10)
    random = np.random.default_rng(0)
    of = np.arange(90) % 3
    u = random.normal(size=(3, 8))[of] * 3 + random.normal(size=(90, 8)) * 0.2
    found = order.clustered(u / np.linalg.norm(u, axis=1, keepdims=True))
    assert sorted(found.tolist()) == list(range(90))
    assert np.count_nonzero(np.diff(of[found])) == 2


def test_genes_stand_along_the_genome_and_those_without_an_arm_last():
    found, spans = order.along_genome(np.array(["G0", "G2", "X", "G1"], object), GENOME)
    assert found.tolist() == [1, 0, 3, 2] and spans == [("chr1p", 0, 2), ("chr2q", 2, 3)]


def test_a_name_is_never_markup(found, tmp_path):
    evil = "<script>alert('no')</script>"
    columns = {name: values.copy() for name, values in found.columns.items()}
    for name in ("gene", "perturbation"):
        columns[name][columns[name] == "G3"] = evil
        columns[name][columns[name] == "drug"] = "</script><img src=x onerror=alert(1)>"
    facts = {"marks": "", "arm_centring": {"how": evil, "probability_before": 0.6, "probability_after": 0.5, "by_arm": {
        "chr1p": {"c": 0.5, "genes": 3, "before": 0.6, "after": None}}}}  # fmt: skip
    spoilt = folder.Map(tmp_path, columns, found.features, facts)
    text = page.write(spoilt, tmp_path / "page.html", [], None, evil).read_text()
    assert "<script>alert" not in text and "<img src=x" not in text and "&lt;script&gt;alert" in text
    assert evil in data_of(text)["names"]


def test_it_says_what_is_missing_and_shows_what_is_there(found, tmp_path, text):
    assert "<main>" in text and "The map has not been scored" in text and "Neither were arms centred" in text
    again = page.write(found, tmp_path / "page.html", KNOWN, GENOME, "made so").read_text()
    assert again == text
    measured = {"arm": "chr1p", "genes": 4, "probability": 0.61, "statistic": 2.0, "p": None, "along_arm": None}
    whole = {"probability": 0.55, "statistic": 1.0}
    result = {
        "command": "scored so", "genes": 60, "guides": 61, "compound_rows": 6, "marks": "C", "retrieval": [],
        "replicates": {"null": "none", **{name: {"scored": 3} for name in ("consistency", "magnitude")}},
        "proximity": {"genes": 4, "without_an_arm": 0, "genome": whole, "arms": [measured]},
    }  # fmt: skip
    (tmp_path / folder.BENCHMARK).write_text(json.dumps(result))
    scored = folder.Map(tmp_path, found.columns, found.features, found.facts)
    text = page.write(scored, tmp_path / "page.html", [], None, "made so").read_text()
    assert "Arms were not centred: over all arms 0.550" in text and "scored so" in text
    assert "known from" not in text and "same arm" not in text.partition("Heat map")[0]


def test_a_map_without_genes_has_no_cosines_with_them(found, tmp_path, text):
    some = {name: values[61:] for name, values in found.columns.items()}
    made = folder.Map(tmp_path, some, found.features[61:], {})
    alone = page.write(made, tmp_path / "page.html", [], None, "").read_text()
    assert "length at each dose" in alone and "cosine at each dose" not in alone and "cosine at each dose" in text
    assert data_of(alone)["names"] == ["drug", "inert"]


def test_a_map_of_one_gene_has_no_heat_map(found, tmp_path):
    some = {name: values[:1] for name, values in found.columns.items()}
    one = folder.Map(tmp_path, some, found.features[:1], {})
    assert "no pairs to show" in page.write(one, tmp_path / "page.html", [], None, "").read_text()


def test_the_command_writes_it(found, capsys):
    assert command.run(maps.main, ["page", str(found.path)]) == 0
    assert capsys.readouterr().out == f"wrote {found.path / 'page.html'}\n"
    assert command.run(maps.main, ["page", str(found.path / "none")]) == 2
    assert "holds no map.parquet; make one: " in capsys.readouterr().err
