"""What a column of a table shows of a row: functions (found, column) -> Cell, for `Column.summary`."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from rxrx_jax.base.errors import UserError
from rxrx_jax.data.roles import ROLES
from rxrx_jax.evaluate import intervals
from rxrx_jax.report.records import by_experiment, cell_types, marks_of
from rxrx_jax.tables import PRIMARY, Column, Row

CONVERGED = 0.9  # training accuracy; a row below is not converged
LINES = 10  # the last training lines, over which it is averaged
FEW = "†"
FEWEST = 3  # seeds that a standard deviation is given for


@dataclasses.dataclass(frozen=True)
class Cell:
    """What is printed, its numbers with all digits by the ending of their name in table.csv, and what a note says about
    how they were made."""

    text: str = ""
    values: dict[str, float | str] = dataclasses.field(default_factory=dict)
    how: str = ""


@dataclasses.dataclass(frozen=True)
class Found:
    """A row's runs. worlds: for each world, or fold of one dataset, for each seed there, the last evaluation and the
    last line as one dict; training: for each of these the training lines; cpu_seconds: of each, with the runs it starts
    from; unit: worlds or folds; baseline: the row it is compared with; compared: all rows that have one."""

    row: Row
    worlds: list[list[dict]]
    training: list[list[dict]]
    cpu_seconds: list[float]
    simulated: bool  # whether each world is drawn, and others could have been
    unit: str = "worlds"
    baseline: "Found | None" = None
    compared: "Sequence[Found]" = ()

    def name(self, metric: str) -> str:
        """The whole name of a metric: after the row's prefix, or as it is behind a slash."""
        return metric[1:] if metric.startswith("/") else self.row.prefix + metric

    @property
    def lines(self) -> list[dict]:
        return [line for world in self.worlds for line in world]

    def values(self, metric: str) -> list[float]:
        """The metric for each seed; none unless all have it."""
        name = self.name(metric)
        values = [line.get(name) for line in self.lines]
        return [] if None in values else values

    def means(self, metric: str) -> list[float]:
        """The metric of each world, averaged over its seeds."""
        name = self.name(metric)
        return [float(np.mean([line[name] for line in world])) for world in self.worlds]

    def by_seed(self, metric: str) -> list[float]:
        """The metric of each seed, averaged over the folds of one dataset; of each world, which has one."""
        if self.simulated or not self.values(metric):
            return self.values(metric)
        name = self.name(metric)
        return [float(np.mean([line[name] for line in folds])) for folds in zip(*self.worlds)]

    def experiments(self, metric: str) -> list[dict[str, float]]:
        """For each world experiment -> the metric, averaged over seeds."""
        found = []
        for world in self.worlds:
            by_seed = [by_experiment(line, self.name(metric)) for line in world]
            found.append(
                {name: float(np.mean([seed[name] for seed in by_seed if name in seed])) for name in by_seed[0]}
            )
        return found

    def strata(self, metric: str) -> dict[str, str]:
        return {k: v for line in self.lines for k, v in cell_types(line, self.name(metric)).items()}


def mean(found: Found, column: Column) -> Cell:
    """The mean over seeds."""
    return _cell(column, np.mean(values)) if (values := found.values(column.metric)) else Cell()


def spread(found: Found, column: Column) -> Cell:
    """Mean ± standard deviation over seeds, where there are three: of one dataset's folds that of their mean. It says
    nothing about other experiments, of which `interval` does."""
    values = found.by_seed(column.metric)
    if len(values) < FEWEST:
        return mean(found, column)
    deviation = float(np.std(values, ddof=1))
    text = f"{np.mean(values):{column.format}} ± {deviation:{column.format}}"
    how = "" if found.simulated else f"mean ± standard deviation of {len(values)} seeds on the same data"
    return Cell(text, {"": float(np.mean(values)), "_sd": deviation}, how)


def last_step(found: Found, column: Column) -> Cell:
    """The mean over seeds of the last step's network, where `selection=best_val` published another one in any of them;
    of the others it is the one that is published."""
    name = found.name(column.metric)
    values = [line.get(f"last/{name}", line.get(name)) for line in found.lines]
    if None in values or not any(f"last/{name}" in line for line in found.lines):
        return Cell()
    return _cell(column, np.mean(values))


