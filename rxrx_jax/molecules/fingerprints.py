"""Morgan count fingerprints of molecules, what simple models of properties are fitted on."""

from collections.abc import Sequence

import numpy as np

from rxrx_jax.molecules.chemistry import chem, quiet

BITS, RADIUS = 2048, 2


def morgan(smiles: Sequence[str], bits: int = BITS, radius: int = RADIUS) -> np.ndarray:
    """How often each environment occurs, folded (Rogers and Hahn 2010): float32 [n, bits].

    Raises ValueError, naming it, for a SMILES that RDKit cannot read."""
    lib = chem()
    from rdkit.Chem import rdFingerprintGenerator

    generator = rdFingerprintGenerator.GetMorganGenerator(radius=radius, fpSize=bits)
    out = np.zeros((len(smiles), bits), np.float32)
    with quiet():
        for row, text in enumerate(smiles):
            mol = lib.MolFromSmiles(text)
            if mol is None:
                raise ValueError(f"not a SMILES: {text}")
            out[row] = generator.GetCountFingerprintAsNumPy(mol)
    return out


def tanimoto(some: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Similarities of fingerprints [n, d] and [m, d] by the environments that occur at all: float32 [n, m], the share
    of those of either that both have; 0 where neither has any."""
    a, b = ((x > 0).astype(np.float32) for x in (some, others))
    both = a @ b.T
    either = a.sum(1)[:, None] + b.sum(1) - both
    return np.divide(both, either, out=np.zeros_like(both), where=either > 0)
