"""Reads the csv tables of every dataset: one reader, and the checks that all their rows share.

A row that cannot be trusted is set aside with a reason that names its line; only what concerns a whole file is
an error. Everything streams: RxRx3 has 2.2 million rows.
"""

import collections
import csv
import functools
import math
import pathlib
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from rxrx_jax.base import files
from rxrx_jax.base.errors import UserError
from rxrx_jax.base.spellings import COLUMNS, MISSING, ROWS, SPAN
from tfds_builders.common.rows.lines import read as read_lines
from tfds_builders.common.types import SetAside


class Wells(NamedTuple):
    """The wells of a kind of plate."""

    names: frozenset[str]
    span: str  # "A01..P24", for messages


WELLS_384 = Wells(frozenset(f"{row}{column:02d}" for row in ROWS[:16] for column in range(1, 25)), "A01..P24")
WELLS_1536 = Wells(frozenset(f"{row}{column:02d}" for row in ROWS for column in range(1, COLUMNS + 1)), SPAN)
# What names a site -> the column that holds it, as RxRx1, RxRx2, RxRx19a and RxRx19b call them.
SITE_COLUMNS = {name: name for name in ("site_id", "well_id", "experiment", "plate", "well", "site")}
# Names that are numbered with three digits (gene-001); all others have two (HUVEC-01).
THREE_DIGITS = ("gene", "compound")


class Line(NamedTuple):
    """A row of a table as text."""

    where: str  # "metadata.csv line 7"
    name: str  # what to report the row by
    cells: dict[str, str]  # column -> text without spaces around it
    original: dict[str, str]  # column -> text, untouched
    problem: str = ""  # why no cell of the row can be trusted


LONGEST = 32_767  # characters of a cell, as in a spreadsheet; Python's csv module reads no more than 131,072
LONGEST_REASON = 1_000  # it may quote cells
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")  # all but the tab
EXPERIMENT = re.compile(r"\w[\w .+-]{0,99}")  # it becomes part of file names


def check_folder(source: pathlib.Path | None, name: str, download: str) -> pathlib.Path:
    """Returns the source folder; UserError that says what to download if it is missing."""
    if source is None:
        raise UserError(f"{name} is built from downloaded files: {download}")
    if not source.is_dir():
        raise UserError(f"{source} is not a folder: {download}")
    return source


def find(source: pathlib.Path, names: Iterable[str], download: str) -> pathlib.Path:
    """Returns the one of these files that the source folder holds; UserError if it holds none or several."""
    found = [name for name in names if (source / name).is_file()]
    if len(found) > 1:
        raise UserError(f"{source} has both {' and '.join(found)}: keep one table there")
    if not found:
        raise UserError(f"{source} has no {' or '.join(names)}{hint(source, names)}: {download}")
    return source / found[0]


def hint(source: pathlib.Path, names: Iterable[str]) -> str:
    """Returns '' or the folder directly below that has one of the files: archives unpack into a folder of their own."""
    below = (folder for folder in sorted(source.iterdir()) if folder.is_dir())
    near = next((folder for folder in below if any((folder / name).is_file() for name in names)), None)
    return f" (there is one in {near}: use --source={near})" if near else ""


def header(path: pathlib.Path, required: Iterable[str]) -> list[str]:
    """Returns the names of the columns; UserError if a required one is missing or a name is there twice."""
    with files.reading(path, "give a csv file"):
        pass  # it is one: opening a pipe would wait for someone to write
    files.check_pointer(path)
    try:
        names = [name.strip() for name in _fields(next(read_lines(path), ""))]
    except csv.Error as error:
        raise UserError(f"{path}: not a UTF-8 csv file ({error})") from error
    missing = [name for name in required if name not in names]
    if (missing or len(names) == 1) and (other := separator(names)):
        raise UserError(f"{path}: its columns are separated by {other!r}: write it again with commas")
    if longer := [name for name in names if len(name) > LONGEST]:
        raise UserError(f"{path}: the name of a column has {len(longer[0]):,} characters: this is not a table of sites")
    if missing:
        raise UserError(f"{path}: no column {', '.join(missing)}; the first line must name {','.join(required)}")
    twice = [name for name in required if names.count(name) > 1]
    if twice:
        raise UserError(f"{path}: two columns {twice[0]}; keep one")
    return names


def separator(names: list[str]) -> str:
    """Returns what separates the columns of a table that was read as if commas did; '' if they do."""
    return next((mark for mark in ";\t|" if names and names[0].count(mark) > 1), "")


def read(path: pathlib.Path, required: tuple[str, ...]) -> Iterator[Line]:
    """Yields every row of a csv file; a BOM, CRLF, quotes, further columns and spaces around cells are fine.

    Args:
      path: a UTF-8 file, plain or gzipped, whose first line names the columns.
      required: columns that must be there; the first names a row that is broken.
    """
    names = header(path, required)
    first = names.index(required[0])
    for number, text in enumerate(read_lines(path), start=1):
        if number == 1 or not text.strip():
            continue
        where = f"{path.name} line {number}"
        # Each line by itself: a quotation mark that is never closed costs its own row, not those after it.
        try:
            fields = _fields(text)
        except csv.Error as error:
            yield Line(where, "", {}, {}, f"broken quotes ({error})")
            continue
        if problem := _problem(fields, names):
            name = fields[first].strip() if first < len(fields) else ""
            yield Line(where, CONTROL.sub("?", name[:100]), {}, {}, problem)
            continue
        original = dict(zip(names, fields))
        cells = {name: field.strip() for name, field in original.items()}
        yield Line(where, cells[required[0]], cells, original)


