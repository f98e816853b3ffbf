"""Reads embeddings as they were published, block by block: csv tables, Parquet files, a tree or a tar of these.

A row whose numbers cannot be trusted keeps its name and gets a reason; only what concerns a whole file is an error.
"""

import csv
import io
import pathlib
import re
import tarfile
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from rxrx_jax.base.errors import UserError
from rxrx_jax.base.files import check_pointer
from tfds_builders.common.rows import tables
from tfds_builders.common.sources.tars import NONSENSE
from tfds_builders.common.types import SITE_COLUMNS

KEYS = ("site_id", "well_id")  # columns that name what an embedding is of; the first that is there counts
SUFFIXES = (".csv", ".parquet", ".tar")
BLOCK = 2**24  # bytes of csv, and of Parquet values, that are read at a time
LONGEST_LINE = 2**22  # bytes; 1024 numbers with all their digits need 25,000
LARGEST_MEMBER = 2**31  # bytes of a file in a tar, which is read as a whole


class Block(NamedTuple):
    """Some rows of one file, n >= 1."""

    file: str
    key: str  # one of KEYS
    names: list[str]  # of the values, D
    ids: list[str]
    places: list[str]  # "line 17" or "row 17" of the file
    values: np.ndarray  # [n, D] float32
    reasons: list[str]  # why a row's values cannot be used, "" if they can


class Form(NamedTuple):
    """Where a table has what."""

    key: str
    names: list[str]  # of the values, in their order


def find(path: pathlib.Path) -> list[pathlib.Path]:
    """Returns the files of embeddings that a file or folder stands for, sorted. Raises UserError.

    In a folder these are files with 'embedding' in their name, up to two folders below it or below its folder of
    embeddings, of one kind: csv tables, Parquet files, or a tar of Parquet files.
    """
    if path.is_file():
        if path.suffix not in SUFFIXES:
            raise UserError(f"{path}: expected a file that ends in {', '.join(SUFFIXES)}, or a folder of these")
        return [path]
    if not path.is_dir():
        raise UserError(f"{path} does not exist")
    found = [
        file
        for pattern in ("*", "*/*", "*/*/*", "*embedding*/*/*/*")  # not images/EXPERIMENT/PlateN/*: these are millions
        for file in path.glob(pattern)
        if "embedding" in file.name.lower() and file.suffix in SUFFIXES and not file.name.startswith(".")
    ]
    found = sorted({file for file in found if file.is_file()})
    first = {file.suffix: file for file in reversed(found)}
    if len(first) > 1:
        raise UserError(f"{path} holds {' and '.join(map(str, first.values()))}: choose with --embeddings=FILE")
    if not found:
        raise UserError(f"{path} holds no file of embeddings (such as embeddings.csv, embeddings.tar)")
    return found


def read(files: list[pathlib.Path], on_bytes: Callable[[int], Any] = lambda n: None) -> Iterator[Block]:
    """Yields the rows of all files; all have the same key and names. Memory does not grow with the files.

    Args:
      files: of `find`.
      on_bytes: called with the number of bytes that were read, for progress.
    """
    first = None
    for path in files:
        check_pointer(path)
        kind = {".csv": _csv_file, ".parquet": _parquet_file, ".tar": _tar}[path.suffix]
        try:
            for block in kind(path, on_bytes):
                first = first or block
                if (block.key, block.names) != (first.key, first.names):
                    raise UserError(
                        f"{path}: {block.file} names {len(block.names)} values by {block.key}, {first.file} "
                        f"{len(first.names)} by {first.key}: they are of two kinds of embeddings, give one"
                    )
                if block.ids:
                    yield block
        except UserError:
            raise
        except (pa.ArrowException, OSError, EOFError, *NONSENSE) as error:
            raise UserError(f"{path} cannot be read: {(str(error) or type(error).__name__).splitlines()[0]}") from error


