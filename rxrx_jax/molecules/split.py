"""Splits by scaffold, and what two splits may not share."""

import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from rxrx_jax.base.errors import UserError
from rxrx_jax.molecules.chemistry import chem

SPLITS = TRAIN, VALIDATION, TEST = ("train", "validation", "test")
FRACTIONS = (0.8, 0.1, 0.1)
TRAIN_VALIDATION = (0.875, 0.125, 0.0)  # of what is not a test set that was given


def scaffold(mol: Any) -> str:
    """The Murcko scaffold of RDKit's molecule as a SMILES without chirality; "" where it has no ring."""
    chem()
    from rdkit.Chem.Scaffolds import MurckoScaffold

    return MurckoScaffold.MurckoScaffoldSmiles(mol=mol, includeChirality=False)


def scaffold_split(
    scaffolds: Sequence[str], seed: int, fractions: tuple[float, float, float] = FRACTIONS
) -> dict[str, np.ndarray]:
    """Splits molecules so that none of a scaffold is in two splits: the split of TDC (Huang et al. 2021, "Therapeutics
    Data Commons"), seed for seed, for the same molecules in the same order.

    The molecules of each scaffold, in the order in which scaffolds first occur, are a group. Groups of more than half
    of the validation or of the test set come first; both kinds are shuffled by one `random.Random(seed)`. Each group
    goes to train if it still fits there, else to validation, else to test.

    Args:
      scaffolds: of every molecule.
      seed: of the shuffles.
      fractions: of train, validation and test; a last one of 0 leaves no test set, and what fits nowhere is validation.

    Returns:
      {"train": int64 [n], "validation": ..., "test": ...}: sorted places in `scaffolds`; TDC gives the same sets in
      another order.
    """
    train, validation = (int(len(scaffolds) * fraction) for fraction in fractions[:2])
    test = len(scaffolds) - train - validation
    groups: dict[str, list[int]] = {}
    for place, name in enumerate(scaffolds):
        groups.setdefault(name, []).append(place)
    big, small = [], []
    for group in groups.values():
        (big if len(group) > validation / 2 or len(group) > test / 2 else small).append(group)
    rng = random.Random(seed)
    rng.shuffle(big)
    rng.shuffle(small)
    found: dict[str, list[int]] = {name: [] for name in SPLITS}
    for group in big + small:
        if len(found[TRAIN]) + len(group) <= train:
            found[TRAIN] += group
        elif fractions[2] == 0 or len(found[VALIDATION]) + len(group) <= validation:
            found[VALIDATION] += group
        else:
            found[TEST] += group
    return {name: np.array(sorted(places), np.int64) for name, places in found.items()}


def shared(inchikeys: Mapping[str, Iterable[str]]) -> dict[tuple[str, str], list[str]]:
    """InChIKeys that two splits share: (split, split) -> sorted keys, where there are any. Args: keys by split."""
    sets = {name: set(keys) - {""} for name, keys in inchikeys.items()}
    names = list(sets)
    pairs = {(a, b): sorted(sets[a] & sets[b]) for i, a in enumerate(names) for b in names[i + 1 :]}
    return {pair: keys for pair, keys in pairs.items() if keys}


def check_disjoint(inchikeys: Mapping[str, Iterable[str]]) -> None:
    """Raises UserError, which names a molecule, where two splits share an InChIKey. Args: keys by split."""
    for (one, other), keys in shared(inchikeys).items():
        raise UserError(
            f"{len(keys):,} molecules are in {one} and in {other}, the first has the InChIKey {keys[0]}: a split must "
            "not share molecules; remove them from one"
        )
