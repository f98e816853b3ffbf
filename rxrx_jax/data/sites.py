"""The table of a prepared dataset's sites: sites.csv -> arrays."""

import dataclasses
import pathlib

import numpy as np
import pyarrow as pa
from pyarrow import csv

from rxrx_jax.base import files
from rxrx_jax.base.errors import UserError, reason

# Columns as they are read. Columns of few distinct values are read as codes: RxRx3's 2.2 million rows open in seconds.
NAMES = pa.dictionary(pa.int32(), pa.string())
COLUMNS = {
    "split": NAMES,
    "site_id": pa.string(),
    "well_id": pa.string(),
    "site": pa.int32(),
    "well_type": NAMES,
    "perturbation_id": pa.int32(),
    "experiment": NAMES,
    "plate": NAMES,
    "cell_type": NAMES,
}


@dataclasses.dataclass(frozen=True)
class Sites:
    """The table of a dataset's sites, one entry per record; all arrays [n]. `index` is the position in the split."""

    split: np.ndarray
    index: np.ndarray
    site_id: np.ndarray
    well_id: np.ndarray
    site: np.ndarray
    well_type: np.ndarray
    label: np.ndarray
    experiment: np.ndarray
    plate: np.ndarray
    cell_type: np.ndarray

    def __len__(self):
        return len(self.split)


def read_sites(folder: pathlib.Path) -> tuple[Sites, list[str], list[str], list[str]]:
    """Reads sites.csv of a prepared folder: the table and the names behind its indices, each list sorted:
    experiments, plates ("EXPERIMENT/PLATE") and cell types. Raises UserError for a file that is not such a table."""
    path = folder / "sites.csv"
    files.check_pointer(path)
    try:
        table = csv.read_csv(
            path,
            parse_options=csv.ParseOptions(newlines_in_values=True),
            convert_options=csv.ConvertOptions(include_columns=list(COLUMNS), column_types=COLUMNS),
        )
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path} cannot be read ({reason(error)}); rebuild the dataset") from error
    split_names, split = _codes(table["split"])
    experiments, experiment = _codes(table["experiment"])
    cell_types, cell_type = _codes(table["cell_type"])
    well_types, well_type = _codes(table["well_type"])
    # A plate's number is its experiment's own: names are sorted as text, "A/10" before "A/2".
    numbers, number = _codes(table["plate"])
    pairs, plate = np.unique(experiment.astype(np.int64) * max(len(numbers), 1) + number, return_inverse=True)
    plates = [f"{experiments[p // len(numbers)]}/{numbers[p % len(numbers)]}" for p in pairs]
    plates, rank = np.unique(np.array(plates, str), return_inverse=True)
    index = np.empty(len(split), np.int64)
    for code in range(len(split_names)):
        index[split == code] = np.arange((split == code).sum())
    sites = Sites(
        split=split_names[split],
        index=index,
        site_id=_strings(table["site_id"]),
        well_id=_strings(table["well_id"]),
        site=table["site"].to_numpy().copy(),
        well_type=well_types[well_type],
        label=table["perturbation_id"].to_numpy().copy(),
        experiment=experiment,
        plate=rank.astype(np.int32)[plate],
        cell_type=cell_type,
    )
    return sites, experiments.tolist(), plates.tolist(), cell_types.tolist()


def _codes(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """The sorted values of a dictionary column, and of every row the index among them, int32 [n]."""
    column = column.unify_dictionaries()
    found = column.chunk(0).dictionary.to_pylist() if column.num_chunks else []
    names, rank = np.unique(np.array(found, str), return_inverse=True)
    codes = np.concatenate([np.zeros(0, np.int32), *(chunk.indices.to_numpy() for chunk in column.chunks)])
    return names, rank.astype(np.int32)[codes]


def _strings(column: pa.ChunkedArray) -> np.ndarray:
    """A column of text as numpy strings [n]; by chunk, because Python's strings take more memory than numpy's."""
    parts = [chunk.to_numpy(zero_copy_only=False).astype(str) for chunk in column.chunks]
    return np.concatenate([np.zeros(0, "U1"), *parts])