def form(names: list[str], where: str) -> Form:
    """Returns what the columns of a table are: feature_0, feature_1, ... or, without such, all that name no site."""
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"{where}: two columns are called {twice[0]!r}")
    key = next((key for key in KEYS if key in names), None)
    if key is None and (other := tables.separator(names)):
        raise UserError(f"{where}: its columns are separated by {other!r}: write it again with commas")
    if key is None:
        raise UserError(f"{where}: no column {' or '.join(KEYS)}; it has {', '.join(names[:5])}, ...")
    numbered = {int(name.removeprefix("feature_")): name for name in names if re.fullmatch(r"feature_\d+", name)}
    if numbered:
        expected = range(min(numbered), min(numbered) + len(numbered))
        if missing := [number for number in expected if number not in numbered]:
            raise UserError(f"{where}: no column feature_{missing[0]}, though there is feature_{max(numbered)}")
        return Form(key, [numbered[number] for number in expected])
    no_values = {*SITE_COLUMNS, "", "Unnamed: 0", "__index_level_0__"}  # the last three: what pandas calls an index
    values = [name for name in names if name not in no_values]
    if not values:
        raise UserError(f"{where}: no columns of values (feature_0, feature_1, ...)")
    return Form(key, values)


def _csv_file(path: pathlib.Path, on_bytes) -> Iterator[Block]:
    with path.open("rb") as file:
        yield from _csv(file, path.name, on_bytes)


def _csv(file, name: str, on_bytes) -> Iterator[Block]:
    header = file.readline(LONGEST_LINE)
    on_bytes(len(header))
    try:
        names = [field.strip() for field in next(csv.reader([header.decode("utf-8-sig")]), [])]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{name}: not a UTF-8 csv file ({error})") from error
    what = form(names, name)
    line, rest = 2, b""
    while data := file.read(BLOCK):
        on_bytes(len(data))
        lines, newline, rest = (rest + data).rpartition(b"\n")
        if len(rest) > LONGEST_LINE:
            raise UserError(f"{name}: a line of more than {LONGEST_LINE:,} bytes: not a csv file of embeddings")
        if newline:
            yield _csv_block(lines + newline, name, names, what, line)
            line += lines.count(b"\n") + 1
    if rest:
        yield _csv_block(rest + b"\n", name, names, what, line)


def _csv_block(lines: bytes, name: str, names: list[str], what: Form, line: int) -> Block:
    """Parses whole lines, the first of which is number `line`."""
    try:
        table = pyarrow.csv.read_csv(
            pa.BufferReader(lines),
            pyarrow.csv.ReadOptions(column_names=names),
            convert_options=pyarrow.csv.ConvertOptions(
                # 64 bits first, as numpy and pandas read text: the same bits whichever way a line goes here
                column_types={what.key: pa.string(), **dict.fromkeys(what.names, pa.float64())},
                include_columns=[what.key, *what.names],
            ),
        )
    except pa.ArrowInvalid:
        table = None
    # One bad line must not cost the block, nor a blank one the count of lines: then each is read by itself.
    if table is None or table.num_rows != lines.count(b"\n"):
        return _slow_csv_block(lines, name, names, what, line)
    values = np.empty((table.num_rows, len(what.names)))
    for j, column in enumerate(what.names):
        values[:, j] = table.column(column).to_numpy()
    places = [f"line {line + i}" for i in range(table.num_rows)]
    return _block(name, what, table.column(what.key).to_pylist(), places, values, [""] * table.num_rows)


def _slow_csv_block(lines: bytes, name: str, names: list[str], what: Form, line: int) -> Block:
    ids, places, reasons, rows = [], [], [], []
    at = {column: i for i, column in enumerate(names)}
    for number, text in enumerate(lines.split(b"\n")[:-1], start=line):
        if not text.strip():
            continue
        try:
            fields = next(csv.reader([text.decode()], strict=True), [])
            reason = "" if len(fields) == len(names) else f"{len(fields)} fields in place of {len(names)}"
        except (UnicodeDecodeError, csv.Error) as error:
            fields = text.decode(errors="replace").split(",")  # for the name only
            reason = f"not UTF-8 csv ({error})"
        row = [float("nan")] * len(what.names)
        if not reason:
            row, reason = _numbers([fields[at[column]] for column in what.names], what.names)
        ids.append(fields[at[what.key]] if at[what.key] < len(fields) else "")
        places.append(f"line {number}")
        reasons.append(reason)
        rows.append(row)
    return _block(name, what, ids, places, np.array(rows, float).reshape(-1, len(what.names)), reasons)


