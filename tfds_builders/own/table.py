"""The table of a user's own plates: finds its columns and turns its rows into site rows.

Names of experiments and plates are text and stay as they are. A row that cannot be trusted is set aside with a reason;
only what concerns the whole file is an error.
"""

import collections
import dataclasses
import functools
import pathlib
import re
from collections.abc import Iterator
from typing import Any

from rxrx_jax.base.errors import UserError, shortened
from rxrx_jax.base.spellings import NEGATIVE_CONTROL, SPAN, UNSPECIFIED, canonical_well, is_missing
from tfds_builders.common.rows import splits, tables, treatments
from tfds_builders.common.types import SetAside, Table
from tfds_builders.own.source import Found
from tfds_builders.own.spec import Spec

# Columns found by themselves, the first that is there: as pycytominer, JUMP and others call them, without Metadata_,
# capitals and underlines.
KNOWN = {
    "experiment": ("experiment", "batch", "batchid", "experimentid", "experimentname"),
    "plate": ("plate", "platebarcode", "assayplatebarcode", "barcode", "plateid", "platename"),
    "well": ("well", "wellposition", "wellid", "wellname"),
    "site": ("site", "field", "fieldid", "fov"),
    "perturbation": ("perturbation", "jcp2022", "broadsample", "treatment", "compound", "pertiname", "gene"),
    "cell_type": ("celltype", "cellline", "cell", "cells"),
}
ROW, COLUMN = ("row", "wellrow"), ("column", "col", "wellcolumn", "wellcol")  # in place of a well
NEEDED = ("experiment", "plate", "well")
VALUES_SHOWN = 5  # of a column, those of most rows
NO_SPLITS = (
    "Without splits.csv and --held-out no experiment is held out: every site is in train. To score across batches, "
    "prepare with --held-out=EXPERIMENT,... or --splits=FILE (columns experiment,split)."
)


@dataclasses.dataclass(frozen=True)
class Columns:
    """The column of each of KNOWN, '' where the table has none; a well may be 'ROW,COLUMN', two of them."""

    experiment: str
    plate: str
    well: str
    site: str
    perturbation: str
    cell_type: str

    def required(self) -> tuple[str, ...]:
        """Returns the columns that the table must have; the first names a broken row."""
        names = (self.plate, self.experiment, *self.well.split(","), self.site, self.perturbation, self.cell_type)
        return tuple(dict.fromkeys(filter(None, names)))


def columns(path: pathlib.Path, spec: Spec) -> Columns:
    """Finds the columns of a table. UserError for one that is needed or that an option names, and that is missing."""
    names = tables.header(path, ())
    plain = lambda name: re.sub(r"[_ .-]", "", name.lower().removeprefix("metadata_"))  # noqa: E731
    by_plain: dict[str, str] = {}
    for name in sorted(names, key=lambda name: not name.startswith("Metadata_")):  # those first
        by_plain.setdefault(plain(name), name)
    first = lambda known: next((by_plain[name] for name in known if name in by_plain), "")  # noqa: E731
    found = {key: getattr(spec, key) or first(known) for key, known in KNOWN.items()}
    if not found["well"] and first(ROW) and first(COLUMN):
        found["well"] = f"{first(ROW)},{first(COLUMN)}"
    shown = ", ".join(map(shortened, names[:20])) + (", ..." if len(names) > 20 else "")
    for key in NEEDED:
        if not found[key]:
            option = f"--{key}=COLUMN" + (" or --well=ROW,COLUMN" if key == "well" else "")
            raise UserError(f"{path}: no column is known to say the {key}: name it with {option}; it has {shown}")
    chosen = [column for column, _ in spec.controls()]
    for key, name in [*found.items(), *(("negative-control", name) for name in chosen)]:
        for one in filter(None, name.split(",")):
            if names.count(one) != 1:
                what = "no column" if one not in names else f"{names.count(one)} columns"
                raise UserError(f"{path}: --{key.replace('_', '-')}: {what} {one}; it has {shown}")
    return Columns(**found)


def experiments(path: pathlib.Path, found: Columns) -> dict[str, str]:
    """Returns plate -> experiment of a table; '' for a plate that is in several experiments."""
    of: dict[str, set[str]] = collections.defaultdict(set)
    for line in tables.read(path, found.required()):
        if not line.problem and line.cells[found.plate] and line.cells[found.experiment]:
            of[line.cells[found.plate]].add(line.cells[found.experiment])
    pairs = {(one, plate) for plate, several in of.items() for one in several}
    joined = collections.Counter(map("_".join, pairs))
    if twice := [name for name, number in joined.items() if number > 1]:
        name = shortened(twice[0])
        raise UserError(f"{path}: two plates would have the name EXPERIMENT_PLATE {name}: rename one of them")
    return {plate: min(several) if len(several) == 1 else "" for plate, several in of.items()}


def check_controls(path: pathlib.Path, spec: Spec) -> None:
    """Raises UserError for a --negative-control that is of no row."""
    controls = spec.controls()
    if not controls:
        return
    columns = tuple(dict.fromkeys(column for column, _ in controls))
    counts = {column: collections.Counter() for column in columns}
    for line in tables.read(path, columns):
        for column in columns if not line.problem else ():
            counts[column][line.cells[column]] += 1
    for text, (column, value) in zip(spec.negative_control, controls, strict=True):
        if not counts[column][value]:
            shown = [f"{shortened(name)!r} ({rows:,})" for name, rows in counts[column].most_common(VALUES_SHOWN)]
            shown += ["..."] * (len(counts[column]) > VALUES_SHOWN)
            has = ", ".join(shown) or "no usable row"
            raise UserError(f"{path}: --negative-control={text}: no row has it; {column} has {has}")


