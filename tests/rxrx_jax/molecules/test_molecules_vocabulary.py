"""A vocabulary numbers what training molecules have, is written whole, and is known by its digest."""

import json
from collections import Counter

import numpy as np
import pytest

from rxrx_jax.base.errors import UserError
from rxrx_jax.molecules import vocabulary
from rxrx_jax.molecules.vocabulary import Vocabulary

TOKENS, LABELS = Counter({30: 1, 2**32 - 1: 9, 7: 2}), Counter({5: 5, 3: 4, 9: 6})


def test_numbers():
    found = vocabulary.from_counts(TOKENS, LABELS)
    assert (found.tokens, found.labels) == ((7, 30, 2**32 - 1), (5, 9))
    assert (found.mask, found.unknown, found.cls, found.size, found.label_size) == (4, 5, 6, 7, 3)
    tokens = found.encode_tokens(np.array([[30, 7], [2**32 - 1, 8]], np.uint32))
    assert tokens.dtype == np.uint16 and tokens.tolist() == [[2, 1], [3, found.unknown]]
    labels = found.encode_labels(np.array([9, 5, 3, 2**32 - 1], np.uint32))
    assert labels.dtype == np.int32 and labels.tolist() == [2, 1, 0, 0]


def test_no_label_is_frequent_enough():
    found = vocabulary.from_counts(Counter({1: 1}), Counter({1: 4}))
    assert found.encode_labels(np.array([1, 2], np.uint32)).tolist() == [0, 0] and found.label_size == 1


def test_it_is_read_as_it_was_written(tmp_path):
    found = vocabulary.from_counts(TOKENS, LABELS)
    vocabulary.save(tmp_path / "v.json", found)
    again = vocabulary.load(tmp_path / "v.json")
    assert again == found and again.digest == found.digest
    assert found.digest != vocabulary.from_counts(TOKENS, LABELS, least=6).digest
    assert Vocabulary((1, 2), ()).digest != Vocabulary((1,), (2,)).digest


@pytest.mark.parametrize(
    "change", [{"tokens": [7, 5]}, {"labels": None}, {"tokens": [1]}, {"digest": "0"}, {"labels": [True]}]
)
def test_a_damaged_one_is_refused(tmp_path, change):
    path = tmp_path / "v.json"
    vocabulary.save(path, vocabulary.from_counts(TOKENS, LABELS))
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match="v.json is damaged"):
        vocabulary.load(path)


def test_another_vocabulary_is_refused_by_its_digest():
    vocabulary.check_same("a", "a", "runs/mole")
    with pytest.raises(UserError, match="runs/mole has another vocabulary.*--vocabulary=FOLDER"):
        vocabulary.check_same("a" * 64, "b" * 64, "runs/mole")


def test_more_kinds_of_atoms_than_a_record_can_tell_apart():
    with pytest.raises(UserError, match="70,000 kinds of atoms"):
        vocabulary.from_counts(Counter(range(70_000)), Counter())
