"""Tables that `python -m rxrx_jax.reproduce NAME` makes, one file each with `TABLE = Table(...)`, or `table(data)` that
returns the Table of a folder; a path to such a file anywhere works too. CONTRIBUTING.md shows a complete one.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Sequence

from rxrx_jax import tables
from rxrx_jax.base import plugins
from rxrx_jax.base.errors import UserError

SOURCES = {
    "": "",
    "P": "[P]: the primary source was read.",
    "C": "[C]: read in published code or a config.",
    "S": "[S]: a secondary source alone.",
}


@dataclasses.dataclass(frozen=True)
class Run:
    """One training run: a name, the --config argument (without seed), the run whose encoder it starts from, and keys
    of the config that are overridden, such as {"adapt.grl_weight": 0.0}."""

    name: str
    config: str
    starts_from: str | None = None
    overrides: dict[str, object] = dataclasses.field(default_factory=dict)

    def seeded(self, seed: int) -> str:
        return f"{self.config}{',' if ':' in self.config else ':'}seed={seed}"


@dataclasses.dataclass(frozen=True)
class Published:
    """A published value, how it was read (a key of SOURCES) and where it stands."""

    value: float
    mark: str
    source: str


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of a table.

    labels: one for each heading of `Table.labels`. run: whose metrics, all beginning with `prefix`, are its numbers;
    "" for a row that is only published, or has no number; several for the folds of one dataset, which are averaged and
    whose spread gives the interval. name: for rows that compare themselves with this one by `baseline`.
    """

    labels: tuple[str, ...]
    run: str | tuple[str, ...] = ""
    prefix: str = ""
    published: Published | None = None
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

    title, notes: at the top. labels: the headings of the rows' labels. group: the one that parts the page. worlds: how
    many simulated worlds there are, one for each seed; 1 for one dataset, which `seeds` runs are trained on.
    prepare(seeds): makes their datasets, before several runs want them at the same time.
    """

    title: str
    labels: tuple[str, ...]
    columns: Sequence[Column]
    rows: Sequence[Row]
    runs: Sequence[Run]
    notes: Sequence[str] = ()
    group: str = ""
    worlds: int = 1
    seeds: int = 1
    prepare: Callable[[Sequence[int]], None] = lambda seeds: None

    def __post_init__(self):
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
            if len(row.runs) > 1 and self.worlds > 1:
                raise UserError(
                    f"{where}: the runs of a row are folds of one dataset, and the table has several worlds"
                )
            if row.baseline and row.baseline not in names:
                raise UserError(f"{where}: no row is named {row.baseline!r}, its baseline")
            if row.published and row.published.mark not in SOURCES:
                raise UserError(f"{where}: the mark {row.published.mark!r} is not one of {', '.join(SOURCES)}")
        for run in self.runs:
            if run.starts_from and run.starts_from not in runs:
                raise UserError(f"table {self.title!r}: run {run.name} starts from {run.starts_from!r}, not among them")


def names() -> list[str]:
    return sorted(path.stem for path in pathlib.Path(__file__).parent.glob("[a-z]*.py"))


def load(name: str, data: pathlib.Path | None = None) -> Table:
    """The table of a name or of a path to a .py file; that of a file with `table(data)`, of the folder `data`. Raises
    UserError for an unknown one, and where a folder is missing or of no use."""
    module = plugins.load(name, tables, "table")
    if hasattr(module, "table"):
        if data is None:
            raise UserError(f"table {name} is of data of yours: add --data=DIR")
        return module.table(data)
    if data is not None:
        raise UserError(f"--data={data}: table {name} says itself what it trains on; leave it out")
    if not isinstance(getattr(module, "TABLE", None), Table):
        raise UserError(f"{module.__file__} needs TABLE = Table(...) of rxrx_jax.tables")
    return module.TABLE