def interval(found: Found, column: Column) -> Cell:
    """The 95 % interval: t over worlds or folds, or over the experiments of one dataset
    (`rxrx_jax.evaluate.intervals`)."""
    if not found.values(column.metric):
        return Cell()
    worlds, strata = found.experiments(column.metric), found.strata(column.metric)
    made = intervals.clipped(intervals.over_worlds(worlds, strata, found.means(column.metric), unit=found.unit))
    return _interval(found, column, made, "")


def difference(found: Found, column: Column) -> Cell:
    """The row less its baseline, paired by experiment or fold, with its 95 % interval as in `interval` and its p: of
    the t test of that interval over simulated worlds, else of a sign-flip test over experiments or folds
    (`intervals.sign_flip`)."""
    units = differences(found, column.metric)
    if not units:
        return Cell()
    if found.unit == "folds":
        made = intervals.over_units(units, unit=found.unit)
    elif len(found.worlds) > 1:
        made = intervals.over_units(units, unit="worlds")
    else:
        made = intervals.over_worlds([_paired(found, column.metric)[0]], found.strata(column.metric))
    cell = _interval(found, column, made, f"{made.mean:{column.format}}")
    p, how = p_value(found, column.metric)
    if math.isnan(p):
        return cell
    return Cell(f"{cell.text}, p {p:.3f}", cell.values | {"_p": p}, f"{cell.how}; p: {how}")


def holm(found: Found, column: Column) -> Cell:
    """The p of `difference` adjusted for all rows of the table that have a baseline and one (Holm 1979, Scandinavian
    Journal of Statistics 6, 65): of the m rows the k-th smallest p times m - k + 1, at least that of the smaller ones
    and at most 1."""
    if math.isnan(own := p_value(found, column.metric)[0]):
        return Cell()
    ps = sorted(p for row in found.compared if not math.isnan(p := p_value(row, column.metric)[0]))
    adjusted = min(1.0, max((len(ps) - k) * p for k, p in enumerate(ps) if p <= own))
    return dataclasses.replace(_cell(column, adjusted), how=f"Holm's adjustment for {len(ps)} rows")


def p_value(found: Found, metric: str) -> tuple[float, str]:
    """The p of a row less its baseline and how it was found in words; nan and "" where there is none, as for a single
    simulated world."""
    units = differences(found, metric)
    if found.simulated and found.unit == "worlds":
        return intervals.t_test(units)
    return intervals.sign_flip(units, unit="experiments" if found.unit == "worlds" else found.unit)


def differences(found: Found, metric: str) -> list[float]:
    """A row less its baseline in each simulated world, where it is averaged over the experiments that they share, in
    each fold, or in each experiment of one dataset; [] where there is nothing to compare."""
    base = found.baseline
    if not base or not found.values(metric) or not base.values(metric):
        return []
    if found.unit == "folds":
        return np.subtract(found.means(metric), base.means(metric)).tolist()
    worlds = _paired(found, metric)
    if not all(worlds):
        return []
    return [float(np.mean([*of.values()])) for of in worlds] if found.simulated else [*worlds[0].values()]


def _paired(found: Found, metric: str) -> list[dict[str, float]]:
    """For each world experiment -> the row less its baseline."""
    pairs = zip(found.experiments(metric), found.baseline.experiments(metric))
    try:
        return [intervals.paired(ours, theirs) for ours, theirs in pairs]
    except ValueError as error:
        raise UserError(f"row {' | '.join(found.row.labels)} and its baseline cannot be paired: {error}") from None


def _interval(found: Found, column: Column, made: intervals.Interval, value: str) -> Cell:
    number = len(found.worlds)
    few = found.simulated and number < intervals.ENOUGH_WORLDS
    worlds = f" ({number} world{'s' * (number > 1)}{FEW})" if few else ""
    values = {"": made.mean} if value else {}
    if not math.isfinite(made.low):
        return Cell(value, values, made.how)
    low, high = (f"{x:{column.format}}" for x in (made.low, made.high))
    text = f"{value} ({low} to {high})" if value else f"{low} to {high}"
    return Cell(text + worlds, values | {"_low": made.low, "_high": made.high}, made.how)


def above(floor: str):
    """A summary: the mean over seeds, and in brackets the metric `floor`, which is what chance gives."""

    def summary(found: Found, column: Column) -> Cell:
        cell, chance = mean(found, column), found.values(floor)
        if not cell.text or not chance:
            return cell
        value = float(np.mean(chance))
        return Cell(f"{cell.text} (floor {value:{column.format}})", cell.values | {"_floor": value})

    return summary


