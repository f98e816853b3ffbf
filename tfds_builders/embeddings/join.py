"""Published embeddings joined with their dataset's table: a prepared folder that holds no image.

<out>/<name>_embeddings/default/<version>/ holds embeddings.parquet (as `rxrx_jax.base.embeddings` reads it; rows sorted
by split, experiment, plate, well, site, a row group per split and plate), metadata.json, set_aside.csv (site_id,
reason, experiment, split: rows of the table without a usable embedding) and unlisted.csv (embedding, file: embeddings
that no row of the table asks for; all are counted, the first UNLISTED_NAMED are named).

Embeddings named by well_id are of whole wells. Where the dataset has one site per well, that is the site's row.
Where it has several, a row is a well: site 0, site_id WELL_0, and in train if any of its sites is of a training
experiment, since the embedding has seen the training site.
"""

import collections
import contextlib
import csv
import json
import os
import pathlib
import shutil
import sqlite3
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import tqdm

from rxrx_jax.base import embeddings as embeddings_file
from rxrx_jax.base import files as base_files
from rxrx_jax.base.errors import UserError
from rxrx_jax.base.spellings import SPLITS
from tfds_builders.common import types
from tfds_builders.common.rows import plan as plan_lib
from tfds_builders.common.rows import tables
from tfds_builders.common.sources.files import printable
from tfds_builders.embeddings import vectors

UNLISTED_NAMED = 1000
COLUMNS = {name: int if name in ("plate", "site", "perturbation_id") else str for name in types.SITE_COLUMNS}
WHOLE_WELLS = (
    "The embeddings are of whole wells and the dataset has several sites per well: a row is a well (site 0), and all "
    "wells of training experiments are in train, so id_test is empty."
)
SCHEMA = """
create table vectors (position integer primary key, experiment text, plate integer, well text, site integer,
    reason text, id text, place text)
"""


class Copy(NamedTuple):
    """An embedding as published; a row of the table should have one."""

    position: int  # in the store
    reason: str  # why it cannot be used, "" if it can
    id: str
    place: str  # "embeddings.csv line 17"


class Store:
    """Embeddings on disk by plate: the values in a flat file, their names and places in a sqlite table."""

    def __init__(self, folder: pathlib.Path, blocks: Iterable[vectors.Block]):
        """Stores all rows of all blocks. A name that says no plate goes to experiment '', plate 0."""
        self.base = sqlite3.connect(folder / "vectors.sqlite")
        self.key, self.dim, self.size = "", 0, 0
        with contextlib.ExitStack() as stack:
            stack.callback(self.base.close)  # unless all goes well
            self._fill(folder / "vectors.float32", blocks)
            self.file = (folder / "vectors.float32").open("rb")
            stack.pop_all()

    def _fill(self, path: pathlib.Path, blocks: Iterable[vectors.Block]) -> None:
        self.base.execute(SCHEMA)
        with path.open("wb") as file, self.base:
            for block in blocks:
                self.key, self.dim = block.key, len(block.names)
                file.write(block.values.tobytes())
                rows = (
                    (self.size + i, *parse(block.key, name), reason, name, f"{block.file} {place}")
                    for i, (name, reason, place) in enumerate(zip(block.ids, block.reasons, block.places))
                )
                self.base.executemany("insert into vectors values (?, ?, ?, ?, ?, ?, ?, ?)", rows)
                self.size += len(block.ids)
            self.base.execute("create index plates on vectors (experiment, plate)")

    def close(self) -> None:
        """Closes the files."""
        self.base.close()
        self.file.close()

    def plates(self) -> list[tuple[str, int]]:
        """Returns every (experiment, plate) that has embeddings."""
        return list(self.base.execute("select distinct experiment, plate from vectors"))

    def plate(self, experiment: str, plate: int) -> dict[tuple[str, int], list[Copy]]:
        """Returns the embeddings of a plate by (well, site); the site is 0 where they are of wells."""
        found = collections.defaultdict(list)
        question = "select well, site, position, reason, id, place from vectors where experiment = ? and plate = ?"
        for well, site, *rest in self.base.execute(f"{question} order by position", (experiment, plate)):
            found[well, site].append(Copy(*rest))
        return found

    def value(self, position: int) -> bytes:
        """Returns one embedding, D float32."""
        return os.pread(self.file.fileno(), 4 * self.dim, 4 * self.dim * position)

    def values(self, positions: list[int]) -> np.ndarray:
        """Returns embeddings [n, D] float32."""
        return np.frombuffer(b"".join(map(self.value, positions)), np.float32).reshape(len(positions), self.dim)


