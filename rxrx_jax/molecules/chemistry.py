"""RDKit, imported once and when it is needed."""

import functools
from typing import Any

from rxrx_jax.base.errors import missing_extra

# What molecules are read with: worker processes are forked after these imports.
USED = ("rdkit.Chem", "rdkit.Chem.rdFingerprintGenerator", "rdkit.Chem.Scaffolds.MurckoScaffold")


@functools.cache
def chem() -> Any:
    """The module rdkit.Chem. Raises UserError, which names the extra, where RDKit is not installed."""
    try:
        from rdkit import Chem
    except ImportError as error:
        raise missing_extra("rdkit", "molecules") from error
    return Chem


@functools.cache
def version() -> str:
    """RDKit's version."""
    chem()
    from rdkit import rdBase

    return rdBase.rdkitVersion


def quiet() -> Any:
    """A context in which RDKit writes nothing on stderr: what it says of a molecule is the reason that we give."""
    chem()
    from rdkit import rdBase

    return rdBase.BlockLogs()
