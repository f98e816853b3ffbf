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


def tanimoto(one: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Similarity of counts [d] to others [n, d], 0 to 1: sum of minima over sum of maxima; 0 where both are empty."""
    least, most = np.minimum(one, others).sum(1), np.maximum(one, others).sum(1)
    return np.divide(least, most, out=np.zeros(len(others)), where=most > 0)
