"""The scaffold split is TDC's, seed for seed, and no two splits share a molecule or a scaffold."""

import json

import pytest
from rdkit import Chem
from reference.peers import public_tdc

from rxrx_jax.base.errors import UserError
from rxrx_jax.molecules import library, split

STORED = json.loads(public_tdc.PATH.read_text())


def check(name: str, smiles: list[str]) -> None:
    scaffolds = [split.scaffold(Chem.MolFromSmiles(text)) for text in smiles]
    for fractions in public_tdc.FRACTIONS:
        for seed in public_tdc.SEEDS:
            found = split.scaffold_split(scaffolds, seed, fractions)
            theirs = STORED["splits"][public_tdc.key(name, fractions, seed)]
            assert {which: public_tdc.digest(places) for which, places in found.items()} == theirs
            assert sorted(place for places in found.values() for place in places.tolist()) == list(range(len(smiles)))
            sets = [{scaffolds[place] for place in places.tolist()} for places in found.values()]
            assert not sets[0] & sets[1] and not sets[0] & sets[2] and not sets[1] & sets[2]


def test_split_of_simulated_molecules_is_tdcs():
    check("simulated", STORED["simulated"])


@pytest.mark.parametrize("name", ["esol.csv", pytest.param("clintox.csv.gz", marks=pytest.mark.slow)])
def test_split_of_public_molecules_is_tdcs(shared_data, name):
    check(name, public_tdc.smiles_of(shared_data / "molecules" / name))


def test_the_stored_molecules_are_of_the_library():
    assert library.simulated(200, 7) == STORED["simulated"][:200]


def test_seeds_differ_and_fractions_are_kept():
    scaffolds = [str(i // 2) for i in range(100)]
    one, other = (split.scaffold_split(scaffolds, seed) for seed in (0, 1))
    assert [len(one[name]) for name in split.SPLITS] == [80, 10, 10]
    assert one["test"].tolist() != other["test"].tolist()
    assert len(split.scaffold_split(scaffolds, 0, split.TRAIN_VALIDATION)["test"]) == 0


def test_splits_that_share_a_molecule_are_refused():
    split.check_disjoint({"train": ["A", ""], "validation": ["B", ""], "test": []})
    with pytest.raises(UserError, match="1 molecules are in train and in test, the first has the InChIKey A"):
        split.check_disjoint({"train": ["A", "B"], "validation": ["C"], "test": ["A"]})
