"""report.html of a table, or of one run: its numbers, maps, curves, pictures and provenance in one file.

`write_report` is the whole interface. Whatever a run lacks is reported in the page, whose skeleton is report.html; the
same runs give the same bytes.
"""

import importlib.metadata
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rxrx_jax.base import page
from rxrx_jax.base.config import flatten
from rxrx_jax.base.page import Cell, Picture, explorer, figures, number
from rxrx_jax.data import ROLES
from rxrx_jax.report import columns, maps, pictures, plots, records
from rxrx_jax.report.table import MARKS, Line
from rxrx_jax.tables import Table

MAX_RECONSTRUCTIONS = 2_000_000  # bytes of them in the page
HELD_OUT = ("cross_batch", "public", "private")


def write_report(
    path: pathlib.Path,
    table: Table,
    notes: list[str],
    lines: list[Line],
    runs: Mapping[str, Sequence[pathlib.Path]],
    command: str,
) -> None:
    """Writes the page of a table to `path`.

    notes: shown at the top as given. lines: of `table.measure`. runs: name -> workdirs, one per seed. command: what
    makes the table. Raises UserError where Bokeh is not installed.
    """
    figures.check()
    path = pathlib.Path(path)
    names = dict.fromkeys([name for line in lines for name in line.row.runs] + list(runs))  # in the order of the table
    found = {name: [records.read_seed(pathlib.Path(w)) for w in runs.get(name, [])] for name in names}
    warnings = [note for note in notes if "simulated" in note.lower()][:1]  # it stands out
    shared = pathlib.Path(page.__file__).parent
    text = page.templates(pathlib.Path(__file__).parent).get_template("report.html").render(
        title=table.title,
        warnings=warnings,
        notes=[note for note in notes if note not in warnings],
        command=command,
        versions=", ".join(_version(name) for name in ("rxrx_jax", "jax", "flax")),
        missing=_missing(found, path.parent),
        spread=_spread(table, lines),
        scripts=[figures.script(), *explorer.scripts(), (shared / "plates.js").read_text()],
        table=_table(table, lines, found),
        experiments=_experiments(table, lines, found),
        curves=_curves(found),
        reconstructions=_reconstructions(found, path.parent),
        provenance=_provenance(lines, found, path.parent),
        **maps.sections(table, lines, found),
    )  # fmt: skip
    path.write_text(text, encoding="utf-8")


def _version(name):
    try:
        return f"{name} {importlib.metadata.version(name)}"
    except importlib.metadata.PackageNotFoundError:
        return f"{name} (not installed)"


def relative(value, base: pathlib.Path):
    """A path, or text that names one below `base`, as seen from `base`; anything else as it is."""
    if isinstance(value, str) and os.path.isabs(value):
        for folder in (os.path.abspath(base), os.path.realpath(base)):
            if value.startswith(folder + os.sep):
                return os.path.relpath(value, folder)
    return os.path.relpath(value, base) if isinstance(value, pathlib.Path) else value


def _missing(found, base):
    lines = [f"{name}: no workdir is known" for name, seeds in found.items() if not seeds]
    for name, seeds in found.items():
        lines += [f"{name}, {relative(s.workdir, base)}: {'; '.join(s.missing)}" for s in seeds if s.missing]
    return lines


def _spread(table, lines):
    seeds = sorted({line.seeds for line in lines if line.row.runs})
    what = "seeds, each of another simulated world" if table.worlds else "seeds"
    several = " or ".join(map(str, seeds))
    spread = ", and ± standard deviation," if max(seeds, default=1) >= columns.FEWEST else ""
    return f"Mean{spread} over {several} {what}" if seeds not in ([], [1]) else "One seed"


def _name(line: Line) -> str:
    return f"{line.number} {', '.join(filter(None, line.row.labels))}"


def _by_experiment(line: Line, found) -> list[dict[str, Any]]:
    """Accuracy of a row in every experiment: role, experiment, cell type, mean, lowest and highest of its seeds."""
    made = []
    for role in ROLES:
        name = f"{line.row.prefix}{role}/site_accuracy"
        seeds = [seed.final for run in line.row.runs for seed in found.get(run, [])]
        values: dict[tuple[str, str], list[float]] = {}
        for final in seeds:
            kinds = records.cell_types(final, name)
            for experiment, value in records.by_experiment(final, name).items():
                values.setdefault((kinds[experiment], experiment), []).append(value)
        for (kind, experiment), of in sorted(values.items()):
            mean, low, high = float(np.mean(of)), min(of), max(of)
            made.append({"row": _name(line), "role": role, "cell_type": kind, "experiment": experiment, "mean": mean,
                         "low": low, "high": high, "seeds": len(of)})  # fmt: skip
    return made


