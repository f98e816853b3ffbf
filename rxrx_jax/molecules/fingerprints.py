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
    lib = chem()
    from rdkit.Chem import rdFingerprintGenerator

    generator = rdFingerprintGenerator.GetMorganGenerator(radius=radius, fpSize=bits)
    out = np.zeros((len(smiles), bits), np.float32)
    with quiet():
        for row, text in zip(out, smiles):
            mol = lib.MolFromSmiles(text)
            if mol is None:
                raise BadMolecule(f"invalid SMILES {text!r}")
            row[:] = generator.GetCountFingerprintAsNumPy(mol)
    return out


def tanimoto(some: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Similarities of fingerprints [n, d] and [m, d] by the environments that occur at all: float32 [n, m], the share
    of those of either that both have; 0 where neither has any."""
    a, b = ((x > 0).astype(np.float32) for x in (some, others))
    both = a @ b.T
    either = a.sum(1)[:, None] + b.sum(1) - both
    return np.divide(both, either, out=np.zeros_like(both), where=either > 0)
