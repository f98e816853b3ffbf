"""A csv file of SMILES, with targets and splits or without, to rows; what a row lacks is named, and is not fatal."""

import csv
import dataclasses
import math
import pathlib

import numpy as np

from rxrx_jax.base.errors import UserError, shortened
from rxrx_jax.base.spellings import is_missing
from rxrx_jax.molecules.split import SPLITS, TEST, TRAIN, VALIDATION
from tfds_builders.common.rows import lines

SMILES = ("smiles", "canonical_smiles", "cxsmiles", "drug", "structure", "mol")  # columns, in any case: the first there
ALL = "*"
SPELLINGS = dict.fromkeys(("train", "training"), TRAIN) | dict.fromkeys(("test", "testing"), TEST)
SPELLINGS |= dict.fromkeys(("validation", "valid", "val"), VALIDATION)


@dataclasses.dataclass
class Table:
    """The rows of a source, by their number from 0: the first after the header is row 0.

    smiles: of every row, as it is written there; "" where it is missing.
    targets, kinds: their names, and "classification" (0 or 1) or "regression" of each.
    values: float32 [rows, targets], NaN where missing.
    splits: of every row, or None where no column says it.
    bad: row -> why it is set aside, before its SMILES is read.
    notes: what a user should know, a sentence each.
    """

    smiles: list[str]
    targets: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    values: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros((0, 0), np.float32))
    splits: list[str] | None = None
    bad: dict[int, str] = dataclasses.field(default_factory=dict)
    notes: list[str] = dataclasses.field(default_factory=list)


def read(path: pathlib.Path, smiles: str = "", targets: tuple[str, ...] = (), split: str = "") -> Table:
    """Reads a csv file, plain or gzipped; its columns are parted by commas, semicolons or tabs.

    Args:
      path: the file.
      smiles: the column of SMILES; "" finds it by its name.
      targets: columns of numbers; ("*",) takes every other column that holds nothing else.
      split: the column that says train, validation or test; "" where there is none.

    Raises UserError for a file that is no such table, and for a column that it has not got.
    """
    try:
        header, body = _rows(path)
    except csv.Error as error:
        raise UserError(f"{path}: not a csv file ({error})") from error
    if twice := next((name for i, name in enumerate(header) if name in header[:i]), None):
        raise UserError(f"{path}: two columns are called {twice!r}: rename one")
    smiles = smiles or next((name for wanted in SMILES for name in header if name.lower() == wanted), "")
    if not smiles:
        raise UserError(f"{path}: no column is called smiles; name it with --smiles=COLUMN, one of {_names(header)}")
    wanted = [name for name in targets if name != ALL]
    for flag, names in (("smiles", [smiles]), ("targets", wanted), ("split", [split] if split else [])):
        if missing := [name for name in names if name not in header]:
            raise UserError(f"{path} has no column {missing[0]!r} (--{flag}); it has {_names(header)}")
    if used := [name for name in wanted if name in (smiles, split)]:
        raise UserError(f"{path}: --targets={used[0]} is the column of SMILES or of splits")
    found = Table([])
    for row, cells in enumerate(body):
        if len(cells) != len(header):
            found.bad[row] = f"{len(cells)} cells in place of {len(header)}"
            cells[:] = [*cells, *[""] * len(header)][: len(header)]
    at = header.index(smiles)
    found.smiles = ["" if is_missing(cells[at].strip()) else cells[at].strip() for cells in body]
    if split:
        _read_splits(found, [cells[header.index(split)].strip() for cells in body], split)
    names = wanted
    if ALL in targets:
        names = [name for name in header if name not in (smiles, split)]
    _read_targets(found, body, header, names, skip=ALL in targets)
    return found


def _rows(path: pathlib.Path) -> tuple[list[str], list[list[str]]]:
    text = lines.read(path)
    first = next(text, "")
    if not first.strip():
        raise UserError(f"{path} is empty")
    delimiter = max(",;\t", key=first.count)
    (header,) = csv.reader([first], delimiter=delimiter, strict=True)
    header = [name.strip() for name in header]
    body = list(csv.reader(text, delimiter=delimiter, strict=True))
    if len(header) > 1:
        body = [cells for cells in body if cells]  # no blank lines, as other readers of tables
    return header, [cells or [""] for cells in body]


def _names(header: list[str]) -> str:
    shown = ", ".join(map(shortened, header[:20]))
    return f"{shown} and {len(header) - 20} more" if len(header) > 20 else shown


def _read_splits(found: Table, cells: list[str], column: str) -> None:
    found.splits = [SPELLINGS.get(cell.lower(), "") for cell in cells]
    for row, (name, cell) in enumerate(zip(found.splits, cells)):
        if not name:
            found.bad.setdefault(row, f"{column} is {shortened(cell)!r} and not {', '.join(SPLITS[:-1])} or {TEST}")


def _read_targets(found: Table, body: list[list[str]], header: list[str], names: list[str], skip: bool) -> None:
    """Args: skip, leave out columns that hold something else than numbers or nothing at all."""
    columns = [header.index(name) for name in names]
    values = np.full((len(body), len(names)), np.nan, np.float32)
    wrong: dict[int, list[tuple[int, str]]] = {}  # by target: (row, cell)
    for row, cells in enumerate(body):
        for i, column in enumerate(columns):
            if cell := cells[column]:
                try:
                    values[row, i] = value = float(cell)
                except ValueError:
                    if not is_missing(cell.strip()):
                        wrong.setdefault(i, []).append((row, cell))
                else:
                    if math.isinf(value):
                        values[row, i] = np.nan
                        wrong.setdefault(i, []).append((row, cell))
    kept = [i for i in range(len(names)) if not skip or (i not in wrong and not np.isnan(values[:, i]).all())]
    for i in kept:
        if i in wrong:
            row, cell = wrong[i][0]
            found.notes.append(
                f"{len(wrong[i]):,} cells of {names[i]} are not finite numbers and count as missing, the first is "
                f"{shortened(cell, 40)!r} of row {row}"
            )
        known = np.unique(values[~np.isnan(values[:, i]), i])
        if len(known) < 2:
            few = "one value alone" if len(known) else "no value"
            found.notes.append(f"{names[i]} has {few}: no metric of it is defined that compares molecules")
    if skip and (left := [names[i] for i in range(len(names)) if i not in kept]):
        found.notes.append(f"{len(left):,} columns are no targets, as they do not hold numbers alone: {_names(left)}")
    found.values = np.ascontiguousarray(values[:, kept])
    found.targets = tuple(names[i] for i in kept)
    found.kinds = tuple("classification" if _binary(column) else "regression" for column in found.values.T)


def _binary(column: np.ndarray) -> bool:
    known = column[~np.isnan(column)]
    return bool(len(known)) and bool(np.isin(known, (0, 1)).all())
