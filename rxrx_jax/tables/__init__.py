"""Tables that `python -m rxrx_jax.reproduce NAME` makes, one file each with `TABLE = Table(...)`, or `table(data)` that
returns the Table of a folder (of TFDS's own where `data` has a default); a path to such a file anywhere works too.
CONTRIBUTING.md shows a complete one.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence

from rxrx_jax import tables
from rxrx_jax.base import plugins
from rxrx_jax.base.errors import UserError

SOURCES = {
    "P": "[P]: the primary source was read.",
    "C": "[C]: read in published code or a config.",
    "S": "[S]: a secondary source alone; the primary one could not be read.",
    "R": "[R]: run by a third party, one seed, in no paper.",
}
# Simulated worlds of which the final comparison is made: nothing is chosen on them, and no test or demo has seen them.
FINAL = range(200, 205)
PRIMARY = ("P", "C")  # what is printed as published; the others are reported, in a column of their own
SEEN = "TCX?"
PATTERN = "**/[a-z]*.py"  # of the files here that are tables


@dataclasses.dataclass(frozen=True)
class Run:
    """One training run: a name, the --config argument (without seed), the run whose encoder it starts from, and keys
    of the config that are overridden, such as {"adapt.grl_weight": 0.0}. module: the command that makes it in place of
    training, of --config and --workdir, where it leaves config.json and metrics.jsonl as training does."""

    name: str
    config: str
    starts_from: str | None = None
    overrides: dict[str, object] = dataclasses.field(default_factory=dict)
    module: str = ""

    def seeded(self, seed: int) -> str:
        return f"{self.config}{',' if ':' in self.config else ':'}seed={seed}"


@dataclasses.dataclass(frozen=True)
class Published:
    """A value of others: how it was read (a key of SOURCES), where it stands, its standard deviation over seeds where
    one is given, and what the method had seen, as the marks of our own rows say it: T, C, X, ?."""

    value: float
    mark: str
    source: str
    spread: float | None = None
    seen: str = ""


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of a table.

    labels: one for each heading of `Table.labels`. run: whose metrics, all beginning with `prefix`, are its numbers;
    "" for a row that is only published, or has no number; several for the folds of one dataset, which are averaged and
    whose spread gives the interval. published: values of others by the metric of the column that they are of, "" where
    it is not known which they print. name: for rows that compare themselves with this one by `baseline`.
    """

    labels: tuple[str, ...]
    run: str | tuple[str, ...] = ""
    prefix: str = ""
    published: Mapping[str, Published] = dataclasses.field(default_factory=dict)
    name: str = ""
    baseline: str = ""

    @property
    def runs(self) -> tuple[str, ...]:
        return (self.run,) if self.run and isinstance(self.run, str) else tuple(self.run)


@dataclasses.dataclass(frozen=True)
class Column:
    """One column of a table.

    heading: as it is printed. metric: after the row's prefix, "cross_batch/site_accuracy"; "/NAME" is without it.
    summary: a function of `rxrx_jax.report.columns` that makes a row's cell of the metric, over seeds. format: of its
    numbers. key: of table.csv; the heading if empty. strip: how the page draws it on the row's strip: in, cross,
    interval or not at all.
    """

    heading: str
    metric: str = ""
    summary: Callable | None = None
    format: str = ".3f"
    key: str = ""
    strip: str = ""

    @property
    def field(self) -> str:
        """Its name in table.csv."""
        return self.key or "_".join("".join(c if c.isalnum() else " " for c in self.heading.lower()).split())


