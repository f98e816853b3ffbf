"""Counts what the tables of a prepared folder hold, for its report: each table is read once, row by row."""

import collections
import csv
import dataclasses
import itertools
import json
import operator
import pathlib
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from rxrx_jax.base.errors import UserError
from rxrx_jax.base.spellings import NEGATIVE_CONTROL, POSITIVE_CONTROL, TREATMENT
from tfds_builders.common.types import SITE_COLUMNS
from tfds_builders.report import pictures

LISTED = 1000  # sites set aside, and files without a row, that are kept by name; the others are only counted
REASONS = 1000  # distinct reasons that are kept apart while counting
PLACE = re.compile(r" \([^()]* line \d+\)$")  # at the end of a reason: where its row is, another for each site
AGAIN = "delete the folder and rebuild the dataset"


class Sample(NamedTuple):
    """A record to show: where it is, and what it is."""

    split: str
    index: int  # in the split
    site_id: str
    well_type: str
    perturbation: str


@dataclasses.dataclass
class Contents:
    """What a prepared folder holds. A plate is (experiment, plate), as text."""

    folder: pathlib.Path
    info: dict[str, Any]  # dataset_info.json
    metadata: dict[str, Any]  # metadata.json
    statistics: dict[str, Any]  # statistics.json
    histograms: dict[str, np.ndarray]  # experiment -> [C, 256] pixels per bin
    channels: list[str]  # names of w1..wC

    experiments: dict[str, Counter] = dataclasses.field(default_factory=dict)  # experiment -> split -> records
    cell_types: dict[str, str] = dataclasses.field(default_factory=dict)  # experiment -> cell type
    plates: Counter = dataclasses.field(default_factory=Counter)  # plate -> records
    wells: dict[tuple[str, str], np.ndarray] = dataclasses.field(default_factory=dict)  # plate -> [32, 48] bool
    classes: Counter = dataclasses.field(default_factory=Counter)  # perturbation_id, as text -> records
    unlabelled: int = 0  # records whose label the source withholds
    names: dict[str, tuple[str, str]] = dataclasses.field(default_factory=dict)  # perturbation_id -> name, well type
    bytes: int = 0  # of all serialised records
    samples: dict[str, Sample] = dataclasses.field(default_factory=dict)  # experiment -> a negative control, or a site
    sums: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)  # experiment -> see `add_to_map`
    first: dict[str, tuple[str, np.ndarray]] = dataclasses.field(default_factory=dict)  # -> its first plate, the same

    set_aside: int = 0
    aside_splits: Counter = dataclasses.field(default_factory=Counter)  # split or "" -> sites
    aside_experiments: Counter = dataclasses.field(default_factory=Counter)  # experiment or "" -> sites
    aside_plates: Counter = dataclasses.field(default_factory=Counter)  # plate -> sites
    reasons: Counter = dataclasses.field(default_factory=Counter)  # reason without its place -> sites
    aside_listed: list[tuple[str, ...]] = dataclasses.field(default_factory=list)  # site_id, reason, experiment, split
    unlisted: int = 0
    unlisted_listed: list[str] = dataclasses.field(default_factory=list)

    @property
    def step(self) -> int:
        """Pixel values per bin of the histograms: 1, or 256 for 16-bit images."""
        return 1 << (self.metadata["bits"] - 8)

    def count(self, split: str) -> int:
        """Returns the number of records of a split."""
        return sum(counts[split] for counts in self.experiments.values())

    def facts(self) -> dict[str, int]:
        """Returns what the records hold, by the names that builders give the counts of the published design."""
        labels = [self.names.get(label, ("", ""))[1] for label in self.classes]
        controls = labels.count(NEGATIVE_CONTROL)
        return {
            "sites": sum(self.plates.values()),
            "wells": int(sum(wells.sum() for wells in self.wells.values())),
            "plates": len(self.plates),
            "experiments": len(self.experiments),
            "cell_types": len(set(self.cell_types.values())),
            "perturbations": len(labels) - controls,
            "treatments": labels.count(TREATMENT),
            "positive_controls": labels.count(POSITIVE_CONTROL),
            "negative_controls": controls,
        }


def read(folder: pathlib.Path) -> Contents:
    """Reads every table of a prepared folder. UserError for a file that is missing or does not fit the others."""
    histograms = _json(folder / "histograms.json")["experiment"]
    metadata = _json(folder / "metadata.json")
    contents = Contents(
        folder, _json(folder / "dataset_info.json"), metadata, _json(folder / "statistics.json"),
        {name: np.array(counts, np.int64) for name, counts in histograms.items()}, list(metadata["channels"]),
    )  # fmt: skip
    for label, name, well_type in _table(folder / "perturbations.csv", "perturbation_id", "perturbation", "well_type"):
        contents.names[label] = (name, well_type)
    _read_records(contents)
    for row in _table(folder / "set_aside.csv", "site_id", "reason", "experiment", "split"):
        _count_set_aside(contents, row)
    for (file,) in _table(folder / "unlisted.csv", "file"):
        contents.unlisted += 1
        if contents.unlisted <= LISTED:
            contents.unlisted_listed.append(file)
    return contents


def _json(path: pathlib.Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): {AGAIN}") from error


