"""Reads RxRx1's tables, as published (metadata.csv) or as Kaggle shipped them, into site rows.

A row that cannot be trusted is set aside with a reason; only what concerns a whole file is an error.
"""

import functools
import pathlib
import re
from collections.abc import Iterable, Iterator
from typing import Any

from rxrx_jax.base.errors import UserError
from rxrx_jax.base.spellings import NEGATIVE_CONTROL, POSITIVE_CONTROL, TREATMENT
from tfds_builders.common.rows import splits, tables
from tfds_builders.common.rows.tables import Line
from tfds_builders.common.types import SetAside, Table
from tfds_builders.rxrx.rxrx1 import design

URL = "https://storage.googleapis.com/rxrx/rxrx1/"
DOWNLOAD = (
    "python -m tfds_builders.download rxrx1 --to=DIR fetches it (47 GB). By hand: download rxrx1-images.zip and "
    f"rxrx1-metadata.zip from https://www.rxrx.ai/rxrx1#Download (believed to be {URL}rxrx1-images.zip and "
    f"{URL}rxrx1-metadata.zip) and unzip both so that DIR holds metadata.csv and images/. "
    "Then run: python -m tfds_builders.prepare rxrx1 --source=DIR"
)
COLUMNS = ("site_id", "well_id", "cell_type", "dataset", "experiment", "plate", "well", "site", "well_type",
           "sirna", "sirna_id")  # fmt: skip
KAGGLE = ("train.csv", "train_controls.csv", "test.csv", "test_controls.csv")
KAGGLE_COLUMNS = ("id_code", "experiment", "plate", "well")
UNTREATED_ID = 1138
CLASS_RANGES = {
    TREATMENT: range(1108),
    POSITIVE_CONTROL: range(1108, 1138),
    NEGATIVE_CONTROL: range(1138, 1139),
}
UNKNOWN = -1  # perturbation_id of a site whose label the source withholds


def read(source: pathlib.Path | None, classes: int = UNTREATED_ID + 1) -> Table:
    """Reads metadata.csv if it is there, else Kaggle's four tables; the rows stream.

    Args:
      source: the folder with the tables, and splits.csv if there is one.
      classes: number of perturbation ids; an id outside 0..classes-1 sets the site aside.
    """
    source = tables.check_folder(source, "rxrx1", DOWNLOAD)
    kinds = splits.read_file(source)
    notes = []
    if (source / "metadata.csv").is_file():
        kind, label_space, lines = "published", "published", tables.read(source / "metadata.csv", COLUMNS)
        tables.header(source / "metadata.csv", COLUMNS)  # an error now, not when the rows are read
    else:
        found = [source / name for name in KAGGLE if (source / name).exists()]
        if not found:
            nearby = tables.hint(source, ("metadata.csv", "train.csv"))
            raise UserError(f"{source} has neither metadata.csv nor Kaggle's train.csv{nearby}: {DOWNLOAD}")
        missing = [name for name in KAGGLE if source / name not in found]
        if missing:
            notes.append(f"{', '.join(missing)} not found: the sites listed there are not read.")
        kind, (label_space, lines) = "kaggle", _kaggle_tables(found)
    if label_space != "published":
        notes.append(
            "the labels are those of Kaggle's relaunch (sirna_N is N, UNTREATED is 1138), NOT the published "
            "ones: do not mix them with other copies of RxRx1, or add the published metadata.csv to it."
        )
    facts = {
        "source": str(source),
        "source_kind": kind,
        "label_space": label_space,
        "split_by": "WILDS rxrx1_v1.0" if kinds is None else "splits.csv of the source",
    }
    table = Table((), facts, notes, classes)
    split_of = functools.partial(splits.by_site, splits.WILDS if kinds is None else kinds)
    describe = functools.partial(_describe, classes, label_space == "published")
    lines = tables.blanked(lines, ("sirna", "sirna_id"), notes)
    table.rows = examined(tables.sites(lines, tables.SITE_COLUMNS, tables.WELLS_384, split_of, describe), table)
    return table


