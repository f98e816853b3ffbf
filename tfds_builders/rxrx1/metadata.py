"""Reads RxRx1's tables, as published (metadata.csv) or as Kaggle shipped them, into site rows.

A row that cannot be trusted is set aside with a reason; only what concerns a whole file is an error.
"""

import csv
import dataclasses
import functools
import pathlib
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from rxrx_jax.errors import UserError
from tfds_builders.report import SetAside
from tfds_builders.rxrx1 import splits

URL = "https://storage.googleapis.com/rxrx/rxrx1/"
DOWNLOAD = (
    f"download {URL}rxrx1-images.zip and {URL}rxrx1-metadata.zip, unzip both into one folder DIR, "
    "then run: python -m tfds_builders.prepare rxrx1 --source=DIR"
)
COLUMNS = ("site_id", "well_id", "cell_type", "dataset", "experiment", "plate", "well", "site", "well_type",
           "sirna", "sirna_id")  # fmt: skip
KAGGLE = ("train.csv", "train_controls.csv", "test.csv", "test_controls.csv")
KAGGLE_COLUMNS = ("id_code", "experiment", "plate", "well")
UNTREATED_ID = 1138
CLASS_RANGES = {
    "treatment": range(1108),
    "positive_control": range(1108, 1138),
    "negative_control": range(1138, 1139),
}
UNKNOWN = -1  # perturbation_id of a site whose label the source withholds


class Raw(NamedTuple):
    """One site as text, in the published columns, and where it was read."""

    site_id: str
    well_id: str
    cell_type: str
    dataset: str
    experiment: str
    plate: str
    well: str
    site: str
    well_type: str
    sirna: str
    sirna_id: str
    where: str
    problem: str = ""  # why no field of the row can be trusted


@dataclasses.dataclass
class Metadata:
    """The tables of a source: rows that can be trusted, the others by name, and what kind of table it was."""

    rows: list[dict[str, Any]]
    set_aside: list[SetAside]
    kind: str  # published or kaggle
    label_space: str  # published or kaggle-relaunch
    notes: list[str]


def read(source: pathlib.Path, classes: int = UNTREATED_ID + 1) -> Metadata:
    """Reads metadata.csv if it is there, else Kaggle's four tables.

    Args:
      source: the folder with the tables, and splits.csv if there is one.
      classes: number of perturbation ids; an id outside 0..classes-1 sets the site aside.
    """
    if not source.is_dir():
        raise UserError(f"{source} is not a folder: {DOWNLOAD}")
    kinds = splits.read_kinds(source)
    notes = []
    if (source / "metadata.csv").exists():
        kind, label_space, raws = "published", "published", list(_published(source / "metadata.csv"))
    else:
        tables = [name for name in KAGGLE if (source / name).exists()]
        if not tables:
            raise UserError(f"{source} has neither metadata.csv nor Kaggle's train.csv: {DOWNLOAD}")
        missing = [name for name in KAGGLE if name not in tables]
        if missing:
            notes.append(f"{', '.join(missing)} not found: the sites listed there are not read.")
        kind, (raws, label_space) = (
            "kaggle",
            _kaggle_labels([raw for name in tables for raw in _kaggle(source / name)]),
        )
    if label_space != "published":
        notes.append(
            "the labels are those of Kaggle's relaunch (sirna_N is N, UNTREATED is 1138), NOT the published "
            "ones: do not mix them with other copies of RxRx1, or add the published metadata.csv to it."
        )
    rows, set_aside = _check(raws, kinds, classes, check_ranges=label_space == "published")
    unknown = sum(row["perturbation_id"] == UNKNOWN for row in rows)
    if unknown:
        notes.append(f"{unknown:,} sites have no label (perturbation_id {UNKNOWN}): the source withholds it.")
    return Metadata(rows, set_aside, kind, label_space, notes)


