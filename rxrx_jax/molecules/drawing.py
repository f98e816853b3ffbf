"""Pictures of molecules."""

from rxrx_jax.base.errors import UserError, shortened
from rxrx_jax.molecules.chemistry import chem, quiet

WIDTH, HEIGHT = 220, 150  # pixels


def svg(smiles: str) -> bytes:
    """The structure as a picture without background, the same bytes for the same SMILES. Raises UserError for an
    invalid one."""
    with quiet():
        mol = chem().MolFromSmiles(smiles)
    if mol is None:
        raise UserError(f"{shortened(smiles)!r} is not a valid SMILES, and cannot be drawn")
    from rdkit.Chem.Draw import rdMolDraw2D

    made = rdMolDraw2D.MolDraw2DSVG(WIDTH, HEIGHT)
    made.drawOptions().clearBackground = False
    rdMolDraw2D.PrepareAndDrawMolecule(made, mol)
    made.FinishDrawing()
    return made.GetDrawingText().encode()