def kinds(path: pathlib.Path, found: Columns, spec: Spec, source: pathlib.Path) -> dict[str, str] | None:
    """Returns train, val or test by experiment; None where nothing is held out."""
    split_path = spec.splits_table(source)
    if not spec.held_out and split_path is None:
        return None
    known = {line.cells[found.experiment] for line in tables.read(path, found.required()) if not line.problem}
    known.discard("")
    of = splits.read(split_path, str) if split_path else dict.fromkeys(spec.held_out, "test")
    names = ", ".join(map(shortened, sorted(known)[:20]))
    option = f"{split_path.name}" if split_path else "--held-out"
    if unknown := [name for name in of if name not in known]:
        raise UserError(f"{option}: no experiment is called {shortened(unknown[0])}; {path.name} has {names}")
    if split_path is None:
        of = dict.fromkeys(known, "train") | of
    if "train" not in of.values():
        raise UserError(f"{option}: no experiment is left to train on; {path.name} has {names}")
    return of


def read(path: pathlib.Path, found: Columns, spec: Spec, of: dict[str, str] | None, files: Found) -> Table:
    """Returns the table; its rows stream.

    Args:
      path: the csv file.
      found: its columns.
      spec: what the user says.
      of: split by experiment.
      files: what is on disk: without a column of sites a row stands for every site of its well.
    """
    split_path = spec.splits_table(files.tree.root)
    by = "nothing: all train" if of is None else "--held-out" if split_path is None else split_path.name
    facts = {
        "source": str(files.tree.root),
        "source_kind": "own plates",
        "label_space": "names in order, numbered by the builder",
        "split_by": by,
        "columns": {key: name for key, name in dataclasses.asdict(found).items() if name},
    }
    notes = [NO_SPLITS] if of is None else []
    if files.left:
        facts["channels_left"] = dict(sorted(files.left.items()))
        left = ", ".join(f"{key} ({number:,})" for key, number in facts["channels_left"].items())
        notes.append(f"{files.left.total():,} files are of channels that --channels does not name, and left: {left}.")
    table = Table((), facts, notes)
    split_of = functools.partial(splits.by_experiment, of)
    table.rows = _rows(tables.read(path, found.required()), found, spec, split_of, files, table)
    return table


def _rows(lines, found: Columns, spec: Spec, split_of, files: Found, table: Table) -> Iterator[dict | SetAside]:
    controls = spec.controls()
    unlabelled = collections.Counter()
    for line in lines:
        place = line.problem or _place(line.cells, found)
        if isinstance(place, str):
            yield SetAside(line.name or line.where, f"{place} ({line.where})")
            continue
        experiment, plate, well = place["experiment"], place["plate"], place["well"]
        well_id, split = f"{experiment}_{plate}_{well}", split_of(experiment, 1)
        there = files.sites.get((experiment, plate), {})
        sites = [place["site"]] if found.site else sorted(site for one, site in there if one == well)
        if not sites:
            yield SetAside(well_id, f"no image files of this well ({line.where})", experiment, split)
        fields = _describe(line.cells, found, controls)
        for site in sites:
            if fields["perturbation_id"] == -1:
                unlabelled[line.cells.get(found.perturbation, "")] += 1
            yield {"site_id": f"{well_id}_{site}", "well_id": well_id, **place, "site": site, **fields, "split": split,
                   "original": line.original, "where": line.where}  # fmt: skip
    if unlabelled:
        spelled = ", ".join(f"{text!r} {number:,}" for text, number in sorted(unlabelled.items()))
        table.notes.append(
            f"{unlabelled.total():,} sites have no label (perturbation_id -1): "
            + (f"{found.perturbation} is {spelled}." if found.perturbation else "no column says the perturbation.")
        )


def _place(cells: dict[str, str], found: Columns) -> dict[str, Any] | str:
    """Returns experiment, plate, well, site and cell type of a row, or why it names none."""
    for column in found.required():
        if not cells[column] and column not in (found.perturbation, found.cell_type):
            return f"blank {column}"
    for key in ("experiment", "plate"):
        name = cells[getattr(found, key)]
        if not tables.EXPERIMENT.fullmatch(name):
            return (
                f"{getattr(found, key)} {name[:100]!r} is not a name of letters, digits, spaces, dots, + and - "
                "that can be part of a file's name"
            )
    text = ",".join(cells[column] for column in found.well.split(","))
    well = canonical_well(text)
    if well is None:
        return f"{found.well} {text[:100]!r} is not a well of {SPAN}"
    site = tables.integer(cells[found.site]) if found.site else 1
    if site is None:
        return f"{found.site} {cells[found.site][:100]!r} is not a number of zero or more"
    cell_type = cells[found.cell_type] if found.cell_type else ""
    return {
        "experiment": cells[found.experiment],
        "plate": cells[found.plate],
        "well": well,
        "site": site,
        "cell_type": UNSPECIFIED if is_missing(cell_type) else cell_type,
    }


def _describe(cells: dict[str, str], found: Columns, controls: list[tuple[str, str]]) -> dict[str, Any]:
    """Returns well_type, perturbation and its id: None for the builder to number it, -1 where the row names none.

    What is a control is looked at first, for 'None' or an empty cell may be how a table names its controls."""
    name = cells[found.perturbation] if found.perturbation else ""
    missing = is_missing(name)
    if any(cells[column] == value for column, value in controls):
        name = treatments.UNTREATED if missing else name
        return {"well_type": NEGATIVE_CONTROL, "perturbation": name, "perturbation_id": None}
    if missing:
        return {"well_type": "treatment", "perturbation": "", "perturbation_id": -1}
    return {"well_type": "treatment", "perturbation": name, "perturbation_id": None}
