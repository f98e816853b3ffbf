"""The simulated library is the same for the same seed, and its molecules are valid and different."""

import pytest
from rdkit import Chem

from rxrx_jax.base.errors import UserError
from rxrx_jax.molecules import library, split


def test_it_depends_on_the_seed_alone():
    found = library.simulated(120, 3)
    assert found == library.simulated(160, 3)[:120] and found != library.simulated(120, 4)
    assert len(set(found)) == 120
    mols = [Chem.MolFromSmiles(text) for text in found]
    assert [Chem.MolToSmiles(mol) for mol in mols] == found and not any("." in text for text in found)
    assert 12 < sorted(mol.GetNumAtoms() for mol in mols)[60] < 30
    assert len({split.scaffold(mol) for mol in mols}) > 40


def test_every_fragment_can_be_joined():
    for core in library.CORES:
        text = core
        for number, slot in enumerate(("@1", "@2", "@3"), 10):
            text = text.replace(slot, f"%{number}") + (f".C%{number}" if slot in core else "")
        mol = Chem.MolFromSmiles(text)
        assert mol is not None and "." not in Chem.MolToSmiles(mol), core
    for fragment in (*library.GROUPS, *library.ENDS):
        mol = Chem.MolFromSmiles(f"C%10.{fragment.replace('@1', '%10')}")
        assert mol is not None and "." not in Chem.MolToSmiles(mol), fragment
    for linker in library.LINKERS:
        mol = Chem.MolFromSmiles(f"C%10.{linker.replace('@1', '%10').replace('@2', '%11')}.C%11")
        assert mol is not None and "." not in Chem.MolToSmiles(mol), linker


def test_properties():
    values = [library.properties(Chem.MolFromSmiles(text)) for text in ("CCCCCC", "CCN(CC)CC", "CC(N)=O", "Nc1ccccc1")]
    assert [value[2] for value in values] == [0, 1, 0, 0] and values[0][0] > values[1][0] > values[2][0]
    assert values[0][1] == 0 < values[2][1] and len(library.TARGETS) == len(library.KINDS) == 3


def test_no_library_of_nothing():
    with pytest.raises(UserError, match="count=0"):
        library.simulated(0)
