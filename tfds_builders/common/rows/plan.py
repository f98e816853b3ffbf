"""The table of a source on disk, grouped by plate: what a build reads in place of a list of all rows.

One sqlite file, so that memory does not grow with the source, every worker reads just its own plates, and a
resumed build does not read the tables again.
"""

import collections
import contextlib
import json
import pathlib
import sqlite3
from collections.abc import Iterator
from typing import Any

from rxrx_jax.base.errors import UserError
from rxrx_jax.base.spellings import NEGATIVE_CONTROL, WELL_TYPES
from tfds_builders.common.types import SetAside, Table

PRIVATE = ("original", "where")  # keys of a row that say where it came from, not what it is
SCHEMA = """
create table rows (
  line integer primary key, experiment text, plate, well text, site integer, chosen integer, content text
);
create table set_aside (site_id text, reason text, experiment text, split text);
create table classes (perturbation_id integer primary key, perturbation text, well_type text);
create table disputed (perturbation_id integer, perturbation text, reason text);
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
    try:
        _write(partial, table, experiments, plates, cell_types)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    partial.replace(path)


def _write(path: pathlib.Path, table: Table, experiments, plates, cell_types) -> None:
    wanted = {"experiment": set(experiments), "plate": set(plates), "cell_type": set(cell_types)}
    seen: dict[str, set] = {key: set() for key in wanted}
    given: collections.Counter[tuple[int, str, str]] = collections.Counter()  # rows by id, name, well_type
    named: dict[str, collections.Counter[str]] = {}  # name -> rows by well_type, of rows without an id
    originals: dict[str, None] = {}  # published columns, of all tables
    plates_seen: set[tuple[str, int]] = set()
    total = 0
    with contextlib.closing(sqlite3.connect(path)) as base, base:
        base.executescript(SCHEMA)
        for line, row in enumerate(table.rows):
            total += 1
            if isinstance(row, SetAside):
                if _is_wanted(row, wanted):
                    base.execute("insert into set_aside values (?, ?, ?, ?)", row)
                continue
            label, name = row["perturbation_id"], row["perturbation"]
            if label is None:
                named.setdefault(name, collections.Counter())[row["well_type"]] += 1
            elif label >= 0:
                given[label, name, row["well_type"]] += 1
            originals.update(dict.fromkeys(row.get("original", ())))
            for key in wanted:
                seen[key].add(row[key])
            plates_seen.add((row["experiment"], row["plate"]))
            fits = {key: not values or row[key] in values for key, values in wanted.items()}
            # A row that is not chosen keeps its place, for its image files are not without a row; and if it is on a
            # chosen plate its content, for it may disagree with one that is chosen.
            content = json.dumps(row) if fits["experiment"] and fits["plate"] else None
            place = (line, row["experiment"], row["plate"], row["well"], row["site"], all(fits.values()))
            base.execute("insert into rows values (?, ?, ?, ?, ?, ?, ?)", (*place, content))
        _check_selection(wanted, seen)
        classes, disputed = _agree(given)
        base.executemany("insert into disputed values (?, ?, ?)", disputed)
        kinds = {name: _most(counts, WELL_TYPES) for name, counts in named.items()}
        ordered = sorted(kinds, key=lambda name: (WELL_TYPES.index(kinds[name]), name))
        start = 1 + max((label for label, _, _ in classes), default=-1)
        classes += [(start + i, name, kinds[name]) for i, name in enumerate(ordered)]
        base.executemany("insert into classes values (?, ?, ?)", classes)
        counts = {  # of the source, whatever is chosen; by the names of a published design
            "sites": total,
            "experiments": len(seen["experiment"]),
            "plates": len(plates_seen),
            "perturbations": sum(well_type != NEGATIVE_CONTROL for _, _, well_type in classes),
        }
        facts = {**table.facts, "classes": table.classes or len(classes), "counts": counts}
        about = {"facts": facts, "notes": table.notes, "originals": list(originals)}
        base.execute("insert into about values (?)", (json.dumps(about),))
        base.execute("create index places on rows (experiment, plate)")


def _agree(given: collections.Counter[tuple[int, str, str]]) -> tuple[list, list]:
    """What the rows with published ids agree on: one name per id and one id per name, each that of most rows.

    Args:
      given: rows by (perturbation_id, name, well_type); the name may be blank.

    Returns:
      Classes, (perturbation_id, name, well_type) by id; and (perturbation_id, name, reason) of the pairs that most
      rows contradict. In a tie no row can be trusted: all its pairs are among them.
    """
    names, labels, kinds = (collections.defaultdict(collections.Counter) for _ in range(3))
    for (label, name, well_type), rows in given.items():
        kinds[label, name][well_type] += rows
        if name:
            names[label][name] += rows
            labels[name][label] += rows
    classes, disputed = {}, []
    for label, name in sorted(kinds):  # a blank name comes first, and a name replaces it
        reason = name and (_contradiction(f"label {label} is", name, names[label])
                           or _contradiction(f"{name} has label", label, labels[name]))  # fmt: skip
        if reason:
            disputed.append((label, name, reason))
        else:
            classes[label] = (label, name, _most(kinds[label, name], WELL_TYPES))
    return [classes[label] for label in sorted(classes)], disputed


def _contradiction(text: str, value: Any, rows: collections.Counter) -> str:
    """Why a value is not the one that most rows have; '' if it is."""
    most = max(rows.values())
    best = sorted(other for other, count in rows.items() if count == most)
    if best == [value]:
        return ""
    if len(best) > 1 and value in best:
        return f"{text} {best[0]} in as many rows as {best[1]}"
    return f"{text} {best[0]} in most rows, and {value} here"


def _most(rows: collections.Counter[str], order: tuple[str, ...]) -> str:
    """The value of most rows, and of those with equally many the first in `order`."""
    return max(order, key=lambda value: rows[value])


def refuse(item: SetAside) -> None:
    """Raises the UserError of a strict build: the name of what would be set aside."""
    raise UserError(f"{item.site_id}: {item.reason} (--strict stops here)")


def _is_wanted(item: SetAside, wanted: dict[str, set]) -> bool:
    """Whether a row that was set aside belongs to the choice, as far as it shows."""
    if not item.experiment:
        return True
    parts = item.site_id.removeprefix(f"{item.experiment}_").rsplit("_", 2)
    return (not wanted["experiment"] or item.experiment in wanted["experiment"]) and (
        not wanted["plate"] or len(parts) < 3 or parts[0] in map(str, wanted["plate"])
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
        where = "where chosen" if chosen else ""
        return list(self._ask(f"select distinct experiment, plate from rows {where} order by experiment, plate"))

    def sites(self) -> int:
        """Returns the number of chosen rows."""
        return next(self._ask("select count(*) from rows where chosen"))[0]

    def places(self, experiment: str, plate: int) -> set[tuple[str, int]]:
        """Returns (well, site) of everything that the tables have on a plate, chosen or not, usable or not."""
        known = set(self._ask("select well, site from rows where experiment = ? and plate = ?", experiment, plate))
        for (site_id,) in self._ask("select site_id from set_aside where experiment = ?", experiment):
            start, *place = site_id.rsplit("_", 2)
            if start == f"{experiment}_{plate}" and place[1].isdigit():
                known.add((place[0], int(place[1])))
        return known

    def classes(self) -> list[tuple[int, str, str]]:
        """Returns (perturbation_id, name, well_type) of every labelled class, by id."""
        return list(self._ask("select * from classes order by perturbation_id"))

    def set_aside(self) -> Iterator[SetAside]:
        """Yields the rows that the tables' readers set aside."""
        return (SetAside(*item) for item in self._ask("select * from set_aside"))

    def about(self) -> dict[str, Any]:
        """Returns {"facts": ..., "notes": ..., "originals": the published columns} of the tables."""
        return json.loads(next(self._ask("select content from about"))[0])

    def rows(self, experiment: str, plate: int) -> tuple[list[dict[str, Any]], list[SetAside]]:
        """Returns the sites of a plate by well and site, and the copies: a site is there once, or not at all."""
        labels = {name: label for label, name, _ in self.classes()}  # of rows without an id, whose names are unique
        disputed = {(label, name): reason for label, name, reason in self._ask("select * from disputed")}
        unusable = {item for (item,) in self._ask("select site_id from set_aside where experiment = ?", experiment)}
        found = collections.defaultdict(list)
        question = "select chosen, content from rows where experiment = ? and plate = ? and content is not null "
        question += "order by well, site, line"
        wanted = set()
        for chosen, content in self._ask(question, experiment, plate):
            row = json.loads(content)
            if row["perturbation_id"] is None:
                row["perturbation_id"] = labels[row["perturbation"]]
            found[row["site_id"]].append(row)
            if chosen:
                wanted.add(row["site_id"])
        rows, set_aside = [], []
        for site_id, copies in found.items():
            if site_id not in wanted:
                continue
            first = copies[0]
            if any(_meaning(copy) != _meaning(first) for copy in copies):
                reasons = [f"{len(copies)} rows that disagree"] * len(copies)
            elif site_id in unusable:
                reasons = [f"another row of this site cannot be used ({copy['where']})" for copy in copies]
            elif reason := disputed.get((first["perturbation_id"], first["perturbation"])):
                reasons = [reason] * len(copies)
            else:
                rows.append(first)
                reasons = ["", *(f"duplicate row ({copy['where']})" for copy in copies[1:])]
            for copy, reason in zip(copies, reasons, strict=True):
                if reason:
                    set_aside.append(SetAside(site_id, reason, experiment, copy["split"]))
        return rows, set_aside


def _meaning(row: dict[str, Any]) -> str:
    """The row but for where it came from, as text: a blank concentration (NaN) equals another."""
    return json.dumps({key: value for key, value in row.items() if key not in PRIVATE})