def parse(key: str, name: str) -> tuple[str, int, str, int]:
    """Returns experiment, plate, well and site (0 of a well_id) of an id; ('', 0, id, 0) if it does not say."""
    parts = name.rsplit("_", 3 if key == "site_id" else 2)
    if len(parts) == (4 if key == "site_id" else 3) and parts[0]:
        plate, site = tables.integer(parts[1]), tables.integer(parts[3]) if key == "site_id" else 0
        if plate and site is not None:
            return tables.canonical(parts[0]), plate, parts[2], site
    return "", 0, name, 0


class Joined(NamedTuple):
    """A plate: rows that have an embedding, where each of these is in the store, and all that did not fit."""

    rows: list[dict[str, Any]]
    positions: list[int]
    set_aside: list[types.SetAside]
    unlisted: list[Copy]
    duplicates: int  # further copies of embeddings that are used


def join(plan: plan_lib.Plan, store: Store, merge: bool, experiment: str, plate: int) -> Joined:
    """Joins the rows of a plate with their embeddings; `merge` makes one row of each well first."""
    rows, set_aside = plan.rows(experiment, plate)
    if merge:
        rows, more = merge_sites(rows)
        set_aside += more
    of_wells = store.key == "well_id"
    found = store.plate(experiment, plate)
    joined = Joined([], [], set_aside, [], 0)
    duplicates = 0
    for row in rows:
        copies = found.get((row["well"], 0 if of_wells else row["site"]), [])
        if reason := _problem(copies, store):
            set_aside.append(types.SetAside(row["site_id"], reason, experiment, row["split"]))
        else:
            joined.rows.append(row)
            joined.positions.append(copies[0].position)
            duplicates += len(copies) - 1
    # A row that cannot be used still claims its embedding.
    known = {(well, 0 if of_wells else site) for well, site in plan.places(experiment, plate)}
    joined.unlisted.extend(copy for key, copies in found.items() if key not in known for copy in copies)
    return joined._replace(duplicates=duplicates)


def _problem(copies: list[Copy], store: Store) -> str:
    """Why the embeddings of one name are not a single usable one, '' if they are."""
    if not copies:
        return "no embedding"
    places = ", ".join(copy.place for copy in copies)
    if all(copy.reason for copy in copies):
        return f"{copies[0].reason} ({places})"
    if len(copies) > 1 and len({copy.reason or store.value(copy.position) for copy in copies}) > 1:
        return f"{len(copies)} embeddings that differ ({places})"
    return ""


def merge_sites(rows: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[types.SetAside]]:
    """Returns one row for every well of a plate (site 0), and the wells whose sites disagree about it."""
    wells = collections.defaultdict(list)
    for row in rows:
        wells[row["well_id"]].append(row)
    of_site = {*plan_lib.PRIVATE, "site_id", "site", "split"}
    merged, set_aside = [], []
    for well_id, sites in wells.items():
        split = min(("train" if site["split"] == "id_test" else site["split"] for site in sites), key=SPLITS.index)
        shared = [{key: value for key, value in site.items() if key not in of_site} for site in sites]
        if len({json.dumps(row) for row in shared}) > 1:  # as text: a blank concentration (NaN) equals another
            reason = "its sites disagree about what is in the well"
            set_aside.append(types.SetAside(well_id, reason, sites[0]["experiment"], split))
        else:
            merged.append({**shared[0], "site_id": f"{well_id}_0", "site": 0, "split": split})
    return merged, set_aside


