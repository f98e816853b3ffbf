"""What RDKit knows of pieces, as tables, and the molecule of a finished tree of them (`fragments.py`)."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from rxrx_jax.base.errors import UserError, shortened
from rxrx_jax.molecules.chemistry import chem, quiet


class Tables(NamedTuple):
    """Of F pieces with up to S slots; row F is of a slot that is open, row F + 1 (or -1) of nothing."""

    exists: np.ndarray  # bool [F + 2, S]: which slots there are
    turns: np.ndarray  # int32 [F + 2, G, S]: the ways to turn a piece onto itself: the slot that comes to each
    weights: np.ndarray  # uint32 [F + 2, G, S]: of each slot, a random odd number of where it comes to
    piece: np.ndarray  # int32 [A]: of every action that puts a piece
    slot: np.ndarray  # int32 [A]: by which of its slots
    kind: np.ndarray  # int32 [A]: the first action that does the same


def _turns(mol: Any, slots: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Permutations of slots by which the piece stays the same molecule, the identity first."""
    what = [(a.GetAtomicNum(), a.GetFormalCharge(), a.GetTotalNumHs(), a.GetIsotope()) for a in mol.GetAtoms()]
    found = set()
    for match in mol.GetSubstructMatches(mol, uniquify=False, maxMatches=10**6):
        if all(what[i] == what[j] for i, j in enumerate(match)) and {match[a] for a in slots} == set(slots):
            found.add(tuple(slots.index(match[a]) for a in slots))
    return sorted(found)


@functools.cache
def tables(pieces: tuple[tuple[str, tuple[int, ...]], ...]) -> Tables:
    """The tables of pieces, (SMILES, atoms that are slots) each.

    Raises UserError, which names the piece: no piece, an invalid SMILES, no slot, an atom that is not there or twice,
    a slot that cannot take a bond.
    """
    if not pieces:
        raise UserError("no piece to build molecules of")
    most = max(len(slots) for _, slots in pieces)
    exists, turns, numbers = np.zeros((len(pieces) + 2, most), bool), [], []
    for f, (text, slots) in enumerate(pieces):
        with quiet():
            mol = chem().MolFromSmiles(text)
        if mol is None or not mol.GetNumAtoms():
            raise UserError(f"the piece {text!r} is not a valid SMILES")
        if not slots or len(set(slots)) < len(slots) or not set(slots) <= set(range(mol.GetNumAtoms())):
            raise UserError(f"the piece {text} has the slots {slots}: name atoms of it, each once, at least one")
        methyls = [chem().MolFromSmiles("C")] * len(slots)
        if (why := _join([mol, *methyls], [((0, atom), (1 + i, 0)) for i, atom in enumerate(slots)])[1]) is not None:
            raise UserError(f"the piece {text} cannot take a bond at each of its slots {slots}: {why}")
        exists[f, : len(slots)] = True
        turns.append(_turns(mol, tuple(slots)))
        for slot in range(len(slots)):
            first = min(turn[slot] for turn in turns[-1])
            numbers.append((f, slot, len(numbers) - slot + first))
    exists[len(pieces), 0] = True
    padded = np.tile(np.arange(most, dtype=np.int32), (len(pieces) + 2, max(map(len, turns)), 1))
    for f, permutations in enumerate(turns):
        padded[f, : len(permutations), : len(pieces[f][1])] = permutations
        padded[f, len(permutations) :] = padded[f, 0]
    weights = np.zeros(padded.shape, np.uint32)
    places = np.random.default_rng(0).integers(2**31, size=most).astype(np.uint32) * 2 + 1
    np.put_along_axis(weights, padded, np.broadcast_to(places, padded.shape), -1)
    return Tables(exists, padded, weights, *np.array(numbers, np.int32).T)


def _join(molecules: Sequence[Any], bonds: Sequence[tuple[tuple[int, int], tuple[int, int]]]) -> tuple[str, str | None]:
    """(canonical SMILES, None), or ("", why RDKit cannot make it), of molecules joined by single bonds.

    Args: bonds, ((molecule, atom), (molecule, atom)) each.
    """
    lib = chem()
    offsets = np.cumsum([0, *(mol.GetNumAtoms() for mol in molecules)])
    joined = lib.RWMol(functools.reduce(lib.CombineMols, molecules))
    for ends in bonds:
        atoms = [int(offsets[molecule]) + atom for molecule, atom in ends]
        joined.AddBond(*atoms, lib.BondType.SINGLE)
        for atom in map(joined.GetAtomWithIdx, atoms):  # a hydrogen that is written gives way to the bond
            atom.SetNumExplicitHs(max(0, atom.GetNumExplicitHs() - 1))
    with quiet():
        try:
            lib.SanitizeMol(joined)
            text = lib.MolToSmiles(joined)
            again = lib.MolFromSmiles(text)
        except (ValueError, RuntimeError) as error:  # RDKit's own kinds are of these
            return "", shortened(str(error))
    return (text, None) if again is not None else ("", f"RDKit cannot read {text}")


@functools.cache
def _molecules(pieces: tuple[tuple[str, tuple[int, ...]], ...]) -> tuple[Any, ...]:
    return tuple(chem().MolFromSmiles(text) for text, _ in pieces)


def moves(pieces: tuple[tuple[str, tuple[int, ...]], ...], piece: np.ndarray, link: np.ndarray) -> str:
    """The moves that build a tree, in its canonical order: "c1ccccc1, then CO by atom 1 at atom 0 of piece 1, ..."."""
    slots, said = link.shape[1], []
    known = [*pieces, ("an open slot", (0,))]
    for i, number in enumerate(piece[piece >= 0]):
        text, atoms = known[number]
        before = [(k, *divmod(int(to), slots)) for k, to in enumerate(link[i]) if 0 <= to < i * slots]
        for own, place, slot in before:
            said.append(f"{text} by atom {atoms[own]} at atom {known[piece[place]][1][slot]} of piece {place + 1}")
        if not before:
            said.append(text)
    return ", then ".join(said)


def smiles(pieces: tuple[tuple[str, tuple[int, ...]], ...], piece: np.ndarray, link: np.ndarray) -> str:
    """The canonical SMILES of a finished tree.

    Args:
      pieces: as of `Fragments`.
      piece, link: int [N] and [N, S], as of its `terminal`.

    Raises UserError, which lists the moves, for an empty or unfinished tree and for one that RDKit cannot sanitise.
    """
    piece, link = np.asarray(piece), np.asarray(link)
    count, slots = int((piece >= 0).sum()), link.shape[1]
    if not count or (piece >= len(pieces)).any():
        raise UserError(f"an unfinished molecule: {moves(pieces, piece, link) or 'no piece'}")
    bonds = []
    for i in range(count):
        for k in range(slots):
            if 0 <= link[i, k] < i * slots:
                place, slot = divmod(int(link[i, k]), slots)
                bonds.append(((i, pieces[piece[i]][1][k]), (place, pieces[piece[place]][1][slot])))
    known = _molecules(pieces)
    text, why = _join([known[number] for number in piece[:count]], bonds)
    if why is not None:
        raise UserError(f"RDKit cannot sanitise the molecule of {moves(pieces, piece, link)}: {why}")
    return text


def all_smiles(pieces: tuple[tuple[str, tuple[int, ...]], ...], terminals: tuple[np.ndarray, np.ndarray]) -> list[str]:
    """`smiles` of n trees, (piece [n, N], link [n, N, S])."""
    return [smiles(pieces, piece, link) for piece, link in zip(*map(np.asarray, terminals))]
