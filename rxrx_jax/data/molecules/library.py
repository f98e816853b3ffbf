"""Molecules as the trainer knows them: a table, a vocabulary, records, and what is trained on and scored."""

import dataclasses
import functools
import hashlib
import json
import pathlib
from collections.abc import Callable

import numpy as np
from etils import epath

from rxrx_jax.base import files
from rxrx_jax.base.errors import UserError
from rxrx_jax.base.files import mirror, stores
from rxrx_jax.base.spellings import TREATMENT
from rxrx_jax.data.builders import builders
from rxrx_jax.data.roles import Roles
from rxrx_jax.data.sites import Sites
from rxrx_jax.molecules.split import SPLITS  # the first is trained on, the others are scored by their names

SIMULATED = "molecules"  # `data.name` of the simulated library


@dataclasses.dataclass(frozen=True)
class Library:
    """Molecules by row.

    read(rows [n]) -> n records with tokens [a], labels [a] (0 where the environment is not known), distances uint8
    [a, a] and targets float32 [t] (NaN where missing). split, inchikey [rows] str; atoms int [rows]. targets: their
    names; kinds: of each, "classification" or "regression". vocabulary: a digest of what tokens and labels mean;
    digest: of all that must be equal on all hosts. folder, smiles [rows] str: None for arrays. address: of a folder in
    an object store, for which the local one with its tables stands.

    tokens: kinds of tokens, of which 0 is padding and `mask`, the unknown atom and `cls` the three last; labels: kinds
    of labels, 0 among them."""

    read: Callable
    split: np.ndarray
    inchikey: np.ndarray
    atoms: np.ndarray
    tokens: int
    labels: int
    targets: tuple[str, ...]
    kinds: tuple[str, ...]
    vocabulary: str
    digest: str
    folder: pathlib.Path | None = None
    smiles: np.ndarray | None = None
    address: str = ""
    manifest = None  # what says the digests of all records is in `digest`

    def __post_init__(self):
        where = {}
        for key, split in zip(self.inchikey.tolist(), self.split.tolist()):
            if split not in SPLITS:
                raise UserError(f"the split {split!r} of a molecule: expected {', '.join(SPLITS)}")
            if key and where.setdefault(key, split) != split:
                raise UserError(f"the molecule {key} is in {where[key]} and in {split}: split the molecules again")

    @property
    def where(self) -> str:
        """Its folder, or address, for messages."""
        return self.address or str(self.folder)

    @property
    def mask(self) -> int:
        return self.tokens - 3

    @property
    def cls(self) -> int:
        return self.tokens - 1

    @functools.cached_property
    def roles(self) -> Roles:
        fit, *scored = (np.flatnonzero(self.split == name) for name in SPLITS)
        return Roles(fit, dict(zip(SPLITS[1:], scored)))

    @functools.cached_property
    def sites(self) -> Sites:
        """The table as provenance knows it: a molecule's id is its InChIKey and its experiment its split; its label is
        0 where the library has targets."""
        n, codes = len(self.split), {name: i for i, name in enumerate(SPLITS)}
        zeros = np.zeros(n, np.int32)
        split = np.array([codes[name] for name in self.split.tolist()], np.int32)
        return Sites(
            split=self.split,
            index=np.arange(n),
            site_id=self.inchikey,
            well_id=self.inchikey,
            site=zeros,
            well_type=np.full(n, TREATMENT),
            label=zeros - (not self.targets),
            experiment=split,
            plate=split,
            cell_type=zeros,
        )

    @functools.cached_property
    def digests(self) -> np.ndarray:
        """64 bits of the SHA-256 of each InChIKey, by which later stages know the molecules: uint64 [rows]."""
        of = lambda key: hashlib.sha256(key.encode()).digest()[:8]  # noqa: E731
        return np.frombuffer(b"".join(map(of, self.inchikey.tolist())), "<u8").astype(np.uint64)

    def targets_of(self, rows: np.ndarray) -> np.ndarray:
        """float32 [n, t], NaN where missing."""
        none = np.zeros((0, len(self.targets)), np.float32)
        return np.concatenate([none, *(record.targets[None] for record in self.read(rows))])


