"""The embeddings file: one Parquet table of sites or wells with their embeddings, for probes, maps and pictures.

The columns are those of sites.csv (split, site_id, well_id, cell_type, experiment, plate, well, site, well_type,
perturbation, perturbation_id, and the dataset's own), then `embedding`, a fixed-size list of D float32. A row group
holds whole plates, so that one plate is read without the others. Or a folder of one such file for each plate, with an
index of them (`rxrx_jax.embedding`).
"""

import base64
import contextlib
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from etils import epath

from rxrx_jax.base import files
from rxrx_jax.base.errors import UserError, reason, shortened

AGAIN = "copy it again, or embed again"
NAME = "embeddings.parquet"
INDEX, PLATES = "embeddings.json", "plates"  # of a folder with a file for each plate
EMBEDDING = "embedding"
# Of the file's metadata: the marks of metrics computed on it, and in base64 the table of what its parameters have seen
# (`training.provenance.seen`, without site ids).
MARKS, SEEN = b"rxrx_jax_marks", b"rxrx_jax_seen"
GROUP = 1024  # rows: a row group ends with the plate that reaches it
TYPES = {int: pa.int32(), float: pa.float64(), str: pa.string()}
KINDS = {"i": int, "f": float, "U": str, "O": str}  # of numpy dtypes


def schema(columns: dict[str, type], dim: int) -> pa.Schema:
    """The schema of a file with these columns (name -> int, float or str) and embeddings of `dim` values."""
    fields = [pa.field(name, TYPES[kind], nullable=False) for name, kind in columns.items()]
    value = pa.field("element", pa.float32(), nullable=False)
    return pa.schema([*fields, pa.field(EMBEDDING, pa.list_(value, dim), nullable=False)])


def open_writer(path: pathlib.Path | BinaryIO, form: pa.Schema) -> pq.ParquetWriter:
    """A writer of such a file, given by its path or open; each table given to it becomes one row group."""
    names = [field.name for field in form if field.name != EMBEDDING]
    # Floats share no values; split by byte, their exponents pack.
    encodings = {f"{EMBEDDING}.list.element": "BYTE_STREAM_SPLIT"}
    return pq.ParquetWriter(
        path, form, compression="zstd", use_dictionary=names, column_encoding=encodings, write_page_checksum=True
    )


def table(form: pa.Schema, columns: Mapping[str, Sequence | np.ndarray], embedding: np.ndarray) -> pa.Table:
    """A table of `columns` (each [n]) and embedding [n, D]."""
    value = form.field(EMBEDDING).type
    flat = pa.array(np.ascontiguousarray(embedding, np.float32).reshape(-1))
    arrays = [pa.array(columns[field.name], field.type) for field in form if field.name != EMBEDDING]
    return pa.Table.from_arrays([*arrays, pa.FixedSizeListArray.from_arrays(flat, type=value)], schema=form)


def provenance(marks: str, seen: bytes) -> dict[bytes, bytes]:
    """The metadata of a file that records what its parameters have seen; `read_provenance` gives it back."""
    return {MARKS: marks.encode(), SEEN: base64.b64encode(seen)}


def read_provenance(path: epath.PathLike) -> tuple[str, bytes] | None:
    """(marks, table of what was seen as bytes) of a file, or of the one in a folder; None where it records none.
    Raises UserError if it is not such a file."""
    path = next(iter(parts(path).values()))
    try:
        with files.opened(path, AGAIN) as stream:
            found = pq.read_schema(stream).metadata or {}
            return (found[MARKS].decode(), base64.b64decode(found[SEEN])) if {MARKS, SEEN} <= found.keys() else None
    except UserError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {reason(error)}") from error


def write(
    path: epath.PathLike,
    columns: dict[str, np.ndarray],
    embedding: np.ndarray,
    metadata: dict[bytes, bytes] | None = None,
) -> None:
    """Writes columns (each [n]; str, int or float) and embedding [n, D] float32; the file appears when complete.
    Raises UserError when the disk is full."""
    columns = {name: np.asarray(values) for name, values in columns.items()}
    n, dim = embedding.shape
    if any(len(values) != n for values in columns.values()):
        raise ValueError(f"columns of {sorted({len(v) for v in columns.values()})} rows for {n} embeddings")
    form = schema({name: KINDS[values.dtype.kind] for name, values in columns.items()}, dim)
    form = form.with_metadata(metadata) if metadata else form
    with files.writing(path) as file, open_writer(file, form) as writer:
        for start, stop in _groups(columns, n):
            part = {name: values[start:stop] for name, values in columns.items()}
            writer.write_table(table(form, part, embedding[start:stop]), row_group_size=max(n, 1))