def _table(path: pathlib.Path, required: tuple[str, ...]) -> Iterator[tuple[dict[str, int], list[str], str]]:
    """Yields (position by column, stripped fields, 'NAME line N') of each row; quotes, BOM, CRLF are fine."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file)
        try:
            header = [name.strip() for name in next(reader, [])]
            missing = [name for name in required if name not in header]
            if missing:
                raise UserError(f"{path}: no column {', '.join(missing)}; the first line must name the columns")
            at = {name: i for i, name in enumerate(header)}
            for fields in reader:
                if fields:
                    yield at, [field.strip() for field in fields], f"{path.name} line {reader.line_num}"
        except (UnicodeDecodeError, csv.Error) as error:
            raise UserError(f"{path}: not a UTF-8 csv file ({error})") from error


def _broken(fields: list[str], at: dict[str, int], where: str) -> Raw:
    """A row of the wrong length: a name to report it by is all that it is good for."""
    return Raw(fields[0], *[""] * 10, where, f"{len(fields)} fields in place of {len(at)}")


def _published(path: pathlib.Path) -> Iterator[Raw]:
    for at, fields, where in _table(path, COLUMNS):
        if len(fields) == len(at):
            yield Raw(*(fields[at[name]] for name in COLUMNS), where)
        else:
            yield _broken(fields, at, where)


def _kaggle(path: pathlib.Path) -> Iterator[Raw]:
    """Yields sites 1 and 2 of every well; the label stands in sirna_id as it is in the table."""
    dataset = path.name.split("_")[0].removesuffix(".csv")
    for at, fields, where in _table(path, KAGGLE_COLUMNS):
        if len(fields) != len(at):
            yield _broken(fields, at, where)
            continue
        id_code, experiment, plate, well = (fields[at[name]] for name in KAGGLE_COLUMNS)
        well_type = fields[at["well_type"]] if "well_type" in at else "treatment"
        label = fields[at["sirna"]] if "sirna" in at else ""
        cell_type = experiment.rpartition("-")[0]
        for site in "12":
            site_id = f"{id_code}_{site}" if id_code else ""
            yield Raw(site_id, id_code, cell_type, dataset, experiment, plate, well, site,
                      well_type, "", label, where)  # fmt: skip


def _kaggle_labels(raws: list[Raw]) -> tuple[list[Raw], str]:
    """Turns sirna_N and UNTREATED into integers; returns the rows and which label space they are in."""
    strings = {raw.sirna_id for raw in raws if re.fullmatch(r"sirna_\d+|UNTREATED", raw.sirna_id)}
    if not strings:
        return raws, "published"
    mixed = next((raw for raw in raws if _integer(raw.sirna_id) is not None), None)
    if mixed:
        raise UserError(
            f"{mixed.where}: label {mixed.sirna_id} is an integer and {min(strings)} elsewhere is not: "
            "the tables are of two releases of the competition, use one"
        )
    ids = {label: label.removeprefix("sirna_") for label in strings} | {"UNTREATED": str(UNTREATED_ID)}
    return [raw._replace(sirna=raw.sirna_id, sirna_id=ids[raw.sirna_id]) if raw.sirna_id in ids else raw
            for raw in raws], "kaggle-relaunch"  # fmt: skip


def _check(raws: list[Raw], kinds: dict[str, str], classes: int, check_ranges: bool):
    """Returns (rows, set aside): the rows that are complete, consistent and there once."""
    first: dict[str, dict | str] = {}  # site_id -> its row, or why it has none
    copies: dict[str, list[SetAside]] = {}  # site_id -> the copies after the first
    torn: set[str] = set()  # sites whose copies disagree
    set_aside: list[SetAside] = []
    for raw in raws:
        identity = _identity(raw)
        if isinstance(identity, str):
            name = raw.site_id or raw.where
            set_aside.append(SetAside(name, identity))
            continue
        split = splits.split_of(kinds, identity["experiment"], identity["site"])
        row = _row(raw, identity, split, classes, check_ranges)
        site_id = identity["site_id"]
        if site_id not in first:
            first[site_id] = row
            continue
        copy = SetAside(site_id, f"duplicate row ({raw.where})", identity["experiment"], split)
        copies.setdefault(site_id, []).append(copy)
        if row != first[site_id]:
            torn.add(site_id)
    rows = []
    for site_id, row in first.items():
        if isinstance(row, dict) and site_id not in torn:
            rows.append(row)
            set_aside += copies.get(site_id, [])
            continue
        experiment, _, _, site = site_id.rsplit("_", 3)
        split = splits.split_of(kinds, experiment, int(site))
        reason = f"{1 + len(copies[site_id])} rows that disagree" if site_id in torn else row
        set_aside += [SetAside(site_id, reason, experiment, split)] * (1 + len(copies.get(site_id, [])))
    return rows, set_aside


def _identity(raw: Raw) -> dict[str, Any] | str:
    """Returns the fields that name a site, or why the row names none."""
    if raw.problem:
        return f"{raw.problem} ({raw.where})"
    for name in ("site_id", "well_id", "experiment", "plate", "well", "site"):
        if not getattr(raw, name):
            return f"blank {name} ({raw.where})"
    experiment, plate, site = _canonical(raw.experiment), _integer(raw.plate), _integer(raw.site)
    if not plate or not site:
        name = "site" if plate else "plate"
        return f"{name} {getattr(raw, name)!r} is not a positive integer ({raw.where})"
    if not re.fullmatch(r"[A-Z]{1,2}\d\d", raw.well):
        return f"well {raw.well!r} is not a letter and two digits ({raw.where})"
    well_id = f"{experiment}_{plate}_{raw.well}"
    for name, expected, parts in (("well_id", well_id, 2), ("site_id", f"{well_id}_{site}", 3)):
        given = getattr(raw, name).rsplit("_", parts)
        if "_".join([_canonical(given[0]), *given[1:]]) != expected:
            return f"{name} {getattr(raw, name)} does not match its other columns, {expected} ({raw.where})"
    return {"site_id": f"{well_id}_{site}", "well_id": well_id, "experiment": experiment, "plate": plate,
            "well": raw.well, "site": site}  # fmt: skip


def _row(raw: Raw, identity: dict, split: str, classes: int, check_ranges: bool) -> dict[str, Any] | str:
    """Returns the site row, or why it cannot be used."""
    if not raw.cell_type:
        return f"blank cell_type ({raw.where})"
    if raw.well_type not in CLASS_RANGES:
        return f"well_type {raw.well_type!r} is not one of {', '.join(CLASS_RANGES)} ({raw.where})"
    if raw.dataset not in ("train", "test"):
        return f"dataset {raw.dataset!r} is not train or test ({raw.where})"
    label = _integer(raw.sirna_id)
    if not raw.sirna_id and not raw.sirna and raw.dataset == "test" and raw.well_type == "treatment":
        label = UNKNOWN  # test treatments are published without a label in some releases
    elif not raw.sirna_id:
        return f"blank label ({raw.where})"
    elif label is None or label >= classes:
        return f"label {raw.sirna_id} is not in 0..{classes - 1} ({raw.where})"
    elif check_ranges and identity["experiment"] in splits.WILDS and label not in CLASS_RANGES[raw.well_type]:
        return f"label {label} is not one of a {raw.well_type} ({raw.where})"
    return {**identity, "cell_type": raw.cell_type, "well_type": raw.well_type, "perturbation": raw.sirna,
            "perturbation_id": label, "split": split}  # fmt: skip


_canonical = functools.lru_cache(None)(splits.canonical)


@functools.lru_cache(None)
def _integer(text: str) -> int | None:
    """Returns the integer that '12' or '12.0' (as pandas writes it) says; None if it is neither."""
    return int(float(text)) if re.fullmatch(r"\d{1,6}(\.0+)?", text, re.ASCII) else None