def _table(table, lines, found):
    strips = {column.strip: i for i, column in enumerate(table.columns) if column.strip}
    ends = {"in": ("in", ""), "cross": ("cross", ""), "low": ("interval", "_low"), "high": ("interval", "_high")}
    rows, shown, numeric = [], [], set()
    for line in lines:
        values = {key: line.cells[strips[of]].values.get(end) for key, (of, end) in ends.items() if of in strips}
        shown.append(dict.fromkeys(ends) | values | {"name": _name(line), "marks": line.marks})
        held_out = [one for one in _by_experiment(line, found) if one["role"] in HELD_OUT]
        worst = min(held_out, key=lambda one: one["mean"], default=None)
        row = [Cell(line.row.labels[0], line.number, next(iter(line.row.runs), "")), *line.row.labels[1:]]
        for i, (column, cell) in enumerate(zip(table.columns, line.cells), len(table.labels)):
            shown_as = next((v for v in cell.values.values() if isinstance(v, (int, float))), None)
            if column.summary is columns.marks:
                row.append(Cell(cell.text, None, title="; ".join(MARKS[m] for m in cell.text if m in MARKS)))
            else:
                row.append(Cell(cell.text or "–", shown_as))
                numeric |= {i} if shown_as is not None else set()
        rows.append([*row, f"{worst['experiment']} {number(worst['mean'])}" if worst else "–"])
    heads = [*table.labels, *(column.heading for column in table.columns), "worst experiment"]
    if all(row[-1] == "–" for row in rows):
        heads, rows = heads[:-1], [row[:-1] for row in rows]
    words = {kind: table.columns[i].heading for kind, i in strips.items()}
    words = {"in": "in-batch", "cross": "cross-batch", "interval": "interval"} | words
    return {"columns": heads, "rows": rows, "numeric": numeric, "figures": plots.rows(shown, words), "words": words}


def _experiments(table, lines, found):
    """Accuracies called site_accuracy, by experiment and cell type."""
    every = [one for line in lines for one in _by_experiment(line, found)]
    colours = pictures.colours([_name(line) for line in lines])
    held_out = [one | {"colour": colours[one["row"]]} for one in every if one["role"] in HELD_OUT]
    rows = [
        [one["row"], one["cell_type"] or "–", one["experiment"], ROLES[one["role"]],
         Cell(number(one["mean"]), one["mean"]), _range(one)]
        for one in every
    ]  # fmt: skip
    drawn = list(dict.fromkeys(one["row"] for one in held_out))
    return {
        "figures": plots.experiments(held_out),
        "legend": [("", colours[name], name) for name in drawn[: plots.DRAWN]],
        "left_out": len(drawn[plots.DRAWN :]),
        "columns": ["row", "cell type", "experiment", "scored as", "accuracy", "over seeds"],
        "rows": rows,
    }


def _range(one: Mapping[str, Any]) -> str:
    several = f"{number(one['low'])} to {number(one['high'])} ({one['seeds']} seeds)"
    return several if one["seeds"] > 1 else "one seed"


def _curves(found):
    flat = {name: flatten(seeds[0].config) if seeds else {} for name, seeds in found.items()}
    tasks = {name: config.get("task.name", name) for name, config in flat.items()}
    drawn = {}
    for name, seeds in found.items():
        lines = [s.training for s in seeds if s.training]
        same_task = [s.training for other in found if tasks[other] == tasks[name] for s in found[other]]
        drawn[name] = plots.curves(name, lines, plots.loss_limits(same_task)) if lines else {}
    marks = [
        ("bar", pictures.PALETTE[0], "loss of the task (without an adversary's)"),
        ("bar", pictures.PALETTE[2], "accuracy on training minibatches"),
        ("bar", pictures.PALETTE[3], "dashed: accuracy of the adversary"),
    ]
    return {"figures": drawn, "legend": marks}


def _reconstructions(found, base):
    shown, others, missing, size = [], [], [], 0
    for name, seeds in found.items():
        for seed in seeds:
            file = seed.workdir / "reconstruction.png"
            if not file.is_file():
                settings = flatten(seed.config)
                wanted = any(key.startswith("evaluators.reconstruction") for key in settings)
                missing += [relative(file, base)] * wanted
                continue
            if seed is not seeds[0] or size + file.stat().st_size > MAX_RECONSTRUCTIONS:
                others.append(relative(file, base))
                continue
            size += file.stat().st_size
            losses = (f"{w} {number(seed.final.get(f'reconstruction/{s}/loss'))}" for s, w in ROLES.items())
            caption = f"{name}: loss on hidden patches {'; '.join(losses)}"
            shown.append(Picture(file.read_bytes(), f"reconstructions of {name}", caption))
    return {"shown": shown, "others": others, "missing": missing}


def _provenance(lines, found, base):
    first = next((name for name, seeds in found.items() if seeds and seeds[0].config), None)
    runs = []
    for name, seeds in found.items():
        rows = [
            f"row {line.number}: {', '.join(filter(None, line.row.labels))}; sites scored: "
            + records.sites_scored(seeds, line.row.prefix, ROLES)
            for line in lines
            if name in line.row.runs
        ]
        summary = text = ""
        if seeds and seeds[0].config:
            reference = found[first][0].config if name != first else None
            summary, text = records.describe_config(seeds[0].config, reference, lambda v: relative(v, base))
            summary += f" from {first}" if reference else ""
        shas = [(relative(s.workdir, base), s.done.get("parameters_sha256", "unknown")) for s in seeds]
        rows = rows or ["no row of its own"]
        runs.append({"name": name, "rows": rows, "seeds": shas, "summary": summary, "config": text})
    return runs