def open_library(name: str, settings: dict, folder: str | None, cache: str | None = None) -> Library:
    """Molecules that `prepare molecules` made, by the name, the path or the address of their folder; the simulated
    library, "molecules", is built on first use with these settings.

    Args: folder, where prepared datasets lie, on a disk or in an object store; cache, "DIR,SIZE" for what is read of
    one in a store. Raises UserError where there are none of that name, or several."""
    if name == SIMULATED:
        return read_library(builders().prepare(SIMULATED, out=folder, **settings), cache)
    if files.is_remote(name) or pathlib.Path(name).is_dir():
        return read_library(name, cache)
    simulated = builders().find(SIMULATED, out=folder)
    there, found = simulated.parents[1], _prepared(simulated)
    found = [path for path in found if f"{path.parent.name}-".startswith(f"{name}-")]
    if not found:
        command = "python -m tfds_builders.prepare molecules --source=FILE.csv"
        raise UserError(f"data.name={name}: no such molecules in {there}; make them with `{command}`")
    if len(found) > 1:
        names = ", ".join(path.parent.name for path in found)
        raise UserError(f"data.name={name}: {there} has {names}; give the path of one")
    return read_library(found[0], cache)


def _prepared(folder: pathlib.Path | epath.Path) -> list[pathlib.Path | epath.Path]:
    """The folders of molecules beside one, and itself, which need not be there, sorted."""
    from rxrx_jax.molecules.records import VOCABULARY

    there, names = folder.parents[1], f"*/{folder.name}"
    if not files.is_remote(folder):
        return sorted(path.parent for path in there.glob(f"{names}/{VOCABULARY}"))
    complete = stores.matching(f"{there}/{names}/{mirror.MARK}")
    return [epath.Path(mark).parent for mark in complete]


def beside(library: Library) -> list[pathlib.Path | epath.Path]:
    """The other folders of molecules that were prepared beside that of a library with its vocabulary, sorted."""
    from rxrx_jax.molecules.records import AGAIN, VOCABULARY

    if library.folder is None:
        return []
    if library.address:
        mine = epath.Path(library.address)
        others = [path for path in _prepared(mine) if path != mine]
        digest = lambda path: json.loads(stores.read(f"{path}/{VOCABULARY}")).get("digest")  # noqa: E731
    else:
        others = [path for path in _prepared(library.folder) if not path.samefile(library.folder)]
        digest = lambda path: files.read_json(path / VOCABULARY, AGAIN).get("digest")  # noqa: E731
    return [path for path in others if digest(path) == library.vocabulary]


def digest_of(folder: pathlib.Path) -> str:
    """Of all files of a prepared folder, as its SHA256SUMS has them."""
    return hashlib.sha256((folder / files.SUMS).read_bytes()).hexdigest()


def read_library(path: pathlib.Path | epath.Path | str, cache: str | None = None) -> Library:
    """Opens a prepared folder of molecules, on a disk or in an object store. Args: cache, as of `open_library`. Raises
    UserError if it is not what was prepared."""
    from rxrx_jax.molecules import records

    found = records.open_folder(path, cache or "")
    split, inchikey, smiles = (found.table[name].astype(str) for name in ("split", "inchikey", "smiles"))
    return Library(
        read=found.read,
        split=split,
        inchikey=np.where(inchikey == "", smiles, inchikey),  # InChI has none of some
        atoms=found.table["atoms"],
        tokens=found.vocabulary.size,
        labels=found.vocabulary.label_size,
        targets=found.targets,
        kinds=found.kinds,
        vocabulary=found.vocabulary.digest,
        digest=digest_of(found.folder),
        folder=found.folder,
        smiles=smiles,
        address=found.address,
    )