def join(path: epath.PathLike, sources: Iterable[epath.PathLike], metadata: dict[bytes, bytes]) -> None:
    """Writes the rows of some files, of one plate each, to one; it appears when complete."""
    group: list[tuple[dict[str, np.ndarray], np.ndarray]] = []
    with files.writing(path) as file, contextlib.ExitStack() as stack:
        form = writer = None
        sources = list(sources)
        for i, source in enumerate(sources, 1):
            group.append(_read_file(epath.Path(source), None, None))
            if sum(len(embedding) for _, embedding in group) < GROUP and i < len(sources):
                continue
            columns = {name: np.concatenate([part[name] for part, _ in group]) for name in group[0][0]}
            embedding = np.concatenate([embedding for _, embedding in group])
            if form is None:
                kinds = {name: KINDS[values.dtype.kind] for name, values in columns.items()}
                form = schema(kinds, embedding.shape[1]).with_metadata(metadata)
                writer = stack.enter_context(open_writer(file, form))
            writer.write_table(table(form, columns, embedding), row_group_size=max(len(embedding), 1))
            group = []


def _groups(columns: dict[str, np.ndarray], n: int) -> list[tuple[int, int]]:
    """(start, stop) of the row groups: at least GROUP rows each, cut where the plate changes."""
    changes = np.zeros(max(n - 1, 0), bool)
    for name in ("split", "experiment", "plate"):
        if name in columns:
            changes |= columns[name][1:] != columns[name][:-1]
    bounds = [0]
    for cut in np.flatnonzero(changes) + 1:
        if cut - bounds[-1] >= GROUP:
            bounds.append(int(cut))
    return list(zip(bounds, [*bounds[1:], n]))


def parts(path: epath.PathLike) -> dict[str, epath.Path]:
    """The files of `path`, a file, a folder that holds NAME, or one with a file for each plate, by EXPERIMENT/PLATE;
    "" for a file of any plates. Raises UserError where there are none, or not all yet."""
    path = epath.Path(path)
    if (path / INDEX).exists():
        return {title: file for title, (file, _) in _indexed(path).items()}
    if (path / PLATES).is_dir() and not (path / NAME).exists():
        raise UserError(f"{path} is not finished: start the command that embeds into it again")
    return {"": path / NAME if path.is_dir() else path}


def _indexed(path: epath.Path) -> dict[str, tuple[epath.Path, int]]:
    """By EXPERIMENT/PLATE the file and the number of rows that a folder's index says."""
    found = files.read_json(path / INDEX, AGAIN).get("plates")
    about = list(found.items()) if isinstance(found, dict) else []
    sound = all(isinstance(one, dict) and type(one.get("rows")) is int for _, one in about)
    titles = {one.get("plate") for _, one in about if isinstance(one.get("plate"), str)} if sound else ()
    if not about or len(titles) != len(about):
        raise UserError(f"{path / INDEX} is damaged (it does not name each plate once); {AGAIN}")
    return {one["plate"]: (path / PLATES / name, one["rows"]) for name, one in about}


def count_rows(path: epath.PathLike) -> int:
    """The rows of one file. Raises UserError where it cannot be read."""
    try:
        with files.opened(path, AGAIN) as stream:
            return pq.read_metadata(stream).num_rows
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {reason(error)}") from error