def seen(found: Found, where: str = "cross_batch") -> str:
    """The marks of a row's metrics of these scored rows, of any seed."""
    return "".join(dict.fromkeys("".join(marks_of(line, found.row.prefix, where) for line in found.lines)))


def with_marks(cell: Cell, found: Found, column: Column) -> Cell:
    """The cell with the marks that its own metric has beyond those of the row's."""
    where = column.metric.partition("/")[0]
    if where not in ROLES or "_source" in cell.values:  # a value of others has its own
        return cell
    own = seen(found, where) + "".join(line.get(f"marks/{found.name(column.metric)}", "") for line in found.lines)
    if not (more := "".join(mark for mark in dict.fromkeys(own) if mark not in seen(found))) or not cell.text:
        return cell
    return Cell(f"{cell.text} {more}", cell.values | {"_marks": more}, cell.how)


def marks(found: Found, column: Column) -> Cell:
    """T: transductive, C: anchored by controls, X: has seen held-out labels, ?: unknown."""
    return Cell(seen(found), {"": seen(found)})


def trained_to(found: Found) -> list[float]:
    """The training accuracy at the end, of each seed. None for what has none, as a masked autoencoder, and for a probe,
    which is fitted in another way."""
    ends = [[line["accuracy"] for line in lines if line.get("accuracy") is not None] for lines in found.training]
    if not all(ends) or found.row.prefix.startswith("probe/"):
        return []
    return [float(np.mean(end[-LINES:])) for end in ends]


def fits(found: Found) -> tuple[int, int]:
    """How many regressions of a probe's row did not converge, by what they recorded, and of how many."""
    ended = [line[name] for line in found.lines if (name := found.name("converged")) in line]
    return ended.count(0.0), len(ended)


def training_accuracy(found: Found, column: Column) -> Cell:
    """The accuracy on training minibatches at the end, or that it stayed too low in a seed, and how low; of a probe,
    how many of its regressions did not converge. Blank for rows without one."""
    lost, of = fits(found)
    if lost:
        return Cell(f"not converged ({lost} of {of} fits)", {"_not_converged": lost})
    if not (by_seed := trained_to(found)):
        return Cell()
    value, lowest = float(np.mean(by_seed)), min(by_seed)
    text = f"not converged ({lowest:{column.format}})" if lowest < CONVERGED else f"{value:{column.format}}"
    return Cell(text, {"": value, "_lowest": lowest})


def cpu_seconds(found: Found, column: Column) -> Cell:
    """Processor seconds of the run and of those it starts from, averaged over seeds."""
    return _cell(column, np.mean(found.cpu_seconds)) if found.cpu_seconds else Cell()


def relative_seconds(found: Found, column: Column) -> Cell:
    """Processor seconds of a row as in `cpu_seconds`, in units of those of its baseline, or of its own where other rows
    are compared with it."""
    base = found.baseline or found
    if not found.cpu_seconds or not base.cpu_seconds or not (of_base := np.mean(base.cpu_seconds)):
        return Cell()
    return _cell(column, np.mean(found.cpu_seconds) / of_base) if found.baseline or found.row.name else Cell()


def device_hours(found: Found, column: Column) -> Cell:
    """Hours of training times devices, of one seed of the run (a fold's), averaged; without what it starts from."""
    if not found.lines:
        return Cell()
    return _cell(column, np.mean([of_devices(line) for line in found.lines]))


def of_devices(line: dict) -> float:
    """Device hours of training, from the last line of a run."""
    return line["train_seconds"] * int(line["device"].partition(" x ")[0]) / 3600


def published(found: Found, column: Column) -> Cell:
    """The published value of the column's metric, with the marks of its source and of what the method had seen."""
    return _of_others(found, column, primary=True)


def reported(found: Found, column: Column) -> Cell:
    """The same of a value that a secondary source or a third party reports."""
    return _of_others(found, column, primary=False)


def _of_others(found: Found, column: Column, primary: bool) -> Cell:
    of = found.row.published.get(column.metric)
    if of is None or (of.mark in PRIMARY) != primary:
        return Cell()
    spread = "" if of.spread is None else f" ± {of.spread:{column.format}}"
    values = {"": of.value, "_mark": of.mark, "_source": of.source}
    values |= ({"_sd": of.spread} if spread else {}) | ({"_marks": of.seen} if of.seen else {})
    return Cell(" ".join(filter(None, [f"{of.value:{column.format}}{spread}", f"[{of.mark}]", of.seen])), values)


def _cell(column: Column, value: float) -> Cell:
    return Cell(f"{value:{column.format}}", {"": float(value)})
