"""What is to be embedded: its plates, how they are dealt out among hosts, and the file of each."""

import dataclasses
import re
from collections.abc import Callable

import jax
import numpy as np
from etils import epath
from pyarrow import csv as arrow_csv

from rxrx_jax import data
from rxrx_jax.base import embeddings
from rxrx_jax.base.errors import UserError, reason
from rxrx_jax.evaluate.embeddings import columns
from rxrx_jax.training.provenance.marks import SEEN_AS


@dataclasses.dataclass(frozen=True)
class Work:
    """What is embedded and how. about: JSON of what the embeddings are made by; embed: (tiles uint8 [n, R, T, S, S, C],
    plate int32 [n]) -> float32 [R, n, D], of each row of tiles the mean of its T; tops and lefts: corners of tiles, in
    pixels; seen: rows of the table -> what was seen of each; metadata: of the files; minibatch: images at a time of
    this host; unreadable: how many records may be left out; chips: devices of this host."""

    dataset: data.Dataset
    about: str
    embed: Callable[[np.ndarray, np.ndarray], jax.Array]
    crop: int
    tops: list[int]
    lefts: list[int]
    per: str
    metadata: dict[bytes, bytes]
    seen: Callable[[np.ndarray], np.ndarray]
    minibatch: int
    unreadable: int = 0
    chips: int = 1


@dataclasses.dataclass(frozen=True)
class Plate:
    """rows [n] of the dataset's table, in its order; name, of files; title, EXPERIMENT/PLATE."""

    number: int
    title: str
    rows: np.ndarray

    @property
    def name(self) -> str:
        return f"{self.number:06d}-{re.sub('[^A-Za-z0-9.-]+', '_', self.title)[:100]}"


def plates_of(dataset: data.Dataset) -> list[Plate]:
    """The plates that have sites, in the dataset's order."""
    of = dataset.sites.plate
    order = np.argsort(of, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(of[order])) + 1)
    return [Plate(int(of[rows[0]]), dataset.plates[of[rows[0]]], rows) for rows in groups]


def deal(sizes: list[int], count: int) -> list[list[int]]:
    """Numbers of plates of these sizes for each of `count` hosts, whose sums are about equal: the largest first, each
    to the host that has least."""
    found, sums = [[] for _ in range(count)], [0] * count
    for i in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        host = sums.index(min(sums))
        found[host].append(i)
        sums[host] += sizes[i]
    return [sorted(numbers) for numbers in found]


def check_manifest(dataset: data.Dataset) -> None:
    """Raises UserError, naming a plate, where manifest.csv has other sites than sites.csv. Arrays have none."""
    if dataset.folder is None:
        return
    path = dataset.folder / "manifest.csv"
    try:
        options = arrow_csv.ConvertOptions(include_columns=["site_id"], column_types={"site_id": "string"})
        listed = arrow_csv.read_csv(path, convert_options=options)["site_id"].to_pylist()
    except (OSError, KeyError, ValueError) as error:  # Arrow's are ValueErrors
        raise UserError(f"{path} cannot be read ({reason(error)}); rebuild the dataset") from error
    if listed == dataset.sites.site_id.tolist():
        return
    known = dict(zip(dataset.sites.site_id.tolist(), dataset.sites.plate.tolist()))
    counts = np.bincount([known[name] for name in listed if name in known], minlength=len(dataset.plates))
    for plate, (of, here) in enumerate(zip(counts, np.bincount(dataset.sites.plate, minlength=len(dataset.plates)))):
        if of != here:
            raise UserError(
                f"{path} has {of} sites of plate {dataset.plates[plate]} and sites.csv {here}; rebuild the dataset"
            )
    raise UserError(f"{path} has {len(listed)} sites, not in the order of sites.csv; rebuild the dataset")


def too_many(dataset: data.Dataset, lost: int, rows: np.ndarray, allowed: int) -> str:
    """What to say when `lost` records, among them one of rows [n], cannot be read."""
    return (
        f"{lost} records cannot be read and embedded, among them {data.describe_record(dataset, rows[0])}: rebuild the "
        f"dataset, or allow more than --unreadable={allowed}"
    )


def write_plate(work: Work, rows: np.ndarray, embedding: np.ndarray, path: epath.Path) -> None:
    """Writes the sites, or wells, of rows [n] with embedding [n, D] to PATH.parquet."""
    names = columns(work.dataset, rows) | {"seen": np.array(work.seen(rows), str)}
    if work.per == "well" and len(rows):
        names, embedding = by_well(names, embedding)
    embeddings.write(path.with_name(path.name + ".parquet"), names, embedding, work.metadata)


def by_well(part: dict[str, np.ndarray], embedding: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Rows of sites -> rows of wells, in the order in which they first appear."""
    _, first, well = np.unique(part["well_id"], return_index=True, return_inverse=True)
    order = np.argsort(first)
    mean = np.stack([embedding[well == w].mean(axis=0) for w in order])
    found = {name: values[first[order]] for name, values in part.items()}
    found["split"] = np.array([min(part["split"][well == w], key=data.SPLITS.index) for w in order])
    most = [max(part["seen"][well == w], key=SEEN_AS.index) for w in order]
    found["seen"] = np.array(most, str)
    found["site_id"] = np.array([f"{name}_0" for name in found["well_id"]])
    return found | {"site": np.zeros_like(found["site"])}, mean
