"""The table of a source on disk, grouped by plate: what a build reads in place of a list of all rows.

One sqlite file, so that memory does not grow with the source, every worker reads just its own plates, and a
build that goes on does not read the tables again.
"""

import collections
import contextlib
import json
import pathlib
import sqlite3
from collections.abc import Iterator
from typing import Any

from rxrx_jax.errors import UserError
from tfds_builders.common.types import SetAside, Table

PRIVATE = ("original", "where")  # keys of a row that say where it came from, not what it is
WELL_TYPES = ("treatment", "positive_control", "negative_control")
SCHEMA = """
create table rows (line integer primary key, experiment text, plate integer, well text, site integer, content text);
create table set_aside (site_id text, reason text, experiment text, split text);
create table classes (perturbation_id integer primary key, perturbation text, well_type text);
create table about (content text);
"""


def write(path: pathlib.Path, table: Table, experiments=(), plates=(), cell_types=()) -> None:
    """Writes the plan of a source, or of the part of it that is chosen; the file appears when it is complete.

    Args:
      path: the file to make.
      table: the source.
      experiments, plates, cell_types: the values to choose; all if empty. Perturbation ids do not depend on them.
    """
    partial = path.with_name(path.name + ".partial")
    partial.unlink(missing_ok=True)
    wanted = {"experiment": set(experiments), "plate": set(plates), "cell_type": set(cell_types)}
    seen: dict[str, set] = {key: set() for key in wanted}
    given: dict[int, tuple[str, str]] = {}  # perturbation_id -> (name, well_type)
    named: dict[str, str] = {}  # name -> well_type, of rows without an id
    plates_seen: set[tuple[str, int]] = set()
    total = 0
    with contextlib.closing(sqlite3.connect(partial)) as base, base:
        base.executescript(SCHEMA)
        for line, row in enumerate(table.rows):
            total += 1
            if isinstance(row, SetAside):
                if _is_wanted(row, wanted):
                    base.execute("insert into set_aside values (?, ?, ?, ?)", row)
                continue
            label, name = row["perturbation_id"], row["perturbation"]
            if label is None:
                named.setdefault(name, row["well_type"])
            elif label >= 0 and not given.get(label, ("", ""))[0]:
                given[label] = (name, row["well_type"])
            for key in wanted:
                seen[key].add(row[key])
            plates_seen.add((row["experiment"], row["plate"]))
            chosen = all(not values or row[key] in values for key, values in wanted.items())
            # A row that is not chosen keeps its place: its image files are not without a row.
            place = (line, row["experiment"], row["plate"], row["well"], row["site"])
            base.execute("insert into rows values (?, ?, ?, ?, ?, ?)", (*place, json.dumps(row) if chosen else None))
        _check_selection(wanted, seen)
        ordered = sorted(named, key=lambda name: (WELL_TYPES.index(named[name]), name))
        given |= {max(given, default=-1) + 1 + i: (name, named[name]) for i, name in enumerate(ordered)}
        base.executemany("insert into classes values (?, ?, ?)", [(label, *given[label]) for label in sorted(given)])
        counts = {  # of the source, whatever is chosen; by the names of a published design
            "sites": total,
            "experiments": len(seen["experiment"]),
            "plates": len(plates_seen),
            "perturbations": sum(well_type != "negative_control" for _, well_type in given.values()),
        }
        facts = {**table.facts, "classes": table.classes or len(given), "counts": counts}
        about = {"facts": facts, "notes": table.notes}
        base.execute("insert into about values (?)", (json.dumps(about),))
        base.execute("create index places on rows (experiment, plate)")
    partial.replace(path)


def refuse(item: SetAside) -> None:
    """Raises the UserError of a strict build: the name of what would be set aside."""
    raise UserError(f"{item.site_id}: {item.reason} (--strict stops here; without it the site is set aside)")


