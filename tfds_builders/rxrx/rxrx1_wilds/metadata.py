"""Reads the metadata.csv of WILDS' rxrx1_v1.0 (Koh et al. 2021, arXiv 2012.07421) into site rows.

The columns that wilds/datasets/rxrx1_dataset.py reads are required: it is in `dataset` that the table says train, val
or test of a site's experiment, and of the training experiments site 1 is trained on and the others are `id_test`.
"""

import collections
import functools
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any

from rxrx_jax.base.errors import UserError
from tfds_builders.common.rows import splits, tables
from tfds_builders.common.types import SetAside, Table
from tfds_builders.rxrx.rxrx1.metadata import CLASS_RANGES, UNTREATED_ID, examined

ARCHIVE = "https://worksheets.codalab.org/rest/bundles/0x6b7a05a3056a434498f0bb1252eb8440/contents/blob/"
DOWNLOAD = (
    "`pip install wilds` and `wilds.get_dataset('rxrx1', root_dir='data', download=True)` fetch it (7.4 GB) into "
    f"DIR = data/rxrx1_v1.0; by hand: unpack {ARCHIVE} (tar.gz) so that DIR holds metadata.csv and images/. "
    "Then run: python -m tfds_builders.prepare rxrx1_wilds --source=DIR"
)
COLUMNS = ("experiment", "plate", "well", "site", "cell_type", "dataset", "sirna_id")
SITE_COLUMNS = {name: name for name in COLUMNS[:4]}
SITES = {"train": 40_612, "id_test": 40_612, "val": 9_854, "test": 34_432}  # published


def read(source: pathlib.Path | None) -> Table:
    """Reads metadata.csv; the rows stream. A splits.csv beside it is used in place of its column `dataset`.

    Raises UserError where the table puts an experiment of RxRx1 into another split than WILDS does."""
    source = tables.check_folder(source, "rxrx1_wilds", DOWNLOAD)
    path = tables.find(source, ("metadata.csv",), DOWNLOAD)
    tables.header(path, COLUMNS)  # an error now, not when the rows are read
    own = splits.read_file(source)
    kinds = kinds_of(path)
    facts = {
        "source": str(source),
        "source_kind": "WILDS rxrx1_v1.0",
        "label_space": "published",
        "split_by": "metadata.csv (WILDS rxrx1_v1.0)" if own is None else "splits.csv of the source",
    }
    table = Table((), facts, [], UNTREATED_ID + 1)
    split_of = functools.partial(splits.by_site, own) if own else functools.partial(_split, kinds)
    describe = functools.partial(_describe, kinds)
    lines = tables.read(path, COLUMNS)
    rows = tables.sites(lines, SITE_COLUMNS, tables.WELLS_384, split_of, describe)
    table.rows = examined(rows if own else _counted(rows, table), table)
    return table


def kinds_of(path: pathlib.Path) -> dict[str, str]:
    """Returns train, val or test by experiment: what most of its rows say."""
    votes: dict[str, collections.Counter[str]] = {}
    for line in tables.read(path, COLUMNS):
        if not line.problem and line.cells["dataset"] in splits.KINDS:
            counts = votes.setdefault(tables.canonical(line.cells["experiment"]), collections.Counter())
            counts[line.cells["dataset"]] += 1
    kinds = {name: counts.most_common(1)[0][0] for name, counts in votes.items()}
    for name, kind in sorted(kinds.items()):
        if splits.WILDS.get(name, kind) != kind:
            raise UserError(
                f"{path}: {name} is {kind} there and {splits.WILDS[name]} in WILDS rxrx1_v1.0: give the folder of that "
                "version; Recursion's own release is the dataset rxrx1"
            )
    return kinds


def _split(kinds: dict[str, str], experiment: str, site: int) -> str:
    return splits.by_site(kinds, experiment, site) if experiment in kinds else ""  # `_describe` sets it aside


def _counted(rows: Iterable[dict | SetAside], table: Table) -> Iterator[dict | SetAside]:
    """Passes the rows on, then adds a note for every split of the whole that has not as many as published."""
    counts: collections.Counter[str] = collections.Counter()
    for row in rows:
        if isinstance(row, dict) and row["experiment"] in splits.WILDS:
            counts[row["split"]] += 1
        yield row
    different = [f"{name} {counts[name]:,} of {number:,}" for name, number in SITES.items() if counts[name] != number]
    if counts and different:
        table.notes.append(f"Sites in the table differ from the published numbers: {', '.join(different)}.")


def _describe(kinds: dict[str, str], cells: dict[str, str], site: dict[str, Any]) -> dict[str, Any] | str:
    dataset, label, experiment = cells["dataset"], tables.integer(cells["sirna_id"]), site["experiment"]
    if dataset not in splits.KINDS:
        return f"dataset {dataset!r} is not one of {', '.join(splits.KINDS)}"
    if dataset != kinds[experiment]:
        return f"dataset {dataset} is not that of the other sites of {experiment}, {kinds[experiment]}"
    if experiment in splits.WILDS and cells["cell_type"] != experiment.rpartition("-")[0]:
        return f"cell_type {cells['cell_type']!r} is not that of experiment {experiment}"
    if not cells["sirna_id"]:
        return "blank label"
    kind = next((name for name, labels in CLASS_RANGES.items() if label in labels), None)
    if kind is None:
        return f"label {cells['sirna_id']} is not in 0..{UNTREATED_ID}"
    if cells.get("well_type", kind) not in ("", kind):
        return f"label {label} is not one of a {cells['well_type']}"
    return {"well_type": kind, "perturbation": cells.get("sirna", ""), "perturbation_id": label}