def read(
    path: epath.PathLike, experiments: Sequence[str] | None = None, plates: Sequence[str] | None = None
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Reads an embeddings file, or what a folder holds, or a part of it.

    Args:
      path: the file, a folder that holds NAME, or one with a file for each plate.
      experiments: names of those to read; all if None.
      plates: "EXPERIMENT/PLATE" of those to read; all if None. Row groups and files without any are not read.

    Returns:
      columns, each [n]: object for text (equal text is stored once), int32, float64; and embedding [n, D] float32.

    Raises UserError: no such file, not an embeddings file, an experiment or plate that it does not have, or two rows of
    one site among those read.
    """
    found, experiments, plates = parts(path), _as_set(experiments), _as_set(plates)
    if "" in found:
        return _read_file(found[""], experiments, plates)
    for key, wanted, known in (
        ("experiment", experiments, {title.rpartition("/")[0] for title in found}),
        ("plate", plates, {*found}),
    ):
        if unknown := sorted((wanted or set()) - known):
            raise UserError(f"{path} has no {key} {unknown[0]!r}")
    chosen = []
    for title, (file, rows) in _indexed(epath.Path(path)).items():
        if (experiments is None or title.rpartition("/")[0] in experiments) and (plates is None or title in plates):
            chosen.append(_read_file(file, None, None))
            if len(chosen[-1][1]) != rows:
                raise UserError(f"{file} has {len(chosen[-1][1])} rows and {INDEX} says {rows}; {AGAIN}")
    names = [name for name in chosen[0][0] if all(name in columns for columns, _ in chosen)] if chosen else []
    columns = {name: np.concatenate([columns[name] for columns, _ in chosen]) for name in names}
    _check_sites(columns.get("site_id"), epath.Path(path))
    return columns, np.concatenate([embedding for _, embedding in chosen])


def _read_file(
    path: epath.Path, experiments: set | None, plates: set | None
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    if not path.exists():
        raise UserError(f"{path} does not exist")
    files.check_pointer(path)
    try:
        with files.opened(path, AGAIN) as stream, pq.ParquetFile(stream, page_checksum_verification=True) as file:
            return _read(file, path, experiments, plates)
    except UserError:
        raise
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:  # a damaged file may claim any size
        raise UserError(f"{path} cannot be read: {reason(error)}") from error


def _as_set(names: Sequence[str] | None) -> set[str] | None:
    return {names} if isinstance(names, str) else None if names is None else set(names)


def _read(file: pq.ParquetFile, path: epath.Path, experiments: set | None, plates: set | None):
    form = file.schema_arrow
    kind = form.field(EMBEDDING).type if EMBEDDING in form.names else None
    if not isinstance(kind, pa.FixedSizeListType) or kind.value_type != pa.float32():
        raise UserError(f"{path} is not an embeddings file: it needs a column {EMBEDDING!r}, a list of D float32")
    wanted = {"experiment": experiments, "plate": plates}
    if missing := [name for name, names in wanted.items() if names is not None and name not in form.names]:
        raise UserError(f"{path} has no column {missing[0]}")
    if sum(file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)) != file.metadata.num_rows:
        raise UserError(f"{path} is damaged (its parts have not as many rows as the whole); {AGAIN}")
    chosen = [i for i in range(file.num_row_groups) if _may_hold(file.metadata.row_group(i), experiments, plates)]
    size = sum(file.metadata.row_group(i).num_rows for i in chosen)
    embedding = np.empty((size, kind.list_size), np.float32)
    parts: list[pa.Table] = []
    n = 0
    for i in chosen:
        part = file.read_row_group(i)
        if part.column(EMBEDDING).null_count:
            raise UserError(f"{path} has rows without an embedding")
        for chunk in part.column(EMBEDDING).chunks:
            embedding[n : n + len(chunk)] = chunk.flatten().to_numpy().reshape(len(chunk), kind.list_size)
            n += len(chunk)
        parts.append(part.drop_columns([EMBEDDING]))
    if n != size:
        raise ValueError(f"it has {n} rows and says {size}")
    whole = pa.concat_tables(parts) if parts else form.empty_table().drop_columns([EMBEDDING])
    columns = {name: _to_numpy(whole.column(name)) for name in whole.column_names}
    keep = np.ones(size, bool)
    if experiments is not None:
        keep &= _among("experiment", columns["experiment"], experiments, path)
    if plates is not None:
        names = [f"{e}/{p}" for e, p in zip(columns["experiment"], columns["plate"])]
        keep &= _among("plate", np.array(names, object), plates, path)
    if not keep.all():
        columns, embedding = {name: values[keep] for name, values in columns.items()}, embedding[keep]
    _check_sites(columns.get("site_id"), path)
    return columns, embedding


def _check_sites(names: np.ndarray | None, path: epath.Path) -> None:
    """Raises UserError, naming the first, for a site that is there twice; blank names are not compared."""
    if names is None or len(set(names.tolist())) == len(names):
        return
    seen: set[str] = set()
    for i, name in enumerate(names.tolist()):
        if name in seen and name != "":
            raise UserError(f"{path} has two rows of site {shortened(str(name))}, the second in row {i}: keep one")
        seen.add(name)


def _may_hold(group: pq.RowGroupMetaData, experiments: set | None, plates: set | None) -> bool:
    """Whether a row group's minimum and maximum allow for any of the wanted values."""
    if experiments is None and plates is None:
        return True
    spans = {}
    for i in range(group.num_columns):
        column = group.column(i)
        if column.path_in_schema in ("experiment", "plate") and column.is_stats_set and column.statistics.has_min_max:
            spans[column.path_in_schema] = (column.statistics.min, column.statistics.max)

    def within(name, value):
        return name not in spans or spans[name][0] <= value <= spans[name][1]

    if experiments is not None and not any(within("experiment", name) for name in experiments):
        return False
    kind = type(spans["plate"][0]) if "plate" in spans else None  # int, or str where plates have names
    pairs = [name.rpartition("/") for name in plates or ()]
    if kind is int:
        pairs = [(name, _, int(plate)) for name, _, plate in pairs if plate.isdigit()]
    return plates is None or any(within("experiment", name) and within("plate", plate) for name, _, plate in pairs)


def _among(key: str, values: np.ndarray, wanted: set[str], path: epath.Path) -> np.ndarray:
    found = set(values.tolist())
    if unknown := sorted(wanted - found):
        raise UserError(f"{path} has no {key} {unknown[0]!r}")
    return np.fromiter((value in wanted for value in values), bool, len(values))


def _to_numpy(column: pa.ChunkedArray) -> np.ndarray:
    if not pa.types.is_string(column.type):
        return column.to_numpy()
    coded = column.combine_chunks().dictionary_encode()
    names = np.array(["", *coded.dictionary.to_pylist()], object)
    return names[coded.indices.fill_null(-1).to_numpy() + 1]
