"""Morgan fingerprints: what molecules are compared by, and simple models of properties fitted on (Rogers and Hahn
2010, doi 10.1021/ci100050t)."""

from collections.abc import Sequence

import numpy as np

from rxrx_jax.molecules.chemistry import chem, quiet
from rxrx_jax.molecules.standardise import BadMolecule

RADIUS, BITS = 2, 2048


def morgan(smiles: Sequence[str], bits: int = BITS, radius: int = RADIUS) -> np.ndarray:
    """How often each environment of up to `radius` bonds occurs, folded: float32 [n, bits].

    Raises BadMolecule, which names the SMILES, if RDKit cannot read one.
    """
    return _each(smiles, "GetCountFingerprintAsNumPy", np.zeros((len(smiles), bits), np.float32), radius)


def morgan_bits(smiles: Sequence[str]) -> np.ndarray:
    """Which environments occur: uint8 [n, BITS] of 0 and 1. Raises BadMolecule as `morgan` does."""
    return _each(smiles, "GetFingerprintAsNumPy", np.zeros((len(smiles), BITS), np.uint8), RADIUS)


def _each(smiles: Sequence[str], function: str, out: np.ndarray, radius: int) -> np.ndarray:
    lib = chem()
    from rdkit.Chem import rdFingerprintGenerator

    of = getattr(rdFingerprintGenerator.GetMorganGenerator(radius=radius, fpSize=out.shape[1]), function)
    with quiet():
        for row, text in zip(out, smiles):
            mol = lib.MolFromSmiles(text)
            if mol is None:
                raise BadMolecule(f"invalid SMILES {text!r}")
            row[:] = of(mol)
    return out


def tanimoto(one: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Similarity of counts or bits [d] to others [n, d], 0 to 1: sum of minima over sum of maxima; 0 where both are
    empty."""
    least, most = np.minimum(one, others).sum(1), np.maximum(one, others).sum(1)
    return np.divide(least, most, out=np.zeros(len(others)), where=most > 0)
