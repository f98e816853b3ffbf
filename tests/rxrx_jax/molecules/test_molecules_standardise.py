"""SMILES to molecules: every bad one has its reason, and a molecule that is written in two ways is one."""

import contextlib
import csv
import gzip

import pytest
from rdkit import Chem

from rxrx_jax.base.errors import UserError
from rxrx_jax.molecules.standardise import NO_METALS, BadMolecule, standardise, without_stereo

LONG = "C" * 257


@pytest.mark.parametrize(
    ("text", "salts", "reason"),
    [
        ("", "largest", "empty SMILES"),
        ("  \t ", "largest", "empty SMILES"),
        ("|o1:1|", "largest", "no SMILES before"),
        ("C1CC", "largest", "invalid SMILES"),
        ("hello", "largest", "invalid SMILES"),
        ("CN(C)(C)(C)C", "largest", "valence for atom # 1 N"),
        ("c1cccc1", "largest", "kekulize"),
        ("[H][H]", "largest", "no heavy atom"),
        ("[H+].[H+]", "largest", "no heavy atom"),
        ("*", "keep", "no heavy atom"),
        (LONG, "largest", "257 atoms, more than 256"),
        (f"{'C' * 200}.{'C' * 100}", "keep", "300 atoms, more than 256"),
        ("CC(=O)[O-].[Na+]", "refuse", "2 fragments, and salts=refuse"),
    ],
)
def test_a_bad_smiles_has_its_reason(text, salts, reason, capfd):
    with pytest.raises(BadMolecule, match=reason.replace("#", ".")):
        standardise(text, salts)
    assert capfd.readouterr().err == ""


def test_salts():
    text = "[Na+].CC(=O)[O-]"
    assert standardise(text, "keep").smiles == "CC(=O)[O-].[Na+]"
    largest = standardise(text)
    assert (largest.smiles, largest.fragments, largest.metals) == ("CC(=O)[O-]", 2, ())
    assert standardise("[2H]C([2H])([2H])[2H].CC").smiles == "CC"  # of heavy atoms
    assert standardise(f"{'C' * 256}.{'C' * 100}").mol.GetNumAtoms() == 256  # of the molecule that is kept
    with pytest.raises(UserError, match="salts='drop': expected largest, keep or refuse"):
        standardise("C", "drop")


def test_which_of_two_fragments_is_kept_does_not_depend_on_their_order():
    assert standardise("CCCO.CCCN").smiles == standardise("CCCN.CCCO").smiles


@pytest.mark.parametrize(
    ("text", "smiles", "suffix"),
    [
        ("CC[C@H](O)C |o1:2|", "CC[C@@H](C)O", "|o1:2|"),
        ("CCO |o1:1,r|", "CCO", "|o1:1,r|"),
        ("CCO |garbage", "CCO", "|garbage"),
        ("C[C@H](N)C(=O)O |r|", "C[C@H](N)C(=O)O", "|r|"),
        ("C[C@@H](O)C[C@H](N)C |&1:1,4,r|", "C[C@@H](N)C[C@@H](C)O", "|&1:1,4,r|"),  # a racemate
        ("C[C@@H](O)C[C@H](N)C |&1:1,o2:4| a name, 2", "C[C@@H](N)C[C@@H](C)O", "|&1:1,o2:4| a name, 2"),
        ("CC=CC |c:1|", "C/C=C\\C", "|c:1|"),
        ("C1=CC=CC=C1 |t:0,2,4|", "c1ccccc1", "|t:0,2,4|"),
        ("CC |(0,0,;1.5,0,)|", "CC", "|(0,0,;1.5,0,)|"),
        ("C[CH2] |^1:1|", "[CH2]C", "|^1:1|"),
        ("OCC\tethanol", "CCO", "ethanol"),
        (" OCC ", "CCO", ""),
    ],
)
def test_what_follows_a_smiles(text, smiles, suffix):
    found = standardise(text)
    assert (found.smiles, found.suffix) == (smiles, suffix)


def test_one_molecule_is_written_in_one_way():
    one, other = standardise("OC(=O)c1ccccc1OC(C)=O"), standardise("CC(=O)Oc1ccccc1C(O)=O")
    assert one.smiles == other.smiles and one.inchikey == other.inchikey == "BSYNRYMUTXBXSQ-UHFFFAOYSA-N"
    assert [a.GetSymbol() for a in one.mol.GetAtoms()] == [a.GetSymbol() for a in other.mol.GetAtoms()]


def test_metals_are_named():
    assert standardise("[Fe+2].[Cl-].[Cl-]", "keep").metals == ("Fe",)
    assert standardise("C[Si](C)(C)C").metals == standardise("OB(O)c1ccccc1").metals == ()
    for text in ("c1cc[nH]c1", "c1cc[se]c1", "[2H]OC", "[13CH4]", "C[*]", "[cH-]1cccc1", "[Xe]", "C[N@+](F)(Cl)Br"):
        assert standardise(text, "keep").metals == (), text
    assert standardise("[Co].[CH3:1][60Co][O-].[cH-]1cccc1.[Sc+3].[Na+]", "keep").metals == ("Co", "Na", "Sc")


def test_metals_are_what_the_atoms_are(shared_data):
    """Of the table that has the most of them."""
    with gzip.open(shared_data / "molecules" / "tox21.csv.gz", "rt") as file:
        smiles = [row["smiles"] for row in csv.DictReader(file) if "[" in row["smiles"]][::3]
    table, found = Chem.GetPeriodicTable(), set()
    numbers = {table.GetAtomicNumber(symbol) for symbol in NO_METALS} | {0}
    for text in smiles:
        with contextlib.suppress(BadMolecule):
            one = standardise(text, "keep")
            atoms = {atom.GetSymbol() for atom in one.mol.GetAtoms() if atom.GetAtomicNum() not in numbers}
            assert one.metals == tuple(sorted(atoms)), text
            found |= atoms
    assert {"Co", "Sn", "Dy"} <= found


def test_stereoisomers_share_what_an_encoder_reads():
    one, other = standardise("C[C@H](N)C(=O)O"), standardise("C[C@@H](N)C(=O)O")
    assert one.smiles != other.smiles and one.inchikey != other.inchikey
    assert without_stereo(one.mol, one.smiles) == without_stereo(other.mol, other.smiles) == "CC(N)C(=O)O"


def test_without_rdkit_one_line_names_the_extra(without_rdkit):
    with pytest.raises(UserError, match=r"pip install 'rxrx_jax\[molecules\]'"):
        standardise("C")