def build(builder: Any, files: list[pathlib.Path], folder: pathlib.Path, progress: bool = True) -> None:
    """Fills an empty folder with the files that the head of this module names. Raises UserError.

    Args:
      builder: a ScreenBuilder that has a source.
      files: of `vectors.find`.
      folder: an existing folder.
      progress: show progress bars on stderr.
    """
    scratch = folder / "scratch"
    scratch.mkdir()
    plan_lib.write(scratch / "plan.sqlite", builder.read_table())
    plan = plan_lib.Plan(scratch / "plan.sqlite")
    total = sum(file.stat().st_size for file in files)
    with tqdm.tqdm(desc="embeddings", total=total, unit="B", unit_scale=True, disable=not progress) as bar:
        store = Store(scratch, vectors.read(files, bar.update))
    with contextlib.closing(store):
        merge = store.key == "well_id" and any(site > 1 for plate in plan.plates() for _, site in plan.places(*plate))
        columns = COLUMNS | builder.extra_columns
        counts = _write(plan, store, merge, columns, folder, progress)
        if not counts["rows"]:
            raise UserError(_nothing_fits(files, plan, store))
    about = plan.about()
    details = {
        **about["facts"],
        "embeddings": [str(file) for file in files[:10]],
        "embedding_files": len(files),
        "embedding_of": "well" if store.key == "well_id" else "site",
        "dim": store.dim,
        "sums": base_files.SUMS,
        "columns": list(columns),
        "counts": {"published": store.size, **counts},
        "notes": [*about["notes"], *([WHOLE_WELLS] if merge else [])],
        **{key: builder.about[key] for key in ("homepage", "license", "citation")},
    }
    (folder / "metadata.json").write_text(json.dumps(details, indent=1) + "\n")
    shutil.rmtree(scratch)
    base_files.write_sums(folder, (path.name for path in folder.iterdir()))


def _write(
    plan: plan_lib.Plan, store: Store, merge: bool, columns: dict[str, type], folder: pathlib.Path, progress: bool
) -> dict[str, Any]:
    """Writes embeddings.parquet, set_aside.csv and unlisted.csv; returns the counts."""
    form = embeddings_file.schema(columns, store.dim)
    counts: dict[str, Any] = {"rows": 0, "set_aside": 0, "without_row": 0, "duplicates": 0}
    counts["splits"] = dict.fromkeys(SPLITS, 0)
    plates = sorted({*plan.plates(), *store.plates()})
    has: dict[tuple[str, int], set[str]] = {}  # the splits of every plate that was read once
    with contextlib.ExitStack() as stack:
        set_aside = _open_csv(stack, folder / "set_aside.csv", ("site_id", "reason", "experiment", "split"))
        unlisted = _open_csv(stack, folder / "unlisted.csv", ("embedding", "file"))
        writer = stack.enter_context(embeddings_file.open_writer(folder / embeddings_file.NAME, form))
        bar = stack.enter_context(tqdm.tqdm(desc="plates", total=len(plates), disable=not progress))
        for item in plan.set_aside():
            set_aside.writerow(item)
            counts["set_aside"] += 1
        for split in SPLITS:
            for plate in plates:
                if plate in has and split not in has[plate]:
                    continue
                joined = join(plan, store, merge, *plate)
                if plate not in has:
                    has[plate] = {row["split"] for row in joined.rows}
                    set_aside.writerows(joined.set_aside)
                    room = max(0, UNLISTED_NAMED - counts["without_row"])
                    unlisted.writerows(map(printable, (copy.id, copy.place)) for copy in joined.unlisted[:room])
                    counts["set_aside"] += len(joined.set_aside)
                    counts["without_row"] += len(joined.unlisted)
                    counts["duplicates"] += joined.duplicates
                    bar.total += len(has[plate] - {split})  # it will be read again for its other splits
                bar.update()
                chosen = [i for i, row in enumerate(joined.rows) if row["split"] == split]
                if chosen:
                    rows = [joined.rows[i] for i in chosen]
                    named = {name: [row[name] for row in rows] for name in columns}
                    values = store.values([joined.positions[i] for i in chosen])
                    writer.write_table(embeddings_file.table(form, named, values), row_group_size=len(rows))
                    counts["rows"] += len(rows)
                    counts["splits"][split] += len(rows)
    return counts


def _nothing_fits(files: list[pathlib.Path], plan: plan_lib.Plan, store: Store) -> str:
    """Why no row has an embedding, with an example of each."""
    if not store.size:
        return f"{files[0]} holds no embedding"
    name, reason, place = next(store.base.execute("select id, reason, place from vectors limit 1"))
    plates = plan.plates()
    row = plan.rows(*plates[0])[0][:1] if plates else []
    key = store.key
    shown = f"the table has {key} {row[0][key]}" if row else "the table has no usable row"
    return f"no embedding belongs to a row of the table: {place} has {key} {name}{reason and f' ({reason})'}, {shown}"


def _open_csv(stack: contextlib.ExitStack, path: pathlib.Path, header: tuple[str, ...]) -> Any:
    writer = csv.writer(stack.enter_context(path.open("w", newline="", encoding="utf-8")), lineterminator="\n")
    writer.writerow(header)
    return writer
