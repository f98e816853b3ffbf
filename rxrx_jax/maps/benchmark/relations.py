"""Files of known relationships: pairs of entities, clusters of genes, compounds and the genes they act on.

Pairs are unordered, unique and never of an entity with itself; a cluster gives every pair within it.
"""

import dataclasses
import pathlib
import re

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rxrx_jax.base import files
from rxrx_jax.base.errors import UserError, shortened
from rxrx_jax.maps import foreign

HEADER = ("entity1", "entity2")
REMEDY = "copy it again"
# Of the files that EFAAR publishes, as the LICENSE beside them says.
LICENCES = {
    "CORUM": "CC BY-NC 4.0",
    "HuMAP": "CC BY 4.0",
    "Reactome": "CC0 1.0",
    "SIGNOR": "CC BY-NC 4.0",
    "StringDB": "CC BY 4.0",
}
SOURCES = tuple(LICENCES)


@dataclasses.dataclass(frozen=True)
class Relations:
    """name, of the file without its suffix; entities [e], text, sorted; first and second [m], numbers of entities with
    first < second; given: the pairs as the file has them, [rows, 2] numbers, itself with itself too."""

    name: str
    entities: np.ndarray
    first: np.ndarray
    second: np.ndarray
    given: np.ndarray

    @property
    def licence(self) -> str:
        """Of a published file; "unknown" of others."""
        return LICENCES.get(self.name, "unknown")

    def among(self, names: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(i, j) [m], the places of the pairs of which both are in `names` [n], which are distinct."""
        place = self._places(names)
        i, j = place[self.first], place[self.second]
        kept = (i >= 0) & (j >= 0)
        return i[kept], j[kept]

    def given_among(self, names: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The same of the pairs as the file has them: in its order, twice where they are there twice."""
        places = self._places(names)[self.given]
        kept = (places >= 0).all(1)
        return places[kept, 0], places[kept, 1]

    def unknown(self, names: np.ndarray) -> tuple[int, int]:
        """(entities that are not in `names`, those of them that are there but for case, hyphens and spaces around)."""
        missing = self.entities[self._places(names) < 0]
        folded = {_folded(name) for name in names.tolist()}
        return len(missing), sum(_folded(name) in folded for name in missing.tolist())

    def _places(self, names: np.ndarray) -> np.ndarray:
        number = {name: i for i, name in enumerate(names.tolist())}
        return np.array([number.get(name, -1) for name in self.entities.tolist()], np.int64)


def _folded(name: str) -> str:
    return name.strip().replace("-", "").lower()


def make(name: str, pairs: np.ndarray) -> Relations:
    """Relations of pairs [m, 2] of names, in any order, with repeats or of one with itself."""
    entities, number = np.unique(np.asarray(pairs).astype(str), return_inverse=True)
    return _made(name, entities, number.reshape(-1, 2))


def _made(name: str, names: np.ndarray, number: np.ndarray) -> Relations:
    """Args: names [e], text, distinct; number [rows, 2], the pairs as a file has them."""
    entities, place = np.unique(names, return_inverse=True)
    given = place[number]
    ordered = np.sort(given, axis=1)
    code = np.sort(ordered[:, 0] * max(len(entities), 1) + ordered[:, 1])
    code = code[np.diff(code, prepend=-1) != 0]  # five times as fast as np.unique
    first, second = np.divmod(code, max(len(entities), 1))
    apart = first != second
    return Relations(name, entities.astype(object), first[apart], second[apart], given)


def read_pairs(path: pathlib.Path) -> Relations:
    """Reads a file of the published layout: a line "entity1,entity2", then two names a line. Raises UserError for
    another file."""
    table = foreign.read_text(path)
    if not set(HEADER) <= set(table.column_names):
        begins = shortened(",".join(table.column_names))
        raise UserError(f"{path} begins with {begins!r} where {','.join(HEADER)!r} should be: it needs a header")
    columns = [pc.utf8_trim_whitespace(table.column(name).combine_chunks()) for name in HEADER]
    for column in columns:
        if len(empty := np.flatnonzero(pc.binary_length(column).to_numpy() == 0)):
            raise UserError(f"{path}: line {int(empty[0]) + 2} names only one entity")
    coded = pa.concat_arrays(columns).dictionary_encode()
    number = coded.indices.to_numpy().reshape(2, -1).T
    return _made(path.name.partition(".")[0], np.array(coded.dictionary.to_pylist(), str), number)


def read_folder(folder: pathlib.Path) -> list[Relations]:
    """The relation files of a folder, by name: those published (SOURCES) and every other .txt with their header.
    Raises UserError where there is none."""
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder of relation files such as {SOURCES[0]}.txt")
    paths = sorted(path for path in folder.iterdir() if path.name.endswith((".txt", ".txt.gz")))
    if not paths:
        raise UserError(f"{folder} holds no relation file: {', '.join(f'{name}.txt' for name in SOURCES)} or another")
    return [read_pairs(path) for path in paths]


def read_clusters(path: pathlib.Path) -> dict[str, list[str]]:
    """Cluster -> its genes, in order and without repeats: lines "name TAB genes with spaces between" as CORUM's, or, of
    a .gmt file, "name TAB description TAB gene TAB gene ...". Raises UserError for other lines and for a name twice."""
    files.check_pointer(path)
    with files.reading(path, REMEDY) as file:
        lines = file.read().decode(errors="replace").splitlines()
    found: dict[str, list[str]] = {}
    for number, line in enumerate(lines, 1):
        cells = line.rstrip("\r").split("\t")
        genes = cells[2:] if path.suffix == ".gmt" else re.split(r"\s+", cells[1].strip()) if len(cells) == 2 else []
        genes = list(dict.fromkeys(gene.strip() for gene in genes if gene.strip()))
        if not line.strip():
            continue
        if not genes:
            raise UserError(f"{path}: line {number} is not a name, a tab and genes")
        if cells[0] in found:
            raise UserError(f"{path}: line {number} has the name {shortened(cells[0])}, as a line before")
        found[cells[0]] = genes
    if not found:
        raise UserError(f"{path} has no clusters")
    return found


def of_clusters(name: str, clusters: dict[str, list[str]]) -> Relations:
    """Every pair within a cluster."""
    pairs = [(a, b) for genes in clusters.values() for k, a in enumerate(genes) for b in genes[k + 1 :]]
    return make(name, np.array(pairs, str).reshape(-1, 2))
