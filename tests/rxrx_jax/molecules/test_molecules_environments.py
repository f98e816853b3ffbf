"""Tokens, labels and distances are RDKit's own, on molecules of every kind and however their atoms are numbered."""

import collections
import csv
import gzip

import numpy as np
import pytest
from rdkit import Chem, rdBase
from rdkit.Chem import rdMolDescriptors

from rxrx_jax.molecules import library
from rxrx_jax.molecules.environments import LONGEST, OTHER_FRAGMENT, SELF, environments, identifiers, positions

ODD = ["C", "CC", "[Na+].CC(=O)[O-]", "[Fe]", "C[C@H](N)C(=O)O", "c1ccc2ccccc2c1.O", "[13CH4]", "*CC", "C1CC1C#N"]


def by_the_older_interface(mol) -> tuple[list[int], list[int]]:
    """Identifiers of radius 0 and of the largest radius up to 2 of every atom, by GetMorganFingerprint's bitInfo."""
    found = [{} for _ in range(mol.GetNumAtoms())]
    info: dict[int, tuple] = {}
    rdMolDescriptors.GetMorganFingerprint(mol, 2, bitInfo=info, includeRedundantEnvironments=True)
    for bit, places in info.items():
        for atom, radius in places:
            found[atom][radius] = bit
    return [of[0] for of in found], [of[max(of)] for of in found]


def check(smiles: list[str]) -> None:
    with rdBase.BlockLogs():
        for text in smiles:
            mol = Chem.MolFromSmiles(text)
            atoms, labels = identifiers(mol)
            assert (atoms.tolist(), labels.tolist()) == by_the_older_interface(mol), text
            one = rdMolDescriptors.GetMorganFingerprint(mol, 0).GetNonzeroElements()
            assert collections.Counter(atoms.tolist()) == one, text


def test_identifiers_are_those_of_rdkits_fingerprints():
    check(library.simulated(300) + ODD)


def rows(shared_data, count: int) -> list[str]:
    with gzip.open(shared_data / "molecules" / "chembl_5thresh.csv.gz", "rt") as file:
        return [row["smiles"] for _, row in zip(range(count), csv.DictReader(file))]


def test_identifiers_of_chembl(shared_data):
    check(rows(shared_data, 300))


@pytest.mark.slow
def test_identifiers_of_ten_thousand_molecules_of_chembl(shared_data):
    check(rows(shared_data, 10_000))


def test_another_numbering_of_the_atoms_permutes_everything():
    mol = Chem.MolFromSmiles(library.simulated(40)[-1])
    mine, rng = environments(mol), np.random.default_rng(0)
    for _ in range(100):
        order = rng.permutation(mol.GetNumAtoms())
        found = environments(Chem.RenumberAtoms(mol, order.tolist()))
        np.testing.assert_array_equal(found.atoms, mine.atoms[order])
        np.testing.assert_array_equal(found.labels, mine.labels[order])
        np.testing.assert_array_equal(found.distances, mine.distances[np.ix_(order, order)])


def test_positions():
    expected = [[1, 2, 3, 127], [2, 1, 2, 127], [3, 2, 1, 127], [127, 127, 127, 1]]
    found = positions(Chem.MolFromSmiles("CCO.O"))
    assert found.dtype == np.uint8 and found.tolist() == expected and (SELF, OTHER_FRAGMENT) == (1, 127)
    long = positions(Chem.MolFromSmiles("C" * 200))
    assert long[0, :3].tolist() == [1, 2, 3] and long[0, 124] == 125 and set(long[0, 125:].tolist()) == {LONGEST}
