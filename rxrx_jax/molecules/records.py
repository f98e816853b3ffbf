"""A molecule as a record, and the records of a folder that `tfds_builders.prepare molecules` made.

A record is a tf.train.Example with one feature, "molecule", of one string of bytes, so that TFDS opens the folder. The
string stands at the record's end and says at its own end how long its parts are, so that to read it nothing is parsed:
the arrays are views of the record's bytes.
"""

import functools
import pathlib
import struct
import types
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from rxrx_jax.base import files
from rxrx_jax.base.errors import UserError, reason
from rxrx_jax.base.files import mirror, shards, stores
from rxrx_jax.molecules import environments, standardise
from rxrx_jax.molecules.split import SPLITS
from rxrx_jax.molecules.vocabulary import Vocabulary, load

FEATURE = "molecule"
# What a record's last bytes are: atoms, targets and those of them that are known, bytes of SMILES and InChIKey, row.
END = struct.Struct("<HHHHHi")
INT32, FLOAT32, UINT16, UINT8 = map(np.dtype, ("<i4", "<f4", "<u2", "u1"))
IN_MEMORY = 2**28  # bytes of a split that are read at once and kept
AGAIN = "copy the folder again, or rebuild the dataset"
TABLE, VOCABULARY = "molecules.csv", "vocabulary.json"
READ = ("dataset_info.json", "metadata.json", TABLE, VOCABULARY)


class Molecule(NamedTuple):
    """A molecule of n atoms, in the order of its SMILES, with t targets."""

    smiles: str  # canonical
    inchikey: str  # "" where InChI has none
    row: int  # of the table that it was read from, from 0; -1 where there is none
    tokens: np.ndarray  # uint16 [n]: of the vocabulary
    labels: np.ndarray  # int32 [n]: of the vocabulary, 0 where it has none
    distances: np.ndarray  # uint8 [n, n]: indices of relative positions (environments.py), without CLS
    targets: np.ndarray  # float32 [t], NaN where missing


def featurise(smiles: str, vocabulary: Vocabulary, salts: str = "largest", row: int = -1) -> Molecule:
    """A molecule without targets from its SMILES. Raises BadMolecule as `standardise.standardise` does."""
    found = standardise.standardise(smiles, salts)
    atoms, labels, distances = environments.environments(found.mol)
    tokens, labels = vocabulary.encode_tokens(atoms), vocabulary.encode_labels(labels)
    return Molecule(found.smiles, found.inchikey, row, tokens, labels, distances, np.zeros(0, np.float32))


def encode(molecule: Molecule) -> bytes:
    """The record of a molecule of at most 65,535 atoms and as many targets."""
    smiles, inchikey = molecule.smiles.encode(), molecule.inchikey.encode()
    known = np.flatnonzero(~np.isnan(molecule.targets))
    parts = (
        molecule.labels.astype("<i4").tobytes(),
        molecule.targets[known].astype("<f4").tobytes(),
        molecule.tokens.astype("<u2").tobytes(),
        known.astype("<u2").tobytes(),
        molecule.distances.astype(np.uint8).tobytes(),
        smiles,
        inchikey,
        END.pack(len(molecule.tokens), len(molecule.targets), len(known), len(smiles), len(inchikey), molecule.row),
    )
    return _example(b"".join(parts))


def _example(value: bytes) -> bytes:
    """Example {Features {map {key: FEATURE, value: Feature {BytesList {value}}}}}, as protobuf writes it: fields 1 and,
    for a map's value, 2, each with its length."""
    inner = _field(1, _field(1, value))  # Feature.bytes_list of BytesList.value
    return _field(1, _field(1, _field(1, FEATURE.encode()) + _field(2, inner)))


def _field(number: int, content: bytes) -> bytes:
    length, size = bytearray(), len(content)
    while size > 127:
        length.append(size & 127 | 128)
        size >>= 7
    return bytes((number << 3 | 2, *length, size)) + content