def _table(path: pathlib.Path, *columns: str) -> Iterator[tuple[str, ...]]:
    """Yields the named columns of each row."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.reader(file)
            header = next(reader, [])
            missing = [name for name in columns if name not in header]
            if missing:
                raise UserError(f"{path}: no column {', '.join(missing)}: {AGAIN}")
            at = [header.index(name) for name in columns]
            pick = operator.itemgetter(*at) if len(at) > 1 else lambda row: (row[at[0]],)
            for row in reader:
                if len(row) != len(header):
                    raise UserError(f"{path} line {reader.line_num}: {len(row)} fields, not {len(header)}: {AGAIN}")
                yield pick(row)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read ({error}): {AGAIN}") from error


def _read_records(contents: Contents) -> None:
    """Reads sites.csv and manifest.csv side by side, a plate of a split at a time."""
    means = [f"mean_w{i + 1}" for i in range(len(contents.channels))]
    left = _table(contents.folder / "sites.csv", *SITE_COLUMNS)
    right = _table(contents.folder / "manifest.csv", "split", "site_id", "bytes", *means)
    starts = collections.Counter()
    plates = itertools.groupby(_side_by_side(contents.folder, left, right), operator.itemgetter(0, 4, 5))
    for (split, experiment, plate), rows in plates:
        # One list per column: what follows costs little per record, however many there are.
        _, ids, _, cell_types, _, _, wells, _, well_types, names, labels, sizes, *pixels = zip(*rows)
        contents.experiments.setdefault(experiment, Counter())[split] += len(ids)
        contents.cell_types.setdefault(experiment, cell_types[0])
        contents.plates[experiment, plate] += len(ids)
        contents.classes.update(labels)
        try:
            contents.bytes += sum(map(int, sizes))
            values = np.array([list(map(float, channel)) for channel in pixels]).T  # [n, C]
        except ValueError as error:
            raise UserError(
                f"{contents.folder / 'manifest.csv'}: {experiment} plate {plate}: {error}: {AGAIN}"
            ) from error
        at = tuple(np.array([pictures.position(well) for well in wells]).T)  # rows, columns
        contents.wells.setdefault((experiment, plate), np.zeros(pictures.PLATE_1536, bool))[at] = True
        values = pictures.standardise(values)
        contents.sums[experiment] = add_to_map(contents.sums.get(experiment), at, values)
        name, map_ = contents.first.setdefault(experiment, (plate, None))
        if name == plate:
            contents.first[experiment] = (plate, add_to_map(map_, at, values))
        sample = contents.samples.get(experiment)
        control = well_types.index(NEGATIVE_CONTROL) if NEGATIVE_CONTROL in well_types else None
        if sample is None or (control is not None and sample.well_type != NEGATIVE_CONTROL):
            i = control or 0
            contents.samples[experiment] = Sample(split, starts[split] + i, ids[i], well_types[i], names[i])
        starts[split] += len(ids)
    contents.unlabelled = contents.classes.pop("-1", 0)


def _side_by_side(folder: pathlib.Path, left: Iterator[tuple], right: Iterator[tuple]) -> Iterator[tuple[str, ...]]:
    """Yields each row of sites.csv with that of manifest.csv, which must be of the same site."""
    for i, (a, b) in enumerate(itertools.zip_longest(left, right)):
        if a is None or b is None or a[:2] != b[:2]:
            raise UserError(f"{folder}: record {i} of sites.csv is not that of manifest.csv: {AGAIN}")
        yield a + b[2:]


def add_to_map(sums: np.ndarray | None, at: tuple[np.ndarray, np.ndarray], values: np.ndarray) -> np.ndarray:
    """Adds sites to the sums by well of a plate, and returns them.

    Args:
      sums: [32, 48, C + 1] float32, or None: the sums of C values, then the number of sites.
      at: rows and columns of the sites' wells, [n] each.
      values: [n, C].
    """
    if sums is None:
        sums = np.zeros((*pictures.PLATE_1536, values.shape[1] + 1), np.float32)
    np.add.at(sums, at, np.concatenate([values, np.ones((len(values), 1))], axis=1))
    return sums


def as_map(sums: np.ndarray) -> np.ndarray:
    """Returns the means by well, [16, 24, C] or [32, 48, C], NaN = no record, of sums of `add_to_map`."""
    number = sums[..., -1:]
    return pictures.cut(np.where(number > 0, sums[..., :-1] / np.maximum(number, 1), np.nan))


def edges(sums: np.ndarray) -> list[float]:
    """Returns what the wells at the edge of a plate have more than the others, for each channel of `add_to_map`."""
    plate = as_map(sums)
    return [pictures.edge(plate[..., channel]) for channel in range(plate.shape[-1])]


def _count_set_aside(contents: Contents, row: tuple[str, ...]) -> None:
    site_id, reason, experiment, split = row
    contents.set_aside += 1
    contents.aside_splits[split] += 1
    contents.aside_experiments[experiment] += 1
    place = site_id.removeprefix(f"{experiment}_").rsplit("_", 2)  # PLATE, WELL, SITE
    if experiment and site_id.startswith(f"{experiment}_") and len(place) == 3:
        contents.aside_plates[experiment, place[0]] += 1
    reason = PLACE.sub("", reason)
    if reason in contents.reasons or len(contents.reasons) < REASONS:
        contents.reasons[reason] += 1
    if contents.set_aside <= LISTED:
        contents.aside_listed.append(row)
