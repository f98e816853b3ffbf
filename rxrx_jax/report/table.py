"""The numbers of a table from its runs, and the table as Markdown, LaTeX and CSV; all of them know only columns."""

import csv
import dataclasses
import pathlib
from collections.abc import Sequence

import rxrx_jax
from rxrx_jax.base.errors import UserError
from rxrx_jax.data.roles import ROLES
from rxrx_jax.evaluate.intervals import ENOUGH_WORLDS
from rxrx_jax.report import columns, runs
from rxrx_jax.report.columns import Cell, Found
from rxrx_jax.tables import PRIMARY, SOURCES, Published, Row, Run, Table
from rxrx_jax.training import metrics

MARKS = {
    "T": "transductive: the method, its normalisation or what it starts from has used unlabelled held-out images",
    "C": "anchored by the labels of controls on held-out plates",
    "X": "labels of the held-out experiments were seen, here or in an earlier stage",
    "?": "what it has seen is not known",
}
# What LaTeX would not print as it is.
LATEX = str.maketrans(
    {c: f"\\{c}" for c in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}"}
    | {">": r"\textgreater{}", "±": r"$\pm$", "†": r"$\dagger$", "–": "--"}
)


@dataclasses.dataclass(frozen=True)
class Line:
    """A row with what was found: its number from 1, how many seeds, a cell for each column, the training accuracy of
    each seed at the end, where there is one, how many of how many regressions did not converge, what its protocol's
    counts differ in, where that was allowed, and what else its numbers leave out."""

    number: int
    row: Row
    seeds: int
    marks: str
    cells: list[Cell]
    trained_to: list[float] = dataclasses.field(default_factory=list)
    fits: tuple[int, int] = (0, 0)
    partial: str = ""
    left_out: tuple[str, ...] = ()


def measure(table: Table, out: pathlib.Path, seeds: Sequence[int]) -> list[Line]:
    """The cells of every row from the runs in `out`; those of a row whose runs are not all finished are empty but for
    what others have published. Raises UserError when a run has no metric of a row's prefix."""
    lines = {run.name: [_read(run, out, seed) for seed in seeds] for run in table.runs}
    starts = {run.name: run.starts_from for run in table.runs}

    def cpu(name, i):
        return (lines[name][i][-1]["cpu_seconds"] + cpu(starts[name], i)) if name and lines[name][i] else 0.0

    def measured(row):
        return bool(row.runs) and all(of_seed for run in row.runs for of_seed in lines[run])

    def found(row, baseline=None):
        runs_of = row.runs if measured(row) else ()
        of_runs = [of_seed for run in runs_of for of_seed in lines[run]]
        finals = [[_final(of_seed) for of_seed in lines[run]] for run in runs_of] or [[]]
        return Found(
            row=row,
            worlds=[[final] for final in finals[0]] if table.worlds else finals,
            training=[[line for line in of_seed if line.get("loss") is not None] for of_seed in of_runs],
            cpu_seconds=[cpu(run, i) for run in runs_of for i in range(len(seeds))],
            simulated=bool(table.worlds),
            unit="folds" if len(row.runs) > 1 else "worlds",
            baseline=baseline,
        )

    named = {row.name: found(row) for row in table.rows if row.name}
    every = [found(row, named.get(row.baseline)) for row in table.rows]
    compared = [of_row for of_row in every if of_row.baseline]
    made = []
    for number, (row, of_row) in enumerate(zip(table.rows, every), 1):
        of_row = dataclasses.replace(of_row, compared=compared)
        known = [of_row.name(column.metric) for column in table.columns if column.metric]
        if measured(row) and not any(name in final for name in known for final in of_row.lines):
            wanted = " or ".join(dict.fromkeys(known))
            raise UserError(f"table row {' | '.join(row.labels)}: run {row.runs[0]} has no metric {wanted}")
        cells = [columns.with_marks(column.summary(of_row, column), of_row, column) for column in table.columns]
        partial = next((line["partial"] for line in of_row.lines if line.get("partial")), "")
        if partial:
            row = dataclasses.replace(row, labels=(f"{row.labels[0]} (partial)", *row.labels[1:]))
        ended = columns.trained_to(of_row), columns.fits(of_row)
        of_line = partial, tuple(left_out(of_row))
        made.append(Line(number, row, len(seeds) * measured(row), columns.seen(of_row), cells, *ended, *of_line))
    return made


def left_out(found: Found) -> list[str]:
    """What the numbers of a row leave out, by what its runs counted; the most of any seed."""

    def most(metric):
        return max((int(line.get(found.name(metric)) or 0) for line in found.lines), default=0)

    said = []
    for role, words in ROLES.items():
        if classes := most(f"{role}/absent_classes"):
            sites = most(f"{role}/absent_sites")
            said.append(f"{words}: {classes:,} classes have no training row; their {sites:,} sites count as wrong")
    if bare := most("leakage/plate_without_controls"):
        said.append(f"leakage of plates is without {bare:,} experiments, which have no control well")
    return said