def _numbers(values: list[Any], names: list[str]) -> tuple[list[float], str]:
    """Returns one row as floats, and the reason if one is not a number (None and blanks are NaN)."""
    row, reason = [], ""
    for value, name in zip(values, names):
        text = "nan" if value is None else str(value).strip() or "nan"
        try:
            row.append(float(text) if "_" not in text else float("x"))
        except ValueError:
            row.append(float("nan"))
            reason = reason or f"{name} {text[:30]!r} is not a number"
    return row, reason


def _block(name: str, what: Form, ids, places, values: np.ndarray, reasons: list[str]) -> Block:
    """Rounds values [n, D] float64 to 32 bits; a row with one that is not finite gets its reason."""
    with np.errstate(over="ignore", invalid="ignore"):
        values = values.astype(np.float32)
    finite = np.isfinite(values)
    for i in np.flatnonzero(~finite.all(1)):
        reasons[i] = reasons[i] or f"{what.names[finite[i].argmin()]} is not a finite number"
    ids = ["" if text is None else str(text).strip() for text in ids]
    return Block(name, what.key, what.names, ids, places, values, reasons)


def _parquet_file(path: pathlib.Path, on_bytes) -> Iterator[Block]:
    name = "/".join(path.parts[-3:]) if path.name == "embeddings.parquet" else path.name
    yield from _parquet(path, name)
    on_bytes(path.stat().st_size)


def _parquet(source, name: str) -> Iterator[Block]:
    with pq.ParquetFile(source, page_checksum_verification=True) as file:
        what = form(file.schema_arrow.names, name)
        for field in map(file.schema_arrow.field, what.names):
            if pa.types.is_nested(field.type):
                raise UserError(
                    f"{name}: column {field.name} holds {field.type}: write its values as columns of their own, "
                    "feature_0, feature_1, ..."
                )
        row = 1
        size = max(1, BLOCK // (8 * len(what.names)))
        for batch in file.iter_batches(size, columns=[what.key, *what.names]):
            reasons = [""] * len(batch)
            columns = [batch.column(batch.schema.get_field_index(column)) for column in what.names]
            try:
                values = [column.cast(pa.float64()).to_numpy(zero_copy_only=False) for column in columns]
                values = np.stack(values, axis=1)
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
                rows = zip(*(column.to_pylist() for column in columns))
                rows, reasons = zip(*(_numbers(list(values), what.names) for values in rows))
                values, reasons = np.array(rows, float), list(reasons)
            ids = batch.column(batch.schema.get_field_index(what.key)).to_pylist()
            places = [f"row {row + i}" for i in range(len(batch))]
            row += len(batch)
            yield _block(name, what, ids, places, values, reasons)
        if row - 1 != file.metadata.num_rows:
            raise UserError(f"{name} is damaged: {row - 1:,} rows can be read of {file.metadata.num_rows:,}")


def _tar(path: pathlib.Path, on_bytes) -> Iterator[Block]:
    with path.open("rb") as file:
        # tarfile takes an archive that is cut between two files for a complete one.
        file.seek(max(0, path.stat().st_size - tarfile.BLOCKSIZE))
        if any(file.read()):
            raise tarfile.ReadError("it is cut short, or not a tar archive: fetch it again")
    with tarfile.open(path, "r:") as archive:
        for member in archive:
            name = pathlib.PurePosixPath(member.name)
            if member.isfile() and name.suffix == ".parquet" and not name.name.startswith("."):
                if member.size > LARGEST_MEMBER:
                    raise UserError(f"{path}: {member.name} has {member.size:,} bytes: not the embeddings of a plate")
                yield from _parquet(io.BytesIO(archive.extractfile(member).read()), member.name)
            on_bytes(member.size)
