"""Tables of other tools, read: AnnData, and wide ones with one column per value, as .parquet, .csv or .csv.gz.

The values are every column that is not Metadata_* where there are such, as pycytominer writes them; or else the longest
run of numbered columns, such as feature_0, feature_1 and so on of the published embeddings.
"""

import collections
import pathlib
import re
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv

from rxrx_jax.base import embeddings, files
from rxrx_jax.base.errors import UserError, reason, shortened
from rxrx_jax.base.spellings import is_missing
from rxrx_jax.maps.exchange import METADATA, load_anndata


def read(path: pathlib.Path) -> tuple[dict[str, np.ndarray], np.ndarray, list[str]]:
    """Reads .h5ad, or a wide table as .parquet, .csv or .csv.gz.

    Returns (columns, each [n]: text as object, int64 or float64; values [n, d] float32 or float64; their d names).
    Raises UserError for what is damaged, and, naming the column, for values that are not numbers.
    """
    if path.suffix == ".h5ad":
        return _read_h5ad(path)
    table = _read_table(path)
    names = table.column_names
    values = value_columns(names)
    if not values:
        raise UserError(f"{path} has no embeddings: neither Metadata_* beside columns of values, nor numbered columns "
                        "such as feature_0, nor one column embedding")  # fmt: skip
    features = np.empty((len(table), len(values)), _width(table.schema, values))
    for i, name in enumerate(values):
        if not _is_number(table.schema.field(name).type):
            raise UserError(f"{path}: column {name} holds {table.schema.field(name).type} and not numbers")
        features[:, i] = table.column(name).to_numpy()
    columns = {name: _column(table.column(name)) for name in names if name not in set(values)}
    return columns, features, values


def read_columns(path: pathlib.Path) -> dict[str, np.ndarray]:
    """The columns of a table without embeddings, as .parquet, .csv or .csv.gz, each [n]. Raises UserError as `read`."""
    table = _read_table(path, values=False)
    return {name: _column(table.column(name)) for name in table.column_names}


def read_text(path: pathlib.Path) -> pa.Table:
    """The same as text, blanks as null, without looking for numbers."""
    return _read_table(path, values=False)


def _read_table(path: pathlib.Path, values: bool = True) -> pa.Table:
    with files.reading(path, embeddings.AGAIN):
        files.check_pointer(path)
    try:
        table = pq.read_table(path) if path.suffix == ".parquet" else _read_csv(path, values)
    except UserError:
        raise
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        raise UserError(f"{path} cannot be read: {reason(error)}") from error
    if twice := [name for name, count in collections.Counter(table.column_names).items() if count > 1]:
        raise UserError(f"{path} has two columns named {twice[0]}")
    return table


def value_columns(names: Sequence[str]) -> list[str]:
    """Which columns of a wide table are values: all but Metadata_* where there are such, else the longest run of names
    that differ in a number at their end, two at least."""
    if any(name.startswith(METADATA) for name in names):
        return [name for name in names if not name.startswith(METADATA)]
    runs = collections.defaultdict(list)
    for name in names:
        if match := re.fullmatch(r"(.*?)\d+", name):
            runs[match[1]].append(name)
    longest = max(runs.values(), key=len, default=[])
    return longest if len(longest) > 1 else []


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_null(kind)


def _width(schema: pa.Schema, values: list[str]) -> type:
    narrow = all(schema.field(name).type in (pa.float32(), pa.float16()) for name in values)
    return np.float32 if narrow else np.float64


def _read_csv(path: pathlib.Path, values: bool) -> pa.Table:
    """Values as float64; other columns as text, which `_column` turns into numbers where all of it is. A name that ends
    in .tsv or .tsv.gz is of a table with tabs."""
    parse = csv.ParseOptions(delimiter="\t" if ".tsv" in path.suffixes[-2:] else ",")
    with csv.open_csv(path, parse_options=parse) as stream:
        names = stream.schema.names
    numbers = set(value_columns(names)) if values else set()
    types = {name: pa.float64() if name in numbers else pa.string() for name in names}
    try:
        return csv.read_csv(path, parse_options=parse, convert_options=csv.ConvertOptions(column_types=types))
    except pa.ArrowInvalid as error:
        if match := re.search(r"CSV column #(\d+): (.*)", str(error)):
            raise UserError(f"{path}: column {names[int(match[1])]}: {shortened(match[2])}") from error
        raise


def _column(column: pa.ChunkedArray) -> np.ndarray:
    """int64, float64 (NaN where a cell says nothing), or text as object ("" where blank). Text is a number where every
    cell is written as one that would print alike, so that plate 007 stays what it is."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if _is_number(column.type):
        return column.to_numpy()
    text = np.array(["" if value is None else str(value) for value in column.to_pylist()], object)
    different = set(text.tolist())
    if different and all(re.fullmatch(r"0|-?[1-9]\d{0,17}", value) for value in different):
        return text.astype(np.int64)
    blank = {value for value in different if is_missing(value)}
    number = r"-?(?=\.?\d)(0|[1-9]\d*)?(\.\d*)?([eE][+-]?\d+)?|-?inf"
    if different - blank and all(re.fullmatch(number, value) for value in different - blank):
        return np.array([np.nan if value in blank else float(value) for value in text.tolist()])
    return text


def _read_h5ad(path: pathlib.Path) -> tuple[dict[str, np.ndarray], np.ndarray, list[str]]:
    with files.reading(path, embeddings.AGAIN):
        files.check_pointer(path)
    try:
        found = load_anndata().read_h5ad(path)
    except Exception as error:  # h5py and anndata raise whatever a damaged file leads to
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} cannot be read: {reason(error)}") from error
    if found.X is None or not np.issubdtype(found.X.dtype, np.number):
        raise UserError(f"{path}: X does not hold numbers")
    values = found.X.toarray() if hasattr(found.X, "toarray") else np.asarray(found.X)
    columns = {str(name): _column(pa.chunked_array([pa.array(found.obs[name])])) for name in found.obs.columns}
    return columns, values if values.dtype == np.float32 else values.astype(np.float64), list(map(str, found.var_names))
