"""Duplicates become one molecule, a molecule of two splits is kept in one, and stereoisomers that differ are named."""

import numpy as np

from rxrx_jax.molecules import split
from tfds_builders.molecules import features, merge
from tfds_builders.molecules.table import Table

NAN = np.nan


def merged(tmp_path, smiles, values=(), splits=None, kinds=("regression", "classification"), seed=0, bad=None):
    values = np.array(values, np.float32).reshape(len(smiles), -1)
    names = ("y", "c")[: values.shape[1]]
    found = Table(list(smiles), names, kinds[: len(names)], values, splits, bad or {})
    rows = [(row, text) for row, text in enumerate(smiles) if row not in found.bad]
    chunks = [features.work(tmp_path / f"{at}.npz", rows[at : at + 3], "largest") for at in range(0, len(rows), 3)]
    return merge.merge(found, chunks, seed)


def test_duplicates_become_the_first(tmp_path):
    values = [[1, 0], [NAN, 0], [2, NAN], [6, 1], [NAN, NAN]]
    found = merged(tmp_path, ["OCC", "CC", "CCO", "C(O)C", "CC"], values)
    assert found.duplicates == [
        (0, 2, "LFQSCWFLJHTTHZ-UHFFFAOYSA-N", "y c"),
        (0, 3, "LFQSCWFLJHTTHZ-UHFFFAOYSA-N", "y c"),
        (1, 4, "OTMSDBZUPAUEDD-UHFFFAOYSA-N", ""),
    ]
    np.testing.assert_array_equal(found.values[[0, 1]], np.array([[3, NAN], [NAN, 0]], np.float32))
    assert sorted(np.concatenate(list(found.places.values()))) == [0, 1]
    assert "3 rows are duplicates by InChIKey and were merged (duplicates.csv)" in found.notes
    assert "2 of the merged rows have another value of a target" in found.notes


def test_a_molecule_of_two_splits_stays_in_the_test_set(tmp_path):
    splits = ["train", "test", "validation", "train", "validation", "train"]
    found = merged(tmp_path, ["CCO", "OCC", "CCO", "CC", "CC", "CCC"], [[1], [2], [3], [4], [5], [6]], splits)
    assert {name: [found.facts.rows[i] for i in places] for name, places in found.places.items()} == {
        "train": [5],
        "validation": [4],
        "test": [1],
    }
    assert found.set_aside == [(0, "the same molecule is in test"), (2, "the same molecule is in test"),
                               (3, "the same molecule is in validation")]  # fmt: skip
    assert found.values[1] == 2 and not found.duplicates  # of the test set's row alone


def test_stereoisomers_that_differ_are_named(tmp_path):
    smiles = ["C[C@H](N)C(=O)O", "CC", "C[C@@H](N)C(=O)O", "F/C=C/F", "F/C=C\\F", "CC(N)C(=O)O"]
    found = merged(tmp_path, smiles, [[1, 0], [9, 1], [1, 1], [2, NAN], [2, 0], [NAN, 1]])
    assert found.stereoisomers == [("CC(N)C(=O)O", "0 2 5", "c", "0 1 1")]
    assert not found.duplicates and len(np.concatenate(list(found.places.values()))) == 6
    assert any(note.startswith("1 groups of stereoisomers") for note in found.notes)


def test_the_scaffold_split_is_of_what_is_left(tmp_path):
    smiles = ["c1ccccc1", "C1CC", "Cc1ccccc1", "c1ccncc1", "C1CCCC1", "C1CCCCC1", "CC", "c1ccoc1", "c1ccsc1"]
    found = merged(tmp_path, smiles, seed=3)
    scaffolds = [split.scaffold(features.standardise.standardise(text).mol) for text in smiles[:1] + smiles[2:]]
    for name, places in split.scaffold_split(scaffolds, 3).items():
        np.testing.assert_array_equal(found.places[name], places)
    assert found.set_aside == [(1, "invalid SMILES")]


def test_a_test_set_that_is_given_leaves_the_rest_to_the_scaffold_split(tmp_path):
    smiles = [f"{'C' * n}c1ccccc1" for n in range(8)] + [f"{'C' * n}C1CCCC1" for n in range(1, 5)]
    splits = ["train"] * 7 + ["test"] + ["train"] * 4
    found = merged(tmp_path, smiles, splits=splits)
    assert [len(found.places[name]) for name in split.SPLITS] == [7, 4, 1] and found.places["test"].tolist() == [7]


def test_what_was_found_in_a_stopped_build_is_read_again(tmp_path):
    rows = [(0, "CCO"), (1, "C1"), (2, "C.CC |o1:1|")]
    first = features.work(tmp_path / "a.npz", rows, "largest")
    before = features.read(tmp_path / "a.npz")
    again = features.work(tmp_path / "a.npz", [], "largest")
    assert [list(map(tuple, c)) if c and isinstance(c[0], (list, tuple)) else c for c in again] == list(first)
    assert before.atoms.tolist() == [3, 2] and len(before.tokens) == 5 and len(before.distances) == 13
    assert first.set_aside == [(1, "invalid SMILES")] and first.suffixes == [False, True]
    assert [distances.shape for _, _, distances in before.molecules()] == [(3, 3), (2, 2)]