def examined(rows: Iterable[dict | SetAside], table: Table) -> Iterator[dict | SetAside]:
    """Passes the rows on, then adds to the table what only all of them determine."""
    layouts: design.Layouts = {}
    held_out: dict[str, bool] = {}
    unknown = 0
    for row in rows:
        if isinstance(row, dict):
            unknown += row["perturbation_id"] == UNKNOWN
            if row["experiment"] in splits.WILDS:  # another tree, such as a simulated one, has a design of its own
                design.add(layouts, row)
                held_out[row["experiment"]] = row["split"] in ("val", "test")
        yield row
    if unknown:
        table.notes.append(f"{unknown:,} sites have no label (perturbation_id {UNKNOWN}): the source withholds it.")
    deviations = [sentence for name in sorted(layouts) for sentence in design.deviations(name, layouts[name])]
    if deviations:
        table.facts["design_deviations"] = deviations
        table.notes.append(
            f"{len(deviations)} of {len(layouts)} experiments deviate from the published design (missing wells, "
            "treatments or controls): design_deviations in metadata.json names them."
        )
    table.notes += design.leaks(layouts, {name for name, held in held_out.items() if held})


def _kaggle_tables(paths: list[pathlib.Path]) -> tuple[str, Iterator[Line]]:
    """Returns which label space the tables are in and their sites, in the published columns."""
    strings, integers = {}, {}  # label -> where it was first seen
    for path in paths:
        for line in tables.read(path, KAGGLE_COLUMNS):
            label = line.cells.get("sirna", "")
            if re.fullmatch(r"sirna_\d+|UNTREATED", label):
                strings.setdefault(label, line.where)
            elif tables.integer(label) is not None:
                integers.setdefault(label, line.where)
    if strings and integers:
        label, where = next(iter(integers.items()))
        raise UserError(
            f"{where}: label {label} is an integer and {min(strings)} elsewhere is not: "
            "the tables are of two releases of the competition, use one"
        )
    return "kaggle-relaunch" if strings else "published", (line for path in paths for line in _kaggle(path))


def _kaggle(path: pathlib.Path) -> Iterator[Line]:
    """Yields sites 1 and 2 of every well."""
    dataset = path.name.split("_")[0].removesuffix(".csv")
    for line in tables.read(path, KAGGLE_COLUMNS):
        if line.problem:
            yield line
            continue
        cells = line.cells
        label = cells.get("sirna", "")
        is_string = bool(re.fullmatch(r"sirna_\d+|UNTREATED", label))
        number = str(UNTREATED_ID) if label == "UNTREATED" else label.removeprefix("sirna_")
        for site in "12":
            site_id = f"{cells['id_code']}_{site}" if cells["id_code"] else ""
            published = {
                **{name: cells[name] for name in KAGGLE_COLUMNS[1:]},
                "site_id": site_id,
                "well_id": cells["id_code"],
                "cell_type": cells["experiment"].rpartition("-")[0],
                "dataset": dataset,
                "site": site,
                "well_type": cells.get("well_type", TREATMENT),
                "sirna": label if is_string else "",
                "sirna_id": number if is_string else label,
            }
            yield Line(line.where, site_id, published, line.original)


def _describe(classes: int, check_ranges: bool, cells: dict[str, str], site: dict[str, Any]) -> dict[str, Any] | str:
    well_type, dataset, text = cells["well_type"], cells["dataset"], cells["sirna_id"]
    if well_type not in CLASS_RANGES:
        return f"well_type {well_type!r} is not one of {', '.join(CLASS_RANGES)}"
    if dataset not in ("train", "test"):
        return f"dataset {dataset!r} is not train or test"
    if site["experiment"] in splits.WILDS and cells["cell_type"] != site["experiment"].rpartition("-")[0]:
        return f"cell_type {cells['cell_type']!r} is not that of experiment {site['experiment']}"
    label = tables.integer(text)
    if not text and not cells["sirna"] and dataset == "test" and well_type == TREATMENT:
        label = UNKNOWN  # test treatments are published without a label in some releases
    elif not text:
        return "blank label"
    elif label is None or label >= classes:
        return f"label {text} is not in 0..{classes - 1}"
    elif check_ranges and site["experiment"] in splits.WILDS and label not in CLASS_RANGES[well_type]:
        return f"label {label} is not one of a {well_type}"
    return {"well_type": well_type, "perturbation": cells["sirna"], "perturbation_id": label}
