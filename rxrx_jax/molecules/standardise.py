"""SMILES to one molecule: parsed, without the salts that are not wanted, written in one way only.

Nothing is neutralised and no tautomer is chosen: a screen has measured what its table says.
"""

import dataclasses
import functools
import re
from typing import Any

from rxrx_jax.base.errors import UserError, shortened
from rxrx_jax.molecules.chemistry import chem, quiet

SALTS = ("largest", "keep", "refuse")
MOST_ATOMS = 256  # of the largest bucket of the encoder
# Metalloids count as no metals.
NO_METALS = set("H He B C N O F Ne Si P S Cl Ar Ge As Se Br Kr Sb Te I Xe At Rn".split())
BRACKETED = re.compile(r"\[\d*([A-Za-z][a-z]?)")  # the element of an atom as SMILES write every metal


class BadMolecule(ValueError):
    """A SMILES that gives no molecule to use; the message is the reason, without the SMILES."""


@dataclasses.dataclass(frozen=True)
class Standard:
    """A standardised molecule.

    mol: RDKit's molecule, read from `smiles`, so that its atoms are in that order.
    smiles: canonical, with stereochemistry and isotopes, as this version of RDKit writes it.
    inchikey: 27 characters; "" where InChI has none, as for many metal complexes.
    suffix: what followed the SMILES: a CXSMILES extension (`|...|`) or a name. RDKit reads an extension that it
      understands (a radical, an enhanced stereo group); a canonical SMILES holds no "or" and no "and" of stereoisomers.
    fragments: of the molecule as it was given; the rest is gone with salts="largest".
    metals: symbols of the metals in `mol`, sorted.
    """

    mol: Any
    smiles: str
    inchikey: str
    suffix: str
    fragments: int
    metals: tuple[str, ...]


def check_salts(salts: str) -> None:
    """Raises UserError unless `salts` is one of SALTS."""
    if salts not in SALTS:
        raise UserError(f"salts={salts!r}: expected {', '.join(SALTS[:-1])} or {SALTS[-1]}")


def standardise(text: str, salts: str = "largest") -> Standard:
    """Standardises a SMILES.

    Args:
      text: a SMILES or CXSMILES, with a name after it or not.
      salts: of several fragments, "largest" keeps the one of most heavy atoms (then of most atoms, then the last in
        the order of canonical SMILES), "keep" all, and "refuse" raises.

    Raises BadMolecule: empty or invalid SMILES, no heavy atom, more than 256 atoms, several fragments.
    """
    check_salts(salts)
    with quiet():
        return _standardise(text, salts)


def _standardise(text: str, salts: str) -> Standard:
    lib = chem()
    smiles, _, suffix = text.strip().partition(" ") if " " in text.strip() else text.strip().partition("\t")
    if not smiles:
        raise BadMolecule("empty SMILES")
    if smiles.startswith("|"):
        raise BadMolecule("no SMILES before the CXSMILES extension")
    mol = _parse(text.strip(), smiles)
    pieces = lib.GetMolFrags(mol) if "." in smiles else ((),)
    if len(pieces) > 1 and salts == "refuse":
        raise BadMolecule(f"{len(pieces)} fragments, and salts=refuse")
    if len(pieces) > 1 and salts == "largest":
        found = lib.GetMolFrags(mol, asMols=True)
        mol = max(found, key=lambda one: (one.GetNumHeavyAtoms(), one.GetNumAtoms(), lib.MolToSmiles(one)))
    if not mol.GetNumHeavyAtoms():
        raise BadMolecule("no heavy atom")
    if (atoms := mol.GetNumAtoms()) > MOST_ATOMS:  # never cut: what is left would be another molecule
        raise BadMolecule(f"{atoms} atoms, more than {MOST_ATOMS}")
    canonical = lib.MolToSmiles(mol)
    again = lib.MolFromSmiles(canonical)
    if again is None:
        raise BadMolecule("RDKit cannot read the canonical SMILES that it writes of it")
    if (atoms := again.GetNumAtoms()) > MOST_ATOMS:
        raise BadMolecule(f"{atoms} atoms, more than {MOST_ATOMS}")
    symbols = {symbol.capitalize() for symbol in BRACKETED.findall(canonical)}  # aromatic ones are lower case
    metals = symbols - NO_METALS
    return Standard(again, canonical, inchikey(again), suffix.strip(), len(pieces), tuple(sorted(metals)))


@functools.cache
def _parameters():
    found = chem().SmilesParserParams()
    found.allowCXSMILES = found.parseName = True
    found.strictCXSMILES = False  # an extension that RDKit does not know is left out
    return found


def _parse(text: str, smiles: str):
    """RDKit's molecule. Raises BadMolecule with RDKit's reason where it has one."""
    lib = chem()
    try:
        mol = lib.MolFromSmiles(text, _parameters())
        if mol is None and text != smiles:
            mol = lib.MolFromSmiles(smiles)
    except (RuntimeError, ValueError, UnicodeError) as error:  # RDKit's own kinds are RuntimeErrors
        raise BadMolecule(f"invalid SMILES ({shortened(str(error))})") from error
    if mol is not None:
        return mol
    unchecked = lib.MolFromSmiles(smiles, sanitize=False)
    problems = lib.DetectChemistryProblems(unchecked) if unchecked is not None else ()
    raise BadMolecule(f"invalid SMILES ({shortened(problems[0].Message())})" if problems else "invalid SMILES")


def inchikey(mol: Any) -> str:
    """The standard InChIKey of RDKit's molecule, 27 characters; "" where InChI has none."""
    with quiet():
        return chem().MolToInchiKey(mol)


def without_stereo(mol: Any, smiles: str) -> str:
    """The canonical SMILES of a molecule without stereochemistry and isotopes: molecules that share it have the same
    tokens, labels and distances. Args: smiles, its canonical SMILES."""
    marked = any(mark in smiles for mark in "@/\\")
    return chem().MolToSmiles(mol, isomericSmiles=False) if marked else smiles