def _problem(fields: list[str], names: list[str]) -> str:
    """Why the fields of a row cannot be trusted, or are not read alike by all programs; '' if they can be used."""
    if len(fields) != len(names):
        return f"{len(fields)} fields in place of {len(names)}"
    longest = max(map(len, fields))
    if longest > LONGEST:
        return f"a field of {longest:,} characters"
    if any(map(CONTROL.search, fields)):
        return "a control character"
    return ""


def _fields(text: str) -> list[str]:
    return next(csv.reader((text,), strict=True, skipinitialspace=True), [])


def sites(
    lines: Iterable[Line],
    columns: dict[str, str],
    wells: Wells,
    split_of: Callable[[str, int], str],
    describe: Callable[[dict[str, str], dict[str, Any]], dict[str, Any] | str],
) -> Iterator[dict[str, Any] | SetAside]:
    """Yields the site rows of a table, and SetAside for those that cannot be trusted.

    Args:
      lines: of `read`.
      columns: what names a site -> the column that holds it, as SITE_COLUMNS; without 'site' every site is 1.
      wells: the wells that a plate of this dataset has.
      split_of: (experiment, site) -> split.
      describe: (cells, names of the site) -> the other keys of the row, or why it cannot be used.
    """
    for line in lines:
        site = line.problem or identify(line.cells, columns, wells)
        if isinstance(site, str):
            yield SetAside(line.name or line.where, f"{site[:LONGEST_REASON]} ({line.where})")
            continue
        split = split_of(site["experiment"], site["site"])
        fields = describe(line.cells, site) if line.cells["cell_type"] else "blank cell_type"
        if isinstance(fields, str):
            reason = f"{fields[:LONGEST_REASON]} ({line.where})"
            yield SetAside(site["site_id"], reason, site["experiment"], split)
            continue
        yield {**site, "cell_type": line.cells["cell_type"], **fields, "split": split,
               "original": line.original, "where": line.where}  # fmt: skip


def blanked(lines: Iterable[Line], columns: tuple[str, ...], notes: list[str]) -> Iterator[Line]:
    """Yields the lines with blanks for MISSING in these columns; afterwards adds to the notes how many there were."""
    counts: collections.Counter[tuple[str, str]] = collections.Counter()
    for line in lines:
        spelled = [key for key in columns if line.cells.get(key, "").lower() in MISSING]
        counts.update((key, line.cells[key]) for key in spelled)
        yield line._replace(cells=line.cells | dict.fromkeys(spelled, "")) if spelled else line
    if counts:
        found = [f"{key} {text!r} ({rows:,} row{'s' * (rows > 1)})" for (key, text), rows in sorted(counts.items())]
        notes.append(f"Read as blank, not as a name: {', '.join(found)}.")


def identify(cells: dict[str, str], columns: dict[str, str], wells: Wells) -> dict[str, Any] | str:
    """Returns what names a site, or why the row names none: its names must all say the same.

    The keys are site_id, well_id, experiment, plate, well and site, with the canonical name of the experiment.
    """
    for column in columns.values():
        if not cells[column]:
            return f"blank {column}"
    given = {key: cells[column] for key, column in columns.items()}
    experiment, plate, well = canonical(given["experiment"]), integer(given["plate"]), given["well"]
    site = integer(given["site"]) if "site" in given else 1
    if not EXPERIMENT.fullmatch(experiment):
        return f"{columns['experiment']} {experiment[:100]!r} is not a name of an experiment"
    if not plate or not site:
        key = "site" if plate else "plate"
        return f"{columns[key]} {given[key]!r} is not a positive integer"
    if well not in wells.names:
        return f"{columns['well']} {well!r} is not a well of {wells.span}"
    well_id = f"{experiment}_{plate}_{well}"
    names = {"site_id": f"{well_id}_{site}", "well_id": well_id}
    for key, parts in (("well_id", 2), ("site_id", 3)):
        if key in given:
            # The same experiment may be HUVEC-1 in one column and HUVEC-01 in another.
            start, *rest = given[key].rsplit("_", parts)
            if "_".join([canonical(start), *rest]) != names[key]:
                return f"{columns[key]} {given[key]} does not match its other columns, {names[key]}"
    return {**names, "experiment": experiment, "plate": plate, "well": well, "site": site}


@functools.lru_cache(None)
def canonical(experiment: str) -> str:
    """Returns the name of an experiment with the usual digits: HUVEC-1 is HUVEC-01, and gene-1 is gene-001."""
    match = re.fullmatch(r"(.+)-(\d+)", experiment, re.ASCII)
    return f"{match[1]}-{match[2].zfill(3 if match[1] in THREE_DIGITS else 2)}" if match else experiment


@functools.lru_cache(None)
def integer(text: str) -> int | None:
    """Returns the integer that '12' or '12.0' (as pandas writes it) says; None if it is neither."""
    return int(float(text)) if re.fullmatch(r"\d{1,6}(\.0+)?", text, re.ASCII) else None


@functools.lru_cache(4096)
def concentration(text: str) -> float | None:
    """Returns a concentration, NaN if the text is blank, None if it is not a number of zero or more."""
    if not text:
        return math.nan
    if not re.fullmatch(r"(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", text, re.ASCII):
        return None
    value = float(text)
    return value if math.isfinite(value) else None
