"""A record gives back the molecule that it was made of, also by TFDS's proto, and damage is a ValueError."""

from collections import Counter

import numpy as np
import pytest

from rxrx_jax.base.errors import UserError
from rxrx_jax.molecules import library, records, standardise, vocabulary
from rxrx_jax.molecules.environments import environments


@pytest.fixture(scope="module")
def molecules():
    """Molecules of a vocabulary that half of them have made, with targets."""
    found = [environments(standardise.standardise(text).mol) for text in library.simulated(10)]
    counts = [Counter(np.concatenate([getattr(one, key) for one in found]).tolist()) for key in ("atoms", "labels")]
    known = vocabulary.from_counts(*counts, least=2)
    made = [records.featurise(text, known, row=row) for row, text in enumerate(library.simulated(20))]
    rng = np.random.default_rng(0)
    targets = rng.normal(size=(20, 700)).astype(np.float32)
    targets[rng.random(targets.shape) < 0.9] = np.nan
    return [one._replace(targets=targets[row, : 35 * row]) for row, one in enumerate(made)]


def check_equal(one, other):
    for mine, theirs in zip(one, other):
        if isinstance(mine, np.ndarray):
            assert mine.dtype == theirs.dtype
            np.testing.assert_array_equal(mine, theirs)
        else:
            assert mine == theirs


def test_a_record_is_read_as_it_was_written(molecules):
    for molecule in molecules:
        check_equal(molecule, records.decode(records.encode(molecule)))


def test_a_record_is_an_example_of_one_string_of_bytes(molecules):
    from tensorflow_datasets.proto import tf_example_pb2 as proto

    for molecule in molecules:
        example = proto.Example.FromString(records.encode(molecule))
        assert list(example.features.feature) == ["molecule"]
        (value,) = example.features.feature["molecule"].bytes_list.value
        check_equal(molecule, records.decode(value))
        assert example.SerializeToString() == records.encode(molecule)


def test_a_record_that_is_cut_is_not_read(molecules):
    record = records.encode(molecules[3])
    for cut in (b"", record[:5], record[-20:], record[: len(record) // 2] + record[-14:]):
        with pytest.raises(ValueError, match="record"):
            records.decode(cut)


def test_a_folder_that_is_none(tmp_path):
    with pytest.raises(UserError, match="no molecules in .*tfds_builders.prepare molecules"):
        records.open_folder(tmp_path)
