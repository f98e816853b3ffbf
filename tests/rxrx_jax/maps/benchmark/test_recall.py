"""Recall by two order statistics counts what ranks count, also on maps full of ties; relation files are parsed once."""

import numpy as np
import pytest
from reference.maps import cases

from rxrx_jax.base.errors import UserError
from rxrx_jax.maps.benchmark import recall, relations

PAIRS = [(0.05, 0.95), (0.1, 0.9), (0.25, 0.5), (0.3, 0.7), (0.0, 0.9), (0.1, 1.0), (0.49, 0.51)]


@pytest.mark.parametrize("values", [None, 2, 3, 1])
@pytest.mark.parametrize("n", [1, 2, 20, 101, 780])
def test_hits_are_what_ranks_say(n, values):
    random = np.random.default_rng(n)
    draw = lambda m: random.normal(size=m) if values is None else random.integers(0, values, m) / 10  # noqa: E731
    null, queries = draw(n), np.concatenate([draw(50), [-9.0, 9.0]])
    ordered = np.sort(null)
    left, right = (np.searchsorted(ordered, queries, side) / n for side in ("left", "right"))
    found = recall.hits(null.copy(), queries, PAIRS)
    for t, (lo, hi) in enumerate(PAIRS):
        # Of one side the other does not count: rank 0 <= 0 or 1 >= 1 would, in the published formula.
        expected = ((right <= lo) if lo > 0 else False) | ((left >= hi) if hi < 1 else False)
        np.testing.assert_array_equal(found[:, t], expected, err_msg=f"{lo} {hi}")


@pytest.fixture(scope="module")
def known():
    return [relations.make(name, pairs) for name, pairs in cases.relations().items()]


def test_sides_and_intervals(known):
    names, x = cases.gene_map()
    two, right, left = (recall.all_pairs(x, names, known, side=side, draws=100) for side in recall.SIDES)
    for a, b, c in zip(two, right, left):
        assert a["recall"] == pytest.approx(b["recall"] + c["recall"])
        assert a["chance"] == pytest.approx(b["chance"] + c["chance"])
        assert a["ci_low"] <= a["recall"] <= a["ci_high"] and a["null"] == "all_pairs"
    assert [(row["source"], row["licence"]) for row in two[::2]] == [("Reactome", "CC0 1.0"), ("HuMAP", "CC BY 4.0")]


def test_chance_is_what_random_maps_give(known):
    names, _ = cases.gene_map()
    draws = [np.random.default_rng(seed).normal(size=(150, 16)) for seed in range(20)]
    found = np.array([[row["recall"] for row in recall.all_pairs(x, names, known, draws=0)] for x in draws])
    chance = np.array([row["chance"] for row in recall.all_pairs(draws[0], names, known, draws=0)])
    assert (np.abs(found.mean(0) - chance) < 4 * found.std(0, ddof=1) / np.sqrt(20)).all()


def test_the_sampled_null_has_an_interval_over_genes_too(known, monkeypatch):
    """Of pairs as often as the file has them, each a hit in the share of the three runs; `draws` of 0 give none."""
    monkeypatch.setattr(recall, "SAMPLES", 60)
    names, x = cases.gene_map()
    for row, none in zip(recall.sampled_0_1(x, names, known), recall.sampled_0_1(x, names, known, draws=0)):
        assert row["ci_low"] < row["recall"] < row["ci_high"] and np.isnan(none["ci_low"])
        assert row["recall"] == none["recall"]


def test_few_genes_and_none_are_no_crash(known):
    names, x = cases.gene_map()
    few = [
        relations.make("few", np.array([["G0", "G1"], ["G2", "G3"]])),
        relations.make("none", np.array([["A", "B"]])),
    ]
    for made in (recall.all_pairs(x, names, few), recall.sampled_0_1(x, names, few)):
        assert [row["pairs"] for row in made] == ([2, 2, 0, 0] if len(made) == 4 else [2, 0])
        assert all(np.isnan(row["recall"]) and np.isnan(row["ci_low"]) for row in made)
    assert all(np.isnan(row["recall"]) for row in recall.all_pairs(x[:19], names[:19], known))
    assert recall.all_pairs(x, names, []) == []


def test_the_null_holds_the_queries_themselves():
    """A pair that is the largest of all is beyond hi = 1 - 1 / N, and its tie with itself does not push it out."""
    x = np.eye(30)
    x[1] = x[0]
    names = np.array([f"g{i}" for i in range(30)], object)
    everything = relations.make("all", np.array([[names[i], names[j]] for i in range(30) for j in range(i)]))
    found = recall.all_pairs(x, names, [everything], [(0.05, 0.95)], draws=0)
    assert found[0]["recall"] == 1 / 435


def test_relations_are_unordered_unique_and_of_two(tmp_path):
    path = tmp_path / "CORUM.txt"
    path.write_text("entity1,entity2\nB,A\nA,B\nA,A\n C ,A\nNA,007\n")
    found = relations.read_pairs(path)
    pairs = {frozenset((found.entities[a], found.entities[b])) for a, b in zip(found.first, found.second)}
    assert pairs == {frozenset("AB"), frozenset("AC"), frozenset(("NA", "007"))} and len(found.first) == 3
    assert found.licence == "CC BY-NC 4.0" and len(found.given) == 5
    i, j = found.among(np.array(["C", "A", "X"], object))
    assert (i.tolist(), j.tolist()) == ([1], [0])
    i, j = found.given_among(np.array(["A", "B"], object))
    assert list(zip(i, j)) == [(1, 0), (0, 1), (0, 0)]
    assert found.unknown(np.array(["a", "B", " c"], object)) == (4, 2)


def test_clusters(tmp_path):
    (tmp_path / "CORUM_clusters.tsv").write_text("complex 1\tA B A C\ncomplex 2\tD\n\n")
    assert relations.read_clusters(tmp_path / "CORUM_clusters.tsv") == {
        "complex 1": ["A", "B", "C"],
        "complex 2": ["D"],
    }
    (tmp_path / "go.gmt").write_text("term\thttp://x\tA\tB\n")
    clusters = relations.read_clusters(tmp_path / "go.gmt")
    assert clusters == {"term": ["A", "B"]}
    made = relations.of_clusters("go", clusters | {"other": ["B", "A"], "one": ["C"]})
    assert len(made.first) == 1 and made.entities.tolist() == ["A", "B"]


def test_what_is_not_a_relation_file_is_one_line(tmp_path):
    for text, words in (
        ("A,B\nC,D\n", "a.txt begins with 'A,B' where 'entity1,entity2' should be"),
        ("entity1,entity2\nA,B\nC,\n", "a.txt: line 3 names only one entity"),
        ("version https://git-lfs.github.com/spec/v1\n", "a.txt is a Git LFS pointer"),
        ("", "a.txt cannot be read"),
    ):
        (tmp_path / "a.txt").write_text(text)
        with pytest.raises(UserError, match=words):
            relations.read_folder(tmp_path)
    for text, words in (("a b c\n", "line 1 is not a name, a tab and genes"), ("x\tA\nx\tB\n", "line 2 has the name x"),
                        ("", "has no clusters")):  # fmt: skip
        (tmp_path / "b.tsv").write_text(text)
        with pytest.raises(UserError, match=words):
            relations.read_clusters(tmp_path / "b.tsv")
    (tmp_path / "a.txt").unlink()
    with pytest.raises(UserError, match="holds no relation file: CORUM.txt, "):
        relations.read_folder(tmp_path)
    with pytest.raises(UserError, match="nowhere is not a folder of relation files"):
        relations.read_folder(tmp_path / "nowhere")