def decode(record: bytes) -> Molecule:
    """The molecule of a record, or of the string of bytes that TFDS gives of it; arrays are views, not to be written.

    Raises ValueError where the bytes are not such a record.
    """
    try:
        n, t, known, smiles, inchikey, row = END.unpack_from(record, len(record) - END.size)
        at = len(record) - END.size - inchikey - smiles - n * n - 2 * known - 2 * n - 4 * known - 4 * n
        if at < 0:
            raise ValueError("a record that is cut short")
        labels = np.frombuffer(record, INT32, n, at)
        targets = np.frombuffer(record, FLOAT32, known, at := at + 4 * n)
        tokens = np.frombuffer(record, UINT16, n, at := at + 4 * known)
        at += 2 * n
        if known < t:
            values, targets = targets, np.full(t, np.nan, FLOAT32)
            targets[np.frombuffer(record, UINT16, known, at)] = values
        distances = np.frombuffer(record, UINT8, n * n, at := at + 2 * known).reshape(n, n)
        at += n * n
        text = record[at : at + smiles + inchikey].decode("ascii")
    except (struct.error, UnicodeDecodeError, IndexError) as error:
        raise ValueError(f"not a record of a molecule ({error})") from error
    return Molecule(text[:smiles], text[smiles:], row, tokens, labels, distances, targets)


class Split:
    """The molecules of a split: `split[i]`, or many at once with `split.read(places)`, which is faster.

    A split of at most IN_MEMORY bytes is read as a whole when it is first read from. Args: where, what fetches the
    records of a folder in an object store. Raises ValueError, as `decode`, for a record that is damaged.
    """

    def __init__(self, paths: Sequence[pathlib.Path], lengths: Sequence[int], where: mirror.Mirror | None = None):
        self.paths, self.starts, self._where = list(paths), np.cumsum([0, *lengths]), where
        if where is not None:
            named = [types.SimpleNamespace(filename=p, examples_in_shard=n) for p, n in zip(paths, lengths)]
            self._fetched = shards.Shards(where, named)

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, place: int) -> Molecule:
        return self.read([place])[0]

    def read(self, places: Sequence[int] | np.ndarray) -> list[Molecule]:
        """The molecules at these places, in their order. Raises IndexError for a place that is not in the split."""
        places = np.asarray(places, np.int64)
        if len(places) and not (0 <= places.min() and places.max() < len(self)):
            raise IndexError(f"a place that is not in 0..{len(self) - 1}")
        if self._records is not None:
            return [decode(self._records[place]) for place in places.tolist()]
        if self._where is not None:
            return [decode(record) for record in stores.parallel(self._fetched.__getitem__, places.tolist())]
        which = np.searchsorted(self.starts, places, "right") - 1
        found: dict[int, bytes] = {}
        for shard in np.unique(which).tolist():
            mine = np.flatnonzero(which == shard)
            within = (places[mine] - self.starts[shard]).tolist()
            found |= dict(zip(mine.tolist(), self._reader(shard).read(within)))
        return [decode(found[i]) for i in range(len(places))]

    @functools.cached_property
    def _records(self) -> list[bytes] | None:
        if sum(path.stat().st_size for path in self.paths) > IN_MEMORY:
            return None
        if self._where is not None:
            if not self._where.fetch_whole([path.name for path in self.paths]):
                return None
            return [self._fetched[place] for place in range(len(self))]
        return [record for shard in range(len(self.paths)) for record in self._reader(shard).read_all()]

    @functools.cache  # noqa: B019, of a split that lives as long as the process
    def _reader(self, shard: int) -> Any:
        from array_record.python.array_record_module import ArrayRecordReader

        # It reads by itself: threads of its own cost more than they give for records of a kilobyte.
        return ArrayRecordReader(str(self.paths[shard]), "max_parallelism:0")


