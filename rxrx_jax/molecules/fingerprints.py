"""Morgan fingerprints as bits: what two molecules are compared by (Rogers and Hahn 2010)."""

import functools
from collections.abc import Sequence

import numpy as np

from rxrx_jax.molecules.chemistry import chem
from rxrx_jax.molecules.standardise import BadMolecule

RADIUS, BITS = 2, 2048


@functools.cache
def _generator():
    chem()
    from rdkit.Chem import rdFingerprintGenerator

    return rdFingerprintGenerator.GetMorganGenerator(radius=RADIUS, fpSize=BITS)


def fingerprints(smiles: Sequence[str]) -> np.ndarray:
    """Morgan fingerprints of radius 2: uint8 [n, 2048] of 0 and 1.

    Raises BadMolecule, which names the SMILES, if RDKit cannot read one.
    """
    found = np.zeros((len(smiles), BITS), np.uint8)
    for row, text in zip(found, smiles):
        mol = chem().MolFromSmiles(text)
        if mol is None:
            raise BadMolecule(f"invalid SMILES {text!r}")
        row[:] = _generator().GetFingerprintAsNumPy(mol)
    return found
