"""The report of a table: one HTML file of its numbers, curves, pictures and provenance; it needs no network.

`write_report` is the whole interface. Whatever a run lacks is reported in the page, whose HTML is in report.html.
"""

import datetime
import importlib.metadata
import os
import pathlib

import numpy as np

from rxrx_jax.base import page
from rxrx_jax.base.config import flatten
from rxrx_jax.base.page import Picture, Strip, number
from rxrx_jax.data import ROLES
from rxrx_jax.report import pictures, records
from rxrx_jax.report.table import MARKS, Line
from rxrx_jax.tables import Table

MAX_RECONSTRUCTIONS = 2_000_000  # bytes of them in the page
HIGHLIGHTED = 8  # perturbations in colour on the maps


def write_report(
    path: pathlib.Path,
    table: Table,
    notes: list[str],
    lines: list[Line],
    runs: dict[str, list[pathlib.Path]],
    command: str,
) -> None:
    """Writes the page of a table to `path`.

    notes: shown at the top as given. lines: of `table.measure`. runs: name -> workdirs, one per seed. command: what
    makes the table.
    """
    path = pathlib.Path(path)
    names = dict.fromkeys([name for line in lines for name in line.row.runs] + list(runs))  # in the order of the table
    found = {name: [records.read_seed(pathlib.Path(w)) for w in runs.get(name, [])] for name in names}
    warnings = [note for note in notes if "simulated" in note.lower()][:1]  # it stands out
    text = page.templates(pathlib.Path(__file__).parent).get_template("report.html").render(
        title=table.title,
        warnings=warnings,
        notes=[note for note in notes if note not in warnings],
        command=command,
        versions=", ".join(_version(name) for name in ("rxrx_jax", "jax", "flax")),
        now=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        missing=_missing(found, path.parent),
        spread=_spread(table, lines),
        table=_table(table, lines),
        experiments=_experiments(table, lines, found),
        curves=_curves(found),
        reconstructions=_reconstructions(found, path.parent),
        maps=_maps(table, lines, found),
        provenance=_provenance(lines, found, path.parent),
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
    what = "seeds, each of another simulated world" if table.worlds > 1 else "seeds"
    number = " or ".join(map(str, seeds))
    return f"Mean, and ± standard deviation, over {number} {what}" if seeds not in ([], [1]) else "One seed"


def _groups(table: Table, lines: list[Line], made: list) -> dict[str, list]:
    """What was made of each line, by the label that divides the page."""
    if not table.group:
        return {"": made}
    at, found = table.labels.index(table.group), {}
    for line, of_line in zip(lines, made):
        found.setdefault(f"{table.group}: {line.row.labels[at]}", []).append(of_line)
    return found


def _named(line: Line) -> dict:
    words = "; ".join(MARKS[mark] for mark in line.marks if mark in MARKS)
    run = next(iter(line.row.runs), "")
    return {"number": line.number, "name": line.row.labels[0], "run": run, "marks": line.marks, "words": words}


def _table(table, lines):
    strips = {column.strip: i for i, column in enumerate(table.columns) if column.strip}
    values = [[line.cells[i].values.get(end) for end in ("", "_high")] for line in lines for i in strips.values()]
    top = page.top_of_scale(value for pair in values for value in pair)
    labels = [i for i, name in enumerate(table.labels) if i and name != table.group]
    shown = []
    for line in lines:
        cells = [(table.labels[i], line.row.labels[i]) for i in labels]
        cells += [(column.heading, cell.text) for column, cell in zip(table.columns, line.cells)]
        shown.append(_named(line) | {"cells": cells, "strip": _forest(table, line, strips, top)})
    headings = [heading for heading, _ in shown[0]["cells"]] if shown else []
    words = {kind: table.columns[i].heading for kind, i in strips.items()}
    marks = [("in", "", words["in"])] if "in" in words else []
    if "cross" in words:
        with_interval = f" with its {words['interval']}" if "interval" in words else ""
        marks += [("cross", "", words["cross"] + with_interval), ("cross trans", "", "the same, of a row with marks")]
    return {
        "heading": table.labels[0],
        "headings": headings,
        "width": len(headings) + 1 + bool(marks),
        "groups": _groups(table, lines, shown),
        "top": top,
        "legend": marks,
    }


def _forest(table: Table, line: Line, strips: dict[str, int], top: float) -> Strip:
    """The strip of a row: what is drawn as in and cross, the drop between them, the interval."""
    cell = lambda kind: line.cells[strips[kind]] if kind in strips else None  # noqa: E731
    value = lambda kind, end="": cell(kind).values.get(end) if cell(kind) else None  # noqa: E731
    shown = {kind: f"{table.columns[i].heading} {line.cells[i].text or '–'}" for kind, i in strips.items()}
    strip = Strip(top, f"{line.number} {line.row.labels[0]}: {', '.join(shown.values())}")
    inside, cross, low, high = value("in"), value("cross"), value("interval", "_low"), value("interval", "_high")
    kind = "cross trans" if line.marks else "cross"
    if inside is not None and cross is not None:
        strip.line(inside, cross, "gap")
    if low is not None:
        strip.line(low, high, f"interval {kind}")
    if inside is not None:
        strip.dot(inside, shown["in"], "in")
    if cross is not None:
        strip.dot(cross, ", ".join(shown[k] for k in ("cross", "interval") if k in shown), kind)
    return strip


def _experiments(table, lines, found):
    """A strip per row, with a dot for every experiment of every seed: those of metrics called site_accuracy."""

    def read(row, split):
        name = f"{row.prefix}{split}/site_accuracy"
        return [records.by_experiment(seed.final, name) for run in row.runs for seed in found.get(run, [])]

    accuracies = [{split: read(line.row, split) for split in ROLES} for line in lines]
    names = {split: sorted({k for a in accuracies for seed in a[split] for k in seed}) for split in ROLES}
    colours = pictures.colours(names["cross_batch"])
    top = page.top_of_scale(v for a in accuracies for seeds in a.values() for s in seeds for v in s.values())
    shown = []
    for line, accuracy in zip(lines, accuracies):
        label = ", ".join(label for label, name in zip(line.row.labels, table.labels) if label and name != table.group)
        strip = Strip(top, f"{label}: accuracy by experiment")
        for split, kind, y in (("in_batch", "in", 28), ("validation", "val", 28), ("cross_batch", "held", 72)):
            seeds = max(len(accuracy[split]) // max(len(line.row.runs), 1), 1)  # of each run, finished or not
            for i, values in enumerate(accuracy[split]):
                of = f"{line.row.runs[i // seeds]}, " * (len(line.row.runs) > 1) + f"seed {i % seeds}"
                for name, value in values.items():
                    colour = colours[name] if split == "cross_batch" else ""
                    strip.dot(value, f"{name} ({ROLES[split]}, {of}) {number(value)}", kind, colour, y)
        shown.append(_named(line) | {"label": label, "strip": strip})
    marks = [
        ("in", "", f"training experiments, in-batch ({', '.join(names['in_batch']) or 'none'})"),
        ("val", "", f"validation ({', '.join(names['validation']) or 'none'})"),
        *(("held", colour, f"{name}, held out") for name, colour in colours.items()),
    ]
    return {"groups": _groups(table, lines, shown), "top": top, "legend": marks}


def _curves(found):
    flat = {name: flatten(seeds[0].config) if seeds else {} for name, seeds in found.items()}
    tasks = {name: config.get("task.name", name) for name, config in flat.items()}
    figures = {}
    for name, seeds in found.items():
        lines = [s.training for s in seeds if s.training]
        same_task = [s.training for other in found if tasks[other] == tasks[name] for s in found[other]]
        figures[name] = None
        if lines:
            svg = pictures.curves(lines, pictures.loss_limits(same_task))
            figures[name] = Picture(svg, f"training curves of {name}", kind="svg+xml")
    marks = [
        ("bar", pictures.PALETTE[0], "loss of the task (without an adversary's)"),
        ("bar", pictures.PALETTE[2], "accuracy on training minibatches"),
        ("bar", pictures.PALETTE[3], "dashed: accuracy of the adversary"),
    ]
    return {"figures": figures, "legend": marks}


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


def _maps(table, lines, found):
    absent = {}
    for name, seeds in found.items():
        read = records.read_embeddings(seeds[0].workdir) if seeds else "no workdir"
        if isinstance(read, str):  # else dropped: those of every run on a large dataset would fill the memory
            absent[name] = read
    chosen = records.choose_for_map(table, lines, [name for name in found if name not in absent])
    embeddings = {run: records.read_embeddings(found[run][0].workdir) for run, _ in chosen}

    experiments = {"cross_batch": set(), "in_batch": set()}
    for of_run in embeddings.values():
        for site, split in zip(of_run["site_id"], of_run["role"]):
            experiments[split].add(records.experiment(site))
    known = sorted({p for of_run in embeddings.values() for p in of_run.get("perturbation", ())} - {"EMPTY", ""})
    some = np.unique(np.linspace(0, len(known) - 1, min(HIGHLIGHTED, len(known))).astype(int))
    palettes = {split: pictures.colours(sorted(experiments[split])) for split in experiments}
    palettes["perturbation"] = pictures.colours([known[i] for i in some])
    titles = {
        "cross_batch": "Held-out experiments",
        "in_batch": "In-batch experiments",
        "perturbation": f"{len(some)} of {len(known)} perturbations, evenly spaced by name; others grey",
    }
    marks = {titles[key]: [("", colour, name) for name, colour in of.items()] for key, of in palettes.items() if of}
    return {
        "runs": [_map(run, why, embeddings[run], palettes) for run, why in chosen],
        "legends": marks,
        "absent": "; ".join(f"{name}: {why}" for name, why in absent.items()),
    }


def _map(run, why, found, palettes):
    """The panels of one run: held-out and in-batch sites, each by experiment and by perturbation."""
    scores, shares = pictures.principal_components(found["embedding"])
    if scores is None:
        return {"name": run, "words": why, "panels": [], "absent": "All embeddings are the same."}
    margin = 0.04 * np.ptp(scores, axis=0) + 1e-9
    limits = list(zip(scores.min(0) - margin, scores.max(0) + margin))
    panels = []
    for split, sites in (("cross_batch", "held-out"), ("in_batch", "in-batch")):
        here = found["role"] == split
        experiments = [records.experiment(site) for site in found["site_id"][here]]
        colourings = {"experiment": (experiments, palettes[split])}
        if "perturbation" in found:
            colourings["perturbation"] = found["perturbation"][here].tolist(), palettes["perturbation"]
        for what, (labels, palette) in colourings.items():
            png = pictures.embedding_map(scores[here], labels, palette, limits, shares)
            text = f"{sites} by {what}"
            panels.append(Picture(png, f"{run}: {text}", text))
    explained = f"PC 1 and 2 explain {100 * shares[0]:.1f} % and {100 * shares[1]:.1f} % of the variance"
    unknown = "" if "perturbation" in found else "The perturbations of its sites are not known."
    return {"name": run, "words": f"{why}; {len(scores)} sites; {explained}", "panels": panels, "absent": unknown}


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
