"""A molecule to what an encoder reads: Morgan identifiers of every atom, and distances between atoms.

The token of an atom is its Morgan identifier of radius 0 (degree, valence, hydrogens, charge, isotope, ring), its label
that of radius 2, both without chirality and with redundant environments kept, so that every atom has its own (Rogers
and Hahn 2010, "Extended-connectivity fingerprints"; as targets of a network, Mendez-Lucio et al. 2024, "MolE"). An atom
without bonds has no environment but itself, and its token's identifier is its label's too.
"""

import functools
from typing import Any, NamedTuple

import numpy as np

from rxrx_jax.molecules.chemistry import chem

# Indices of relative positions: 0 is for CLS and padding, which are the encoder's; an atom itself is 1; distance d is
# d + 1, and what is farther than LONGEST - 1 is as LONGEST.
OUTSIDE, SELF, LONGEST, OTHER_FRAGMENT = 0, 1, 126, 127
POSITIONS = 128
RADIUS = 2


class Environments(NamedTuple):
    """What an encoder reads of a molecule of n atoms."""

    atoms: np.ndarray  # uint32 [n]: Morgan identifiers of radius 0
    labels: np.ndarray  # uint32 [n]: of radius 2
    distances: np.ndarray  # uint8 [n, n]: indices of relative positions, as above


@functools.cache
def _generator():
    from rdkit.Chem import rdFingerprintGenerator

    generator = rdFingerprintGenerator.GetMorganGenerator(radius=RADIUS, includeRedundantEnvironments=True)
    return generator, rdFingerprintGenerator.AdditionalOutput


def identifiers(mol: Any) -> tuple[np.ndarray, np.ndarray]:
    """(radius 0, radius 2): Morgan identifiers of every atom of RDKit's molecule, uint32 [n] each."""
    chem()
    generator, output = _generator()
    found = output()
    found.AllocateAtomToBits()
    generator.GetSparseCountFingerprint(mol, additionalOutput=found)
    bits = found.GetAtomToBits()  # of every atom, by radius: three, or one where it has no bond
    first, last = [of_atom[0] for of_atom in bits], [of_atom[-1] for of_atom in bits]
    return np.array(first, np.uint32), np.array(last, np.uint32)


def positions(mol: Any) -> np.ndarray:
    """Indices of relative positions of RDKit's molecule, uint8 [n, n]."""
    bonds = chem().GetDistanceMatrix(mol)  # float64 [n, n], some 1e8 between fragments
    return np.where(bonds < 1e6, np.minimum(bonds + 1, LONGEST), OTHER_FRAGMENT).astype(np.uint8)


def environments(mol: Any) -> Environments:
    """Tokens' and labels' identifiers and positions of RDKit's molecule."""
    return Environments(*identifiers(mol), positions(mol))