@dataclasses.dataclass(frozen=True)
class Table:
    """What to train, and what to print of it.

    title, notes: at the top. labels: the headings of the rows' labels. group: the one that parts the page. worlds: the
    seeds of simulated worlds, each run trained once in each; () for one dataset, which each run is trained on `seeds`
    times, with seeds from 0. final: whether it may have worlds of FINAL.
    """

    title: str
    labels: tuple[str, ...]
    columns: Sequence[Column]
    rows: Sequence[Row]
    runs: Sequence[Run]
    notes: Sequence[str] = ()
    group: str = ""
    worlds: Sequence[int] = ()
    seeds: int = 1
    final: bool = False

    def choose(self, seeds: int | None = None, worlds: Sequence[int] | None = None) -> tuple[int, ...]:
        """The seeds of each run.

        Args: seeds, how many, of worlds the first ones; worlds, in place of the table's own. None: all of the table.
        Raises UserError for both, for more worlds than there are, and for one that the table must not have."""
        if worlds is None and not self.worlds:
            return tuple(range(self.seeds if seeds is None else seeds))
        if worlds is None:
            if seeds is not None and seeds > len(self.worlds):
                known = ", ".join(map(str, self.worlds))
                raise UserError(f"--seeds={seeds}: the table has the worlds {known}; name more of them with --worlds")
            return tuple(self.worlds[:seeds])
        given = f"--worlds={','.join(map(str, worlds))}"
        if not self.worlds:
            raise UserError(f"{given}: the table is of one dataset and has no simulated worlds; use --seeds")
        if seeds is not None:
            raise UserError(f"{given}: use it without --seeds")
        if len(set(worlds)) < len(worlds):
            raise UserError(f"{given}: name each world once")
        self._check_worlds(worlds, given)
        return tuple(worlds)

    def _check_worlds(self, worlds: Sequence[int], where: str) -> None:
        if not self.final and (kept := [world for world in worlds if world in FINAL]):
            raise UserError(
                f"{where}: world {kept[0]} is kept for the final comparison, in which nothing may be chosen or tried; "
                f"table {self.title!r} takes any world but {FINAL[0]} to {FINAL[-1]}"
            )

    def __post_init__(self):
        self._check_worlds(self.worlds, f"table {self.title!r}")
        runs = [run.name for run in self.runs]
        names = [row.name for row in self.rows if row.name]
        fields = [*self.labels, *(column.field for column in self.columns)]
        for what, found in (("run", runs), ("row", names), ("column", fields)):
            if twice := {name for name in found if found.count(name) > 1}:
                raise UserError(f"table {self.title!r}: two {what}s are called {min(twice)!r}")
        for row in self.rows:
            where = f"table {self.title!r}, row {' | '.join(row.labels)}"
            if len(row.labels) != len(self.labels):
                raise UserError(f"{where}: {len(row.labels)} labels for the headings {', '.join(self.labels)}")
            if unknown := [run for run in row.runs if run not in runs]:
                raise UserError(f"{where}: unknown run {unknown[0]!r}")
            if len(row.runs) > 1 and self.worlds:
                raise UserError(
                    f"{where}: the runs of a row are folds of one dataset, and the table has simulated worlds"
                )
            if row.baseline and row.baseline not in names:
                raise UserError(f"{where}: no row is named {row.baseline!r}, its baseline")
            for metric, of in row.published.items():
                if metric not in {column.metric for column in self.columns}:
                    raise UserError(f"{where}: no column has the metric {metric!r}, which has a published value")
                if of.mark not in SOURCES:
                    raise UserError(f"{where}: the mark {of.mark!r} is not one of {', '.join(SOURCES)}")
                if unknown := of.seen.strip(SEEN):
                    raise UserError(f"{where}: what it had seen, {unknown!r}, is not made of {SEEN}")
        for run in self.runs:
            if run.starts_from and run.starts_from not in runs:
                raise UserError(f"table {self.title!r}: run {run.name} starts from {run.starts_from!r}, not among them")


def names() -> list[str]:
    return sorted(path.stem for path in pathlib.Path(__file__).parent.glob(PATTERN))


def load(name: str, data: pathlib.Path | None = None) -> Table:
    """The table of a name or of a path to a .py file. data: for a file with `table(data)` the folder that it is of, for
    another one where its prepared datasets are, if not in their usual place. Raises UserError for an unknown table, and
    where a folder is missing or of no use."""
    module = plugins.load(name, tables, "table", PATTERN)
    if hasattr(module, "table"):
        if data is None and not module.table.__defaults__:
            raise UserError(f"table {name} is of data of yours: add --data=DIR")
        return module.table(data)
    found = getattr(module, "TABLE", None)
    if not isinstance(found, Table):
        raise UserError(f"{module.__file__} needs TABLE = Table(...) of rxrx_jax.tables")
    if data is None:
        return found
    if found.worlds:
        raise UserError(f"--data={data}: table {name} makes the worlds that it trains on; leave it out")
    where = {"data.folder": str(data.absolute())}
    return dataclasses.replace(
        found, runs=[dataclasses.replace(run, overrides=run.overrides | where) for run in found.runs]
    )


def chain(table: Table, rows: Sequence[Row]) -> list[Run]:
    """The runs of these rows and of those that they start from, each after the one it starts from."""
    known = {run.name: run for run in table.runs}
    found: dict[str, Run] = {}

    def add(name: str):
        if known[name].starts_from:
            add(known[name].starts_from)
        found.setdefault(name, known[name])

    for name in dict.fromkeys(name for row in rows for name in row.runs):
        add(name)
    return list(found.values())
