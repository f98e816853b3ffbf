"""What RDKit finds of some rows, written to a file: the part of a build that takes time, and runs in processes."""

import json
import pathlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from rxrx_jax.molecules import split, standardise
from rxrx_jax.molecules.environments import environments

ROWS = 512  # of a chunk


class Facts(NamedTuple):
    """What a chunk's molecules are, m of its rows, without their arrays, and why its other rows are set aside."""

    rows: list[int]
    atoms: list[int]
    smiles: list[str]
    flat: list[str]  # without stereochemistry
    inchikeys: list[str]
    scaffolds: list[str]
    suffixes: list[bool]  # whether something followed the SMILES
    fragments: list[int]
    metals: list[str]  # symbols, parted by spaces
    set_aside: list[tuple[int, str]]


class Arrays(NamedTuple):
    """The arrays of a chunk's molecules, one after another."""

    atoms: np.ndarray  # int32 [m]
    tokens: np.ndarray  # uint32 [sum of atoms]
    labels: np.ndarray  # uint32 [sum of atoms]
    distances: np.ndarray  # uint8 [sum of squared atoms]

    def molecules(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """(tokens [n], labels [n], distances [n, n]) of each: views."""
        at = square = 0
        for n in self.atoms.tolist():
            distances = self.distances[square : square + n * n].reshape(n, n)
            yield self.tokens[at : at + n], self.labels[at : at + n], distances
            at, square = at + n, square + n * n


def work(path: pathlib.Path, rows: list[tuple[int, str]], salts: str) -> Facts:
    """Featurises rows, unless the file is there from a build that was stopped; (row, SMILES) each."""
    if path.exists():
        with np.load(path) as found:
            return Facts(*json.loads(found["facts"].tobytes()))
    facts = Facts(*([] for _ in Facts._fields))
    made = []
    for row, text in rows:
        try:
            found = standardise.standardise(text, salts)
        except standardise.BadMolecule as error:
            facts.set_aside.append((row, str(error)))
            continue
        made.append(environments(found.mol))
        values = (row, len(made[-1].atoms), found.smiles, standardise.without_stereo(found.mol, found.smiles))
        values += (found.inchikey, split.scaffold(found.mol), bool(found.suffix), found.fragments)
        for column, value in zip(facts, (*values, " ".join(found.metals))):
            column.append(value)
    arrays = Arrays(
        np.array(facts.atoms, np.int32),
        np.concatenate([np.zeros(0, np.uint32), *(one.atoms for one in made)]),
        np.concatenate([np.zeros(0, np.uint32), *(one.labels for one in made)]),
        np.concatenate([np.zeros(0, np.uint8), *(one.distances.ravel() for one in made)]),
    )
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        np.savez(file, facts=np.frombuffer(json.dumps(facts).encode(), np.uint8), **arrays._asdict())
    partial.replace(path)
    return facts


def read(path: pathlib.Path) -> Arrays:
    """The arrays that `work` wrote."""
    with np.load(path) as found:
        return Arrays(*(found[name] for name in Arrays._fields))
