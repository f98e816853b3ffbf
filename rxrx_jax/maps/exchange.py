"""An embeddings file as other tools read it: AnnData for scverse, wide tables for pycytominer, copairs and others.

A wide table has one column per value of the embedding. By the names of cytominer the others are Metadata_Plate and so
on, and the values Image_Embedding_0 and so on, which pycytominer finds with `image_features=True`.
"""

import pathlib
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv

from rxrx_jax.base import embeddings
from rxrx_jax.base.errors import UserError, missing_extra

SUFFIXES = (".parquet", ".h5ad", ".csv")
NAMES = ("rxrx_jax", "cytominer")
METADATA = "Metadata_"


def check(out: pathlib.Path) -> None:
    """Raises UserError for a file whose suffix is of no format here, or of one whose package is not installed."""
    if out.suffix not in SUFFIXES:
        raise UserError(f"--out={out}: expected a file named {', '.join(f'*{suffix}' for suffix in SUFFIXES)}")
    if out.suffix == ".h5ad":
        load_anndata()


def is_own(out: pathlib.Path, names: str) -> bool:
    """Whether a file is to be as `base.embeddings` reads it, and not as others do."""
    return out.suffix == ".parquet" and names == NAMES[0]


def write(source: pathlib.Path, out: pathlib.Path, names: str = NAMES[0]) -> None:
    """Writes an embeddings file for other tools; it appears when complete.

    Args: source, as `base.embeddings` writes it; out, one of SUFFIXES; names, one of NAMES.
    What the file says of its making goes along, but for .csv, which has no place for it.
    """
    partial = out.with_name(out.name + ".partial")
    if out.suffix == ".h5ad":
        _write_h5ad(source, partial, names)
    else:
        _write_tables(source, partial, names, out.suffix)
    partial.replace(out)


def made_by(out: pathlib.Path, key: bytes) -> bytes | None:
    """What an existing file says under a key of its Parquet metadata, or of `uns` in AnnData; None if nothing."""
    try:
        if out.suffix == ".parquet":
            return (pq.read_schema(out).metadata or {}).get(key)
        if out.suffix == ".h5ad":
            found = load_anndata().read_h5ad(out, backed="r")
            try:
                text = found.uns.get(key.decode())
            finally:
                found.file.close()
            return None if text is None else str(text).encode()
    except (OSError, pa.ArrowException, KeyError) as error:
        raise UserError(f"--out={out} exists and cannot be read; use another or delete it") from error
    return None


def load_anndata():
    try:
        import anndata
    except ImportError:
        raise missing_extra("anndata", "anndata") from None
    return anndata


def _write_h5ad(source: pathlib.Path, out: pathlib.Path, names: str) -> None:
    import pandas

    columns, embedding = embeddings.read(source)
    about = _renamed(columns, names)
    values = _names_of_values(embedding.shape[1], names)
    made = load_anndata().AnnData(
        X=embedding,
        obs=pandas.DataFrame(about, index=pandas.Index(_index(columns, len(embedding)))),
        var=pandas.DataFrame(index=pandas.Index(values)),
        uns={key.decode(): value.decode() for key, value in _metadata(source).items()},
    )
    made.write_h5ad(out)


def _write_tables(source: pathlib.Path, out: pathlib.Path, names: str, suffix: str) -> None:
    writer = None
    for table in _wide(source, names):
        if writer is None:
            make = csv.CSVWriter if suffix == ".csv" else pq.ParquetWriter
            writer = make(str(out), table.schema)
        writer.write_table(table)
    writer.close()


def _wide(source: pathlib.Path, names: str) -> Iterator[pa.Table]:
    """The tables of the row groups of an embeddings file, with one column per value."""
    with pq.ParquetFile(source) as file:
        for group in range(file.num_row_groups):
            table = file.read_row_group(group)
            values = table.column(embeddings.EMBEDDING).combine_chunks()
            embedding = values.flatten().to_numpy().reshape(len(table), values.type.list_size)
            columns = {
                name: table.column(name).to_numpy() for name in table.column_names if name != embeddings.EMBEDDING
            }
            about = _renamed(columns, names)
            wide = dict(zip(_names_of_values(embedding.shape[1], names), np.ascontiguousarray(embedding.T)))
            yield pa.table(about | wide).replace_schema_metadata(_metadata(source))


def _index(columns: dict[str, np.ndarray], n: int) -> np.ndarray:
    """A name of each row: of its site, or its number."""
    return columns["site_id"].astype(str) if "site_id" in columns else np.arange(n).astype(str)


def _renamed(columns: dict[str, np.ndarray], names: str) -> dict[str, np.ndarray]:
    """Columns by the names of cytominer, where plates have names that no two experiments share."""
    if names == NAMES[0]:
        return columns
    found = {("batch" if name == "experiment" else name): values for name, values in columns.items()}
    if {"experiment", "plate"} <= columns.keys():
        plate = [f"{experiment}_{plate}" for experiment, plate in zip(columns["experiment"], columns["plate"])]
        found["plate"] = np.array(plate, object)
    return {in_cytominer(name): values for name, values in found.items()}


def in_cytominer(name: str) -> str:
    """Metadata_ConcentrationUm for concentration_um."""
    return METADATA + "".join(word.capitalize() for word in name.split("_"))


def _names_of_values(dim: int, names: str) -> list[str]:
    start = "embedding" if names == NAMES[0] else "Image_Embedding"
    return [f"{start}_{i}" for i in range(dim)]


def _metadata(source: pathlib.Path) -> dict[bytes, bytes]:
    """What an embeddings file says of its making, but for Arrow's own description of it."""
    found = pq.read_schema(source).metadata or {}
    return {key: value for key, value in found.items() if key.startswith(b"rxrx_jax")}