def _read(run: Run, out: pathlib.Path, seed: int) -> list[dict]:
    """The lines of a finished run, [] of another."""
    return metrics.read(runs.workdir(run.name, out, seed) / metrics.NAME) if runs.is_done(run, out, seed) else []


def _final(lines: list[dict]) -> dict:
    """The last line and the last evaluation as one."""
    return lines[-1] | next(line for line in reversed(lines) if line.get("final"))


def notes(table: Table, lines: list[Line], stale: list[str]) -> list[str]:
    """The table's notes, and those that its cells need."""
    found = list(table.notes)
    seen = "".join(cell.values.get("_marks", "") for line in lines for cell in line.cells)
    if any(column.summary is columns.marks for column in table.columns):
        seen += "".join(line.marks for line in lines)
    found += [f"{mark}: {words}." for mark, words in MARKS.items() if mark in seen]
    for i, column in enumerate(table.columns):
        hows = dict.fromkeys(line.cells[i].how for line in lines if line.cells[i].how)
        if hows:
            found.append(f"{column.heading}: {'; or '.join(hows)}.")
    if any(columns.FEW in cell.text for line in lines for cell in line.cells):
        found.append(
            f"{columns.FEW}: fewer than {ENOUGH_WORLDS} worlds, so the interval is wide; that of one world is over its "
            "experiments and says nothing about other worlds."
        )
    for line in lines:
        if line.trained_to and min(line.trained_to) < columns.CONVERGED:
            name = " | ".join(line.row.labels)
            found.append(f"{name}: not converged, its training accuracy ended at {min(line.trained_to):.2f} in a seed.")
        if line.fits[0]:
            name, (lost, of) = " | ".join(line.row.labels), line.fits
            found.append(f"{name}: not converged, {lost} of {of} regressions stopped before the gradient was small.")
    found += [f"{' | '.join(line.row.labels)}: {line.partial}." for line in lines if line.partial]
    found += [f"{' | '.join(line.row.labels)}: {words}." for line in lines for words in line.left_out]
    by_source: dict[Published, list[str]] = {}
    for line in lines:
        for of in line.row.published.values():
            alike = dataclasses.replace(of, value=0.0, spread=None, seen="")
            by_source.setdefault(alike, []).append(", ".join(filter(None, line.row.labels)))
    found += [words for mark, words in SOURCES.items() if any(of.mark == mark for of in by_source)]
    for of, names in by_source.items():
        said = "published" if of.mark in PRIMARY else "reported"
        found.append(f"{'; '.join(dict.fromkeys(names))}, {said}: {of.source} [{of.mark}].")
    return found + [f"STALE {line}; --fresh runs it again." for line in stale]


def headings(table: Table) -> list[str]:
    return ["row", *table.labels, *(column.heading for column in table.columns)]


def texts(line: Line) -> list[str]:
    return [str(line.number), *line.row.labels, *(cell.text for cell in line.cells)]


def made_by(command: str) -> str:
    return f"`{command}`, rxrx_jax {rxrx_jax.__version__}"


def markdown(table: Table, lines: list[Line], shown: list[str], command: str) -> str:
    """The table as Markdown; shown: its notes."""
    escape = lambda text: text.replace("|", "\\|")  # noqa: E731
    text = [f"# {table.title}", "", *(f"- {note}" for note in shown), "", f"Made by {made_by(command)}.", ""]
    body = [headings(table), ["---:", *("---" for _ in headings(table)[1:])], *map(texts, lines)]
    return "\n".join(text + [f"| {' | '.join(map(escape, cells))} |" for cells in body]) + "\n"


def latex(table: Table, lines: list[Line], shown: list[str], command: str) -> str:
    """The table for LaTeX with booktabs; notes are comments."""
    head = headings(table)
    comments = [f"% {' '.join(note.split())}" for note in (*shown, f"Made by {made_by(command)}.")]
    body = [" & ".join(text.translate(LATEX) for text in cells) + r" \\" for cells in (head, *map(texts, lines))]
    return "\n".join(
        [
            *comments, rf"\begin{{tabular}}{{r{'l' * (len(head) - 1)}}}", r"\toprule", body[0], r"\midrule", *body[1:],
            r"\bottomrule", r"\end{tabular}", "",
        ]
    )  # fmt: skip


def write_csv(path: pathlib.Path, table: Table, lines: list[Line]) -> None:
    """Every number with all its digits; an empty field where a row has none."""
    ends = []
    for i in range(len(table.columns)):
        used = dict.fromkeys(end for line in lines for end in line.cells[i].values)
        ends.append(list(used) or [""])
    with open(path, "w", newline="") as f:
        writer = csv.writer(f)
        fields = [column.field + end for column, of in zip(table.columns, ends) for end in of]
        writer.writerow(["row", *table.labels, "seeds", *fields, "run", "prefix"])
        for line in lines:
            values = [cell.values.get(end) for cell, of in zip(line.cells, ends) for end in of]
            writer.writerow(
                [line.number, *line.row.labels, line.seeds, *values, " ".join(line.row.runs), line.row.prefix]
            )