def _is_wanted(item: SetAside, wanted: dict[str, set]) -> bool:
    """Whether a row that was set aside belongs to the choice, as far as it tells."""
    if not item.experiment:
        return True
    parts = item.site_id.rsplit("_", 3)
    plate = int(parts[1]) if len(parts) == 4 and parts[1].isdigit() else None
    return (not wanted["experiment"] or item.experiment in wanted["experiment"]) and (
        not wanted["plate"] or plate is None or plate in wanted["plate"]
    )


def _check_selection(wanted: dict[str, set], seen: dict[str, set]) -> None:
    for key, values in wanted.items():
        for value in sorted(values - seen[key]):
            known = sorted(seen[key])
            shown = ", ".join(map(str, known[:20])) + (", ..." if len(known) > 20 else "")
            raise UserError(f"{key}s={value}: the source has no such {key}; it has {shown or 'no usable row'}")


class Plan:
    """A written plan; opens its file for every question, so that it may be pickled and used by many workers."""

    def __init__(self, path: pathlib.Path):
        self.path = path

    def _ask(self, question: str, *values) -> Iterator[tuple]:
        # immutable: also from folders that may only be read, and without locks on network drives
        with contextlib.closing(sqlite3.connect(f"{self.path.as_uri()}?immutable=1", uri=True)) as base:
            yield from base.execute(question, values)

    def plates(self, chosen: bool = True) -> list[tuple[str, int]]:
        """Returns every (experiment, plate) that has rows, or chosen rows, sorted."""
        where = "where content is not null" if chosen else ""
        return list(self._ask(f"select distinct experiment, plate from rows {where} order by experiment, plate"))

    def sites(self) -> int:
        """Returns the number of chosen rows."""
        return next(self._ask("select count(content) from rows"))[0]

    def places(self, experiment: str, plate: int) -> set[tuple[str, int]]:
        """Returns (well, site) of everything that the tables have on a plate, chosen or not, usable or not."""
        known = set(self._ask("select well, site from rows where experiment = ? and plate = ?", experiment, plate))
        for (site_id,) in self._ask("select site_id from set_aside where experiment = ?", experiment):
            parts = site_id.rsplit("_", 3)
            if len(parts) == 4 and parts[1] == str(plate) and parts[3].isdigit():
                known.add((parts[2], int(parts[3])))
        return known

    def classes(self) -> list[tuple[int, str, str]]:
        """Returns (perturbation_id, name, well_type) of every labelled class, by id."""
        return list(self._ask("select * from classes order by perturbation_id"))

    def set_aside(self) -> Iterator[SetAside]:
        """Yields the rows that the tables' readers set aside."""
        return (SetAside(*item) for item in self._ask("select * from set_aside"))

    def about(self) -> dict[str, Any]:
        """Returns {"facts": ..., "notes": ...} of the table."""
        return json.loads(next(self._ask("select content from about"))[0])

    def rows(self, experiment: str, plate: int) -> tuple[list[dict[str, Any]], list[SetAside]]:
        """Returns the sites of a plate by well and site, and the copies: a site is there once, or not at all."""
        labels = {name: label for label, name, _ in self.classes()}
        found = collections.defaultdict(list)
        question = "select content from rows where experiment = ? and plate = ? and content is not null "
        question += "order by well, site, line"
        for (content,) in self._ask(question, experiment, plate):
            row = json.loads(content)
            if row["perturbation_id"] is None:
                row["perturbation_id"] = labels[row["perturbation"]]
            found[row["site_id"]].append(row)
        rows, set_aside = [], []
        for site_id, copies in found.items():
            first = copies[0]
            if all(_meaning(copy) == _meaning(first) for copy in copies):
                rows.append(first)
                items = [(f"duplicate row ({copy['where']})", copy["split"]) for copy in copies[1:]]
            else:
                items = [(f"{len(copies)} rows that disagree", copy["split"]) for copy in copies]
            set_aside += [SetAside(site_id, reason, experiment, split) for reason, split in items]
        return rows, set_aside


def _meaning(row: dict[str, Any]) -> str:
    """The row but for where it came from, as text: a blank concentration (NaN) equals another."""
    return json.dumps({key: value for key, value in row.items() if key not in PRIVATE})