class Molecules(NamedTuple):
    """A prepared folder.

    splits: by name; train, validation and test are always there, and may be empty.
    table: columns split, row, atoms, inchikey, scaffold and smiles of every record, in the order train, validation,
      test and, in a split, of its records: [records] each; atoms and row are int32, the others text.
    targets: their names, in the order of a record's.
    kinds: "regression" or "classification", of each.
    about: metadata.json.
    folder: of one in an object store, whose `address` is "" otherwise, the local one with its tables.
    """

    folder: pathlib.Path
    splits: dict[str, Split]
    table: dict[str, np.ndarray]
    targets: tuple[str, ...]
    kinds: tuple[str, ...]
    vocabulary: Vocabulary
    about: dict[str, Any]
    address: str = ""

    def read(self, rows: Sequence[int] | np.ndarray) -> list[Molecule]:
        """The molecules of rows of `table`, in their order. Raises IndexError for a row that is not there."""
        starts = np.cumsum([0, *(len(split) for split in self.splits.values())])
        rows = np.asarray(rows, np.int64)
        which = np.searchsorted(starts, rows, "right") - 1
        if len(rows) and not (0 <= rows.min() and rows.max() < starts[-1]):
            raise IndexError(f"a row that is not in 0..{starts[-1] - 1}")
        found: list[Any] = [None] * len(rows)
        for i, split in enumerate(self.splits.values()):
            mine = np.flatnonzero(which == i)
            for at, molecule in zip(mine.tolist(), split.read(rows[mine] - starts[i])):
                found[at] = molecule
        return found


def open_folder(folder: pathlib.Path | str, cache: str = "") -> Molecules:
    """Opens a folder of molecules, without RDKit and TFDS.

    Args: folder, on a disk or in an object store; cache, "DIR,SIZE" for what is read of one in a store
    (`mirror.DEFAULT`). Raises UserError if it is not what was prepared.
    """
    address = str(folder).rstrip("/") if files.is_remote(folder) else ""
    where = mirror.Mirror(address, cache) if address else None
    folder = where.folder if where else pathlib.Path(folder)
    if not (folder / VOCABULARY).exists():
        raise UserError(
            f"no molecules in {address or folder}; make them with `python -m tfds_builders.prepare molecules`"
        )
    about = files.read_json(folder / "metadata.json", AGAIN)
    for what in files.changed(folder, READ, AGAIN, True)[:1]:
        raise UserError(f"{address or folder}: {what}; {AGAIN}")
    info = files.read_json(folder / "dataset_info.json", AGAIN)
    splits = dict.fromkeys(SPLITS, Split((), ()))
    for one in info["splits"]:
        lengths = [int(length) for length in one["shardLengths"]]
        paths = [folder / shard_name(info["name"], one["name"], i, len(lengths)) for i in range(len(lengths))]
        if where:
            where.place([path.name for path in paths])
        if missing := [path for path in paths if not path.is_file()]:
            raise UserError(f"{missing[0]} is missing; {AGAIN}")
        splits[one["name"]] = Split(paths, lengths, where)
    targets, kinds = (tuple(about[key]) for key in ("targets", "kinds"))
    table, words = _read_table(folder / TABLE), load(folder / VOCABULARY)
    return Molecules(folder, splits, table, targets, kinds, words, about, address)


def shard_name(dataset: str, split: str, shard: int, shards: int) -> str:
    """The name of a file of records, as TFDS forms it."""
    return f"{dataset}-{split}.array_record-{shard:05d}-of-{shards:05d}"


def _read_table(path: pathlib.Path) -> dict[str, np.ndarray]:
    import pyarrow as pa
    from pyarrow import csv

    kinds = dict.fromkeys(("split", "inchikey", "scaffold", "smiles"), pa.string())
    kinds |= {"row": pa.int32(), "atoms": pa.int32()}
    try:
        found = csv.read_csv(path, convert_options=csv.ConvertOptions(column_types=kinds, strings_can_be_null=False))
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path} cannot be read ({reason(error)}); {AGAIN}") from error
    return {name: found[name].to_numpy() for name in kinds}
