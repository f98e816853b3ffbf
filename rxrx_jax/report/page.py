"""The report of a table: one HTML file of its numbers, curves, pictures and provenance; it needs no network.

`write_report` is the whole interface. Whatever a run lacks is said in the page.
"""

import datetime
import importlib.metadata
import pathlib
from html import escape as e

import numpy as np

from rxrx_jax.data import ROLES
from rxrx_jax.report import markup, pictures, records
from rxrx_jax.report.markup import anchor, image, legend, number, relative, with_spread

MAX_RECONSTRUCTIONS = 2_000_000  # bytes of them in the page
HIGHLIGHTED = 8  # perturbations in colour on the maps


def write_report(
    path: pathlib.Path,
    title: str,
    notes: list[str],
    rows: list[dict],
    runs: dict[str, list[pathlib.Path]],
    command: str,
    perturbations: dict[str, dict[str, str]] | None = None,
) -> None:
    """Writes the page of a table to `path`.

    notes: shown at the top as given. rows: the table, of `reproduce.measure`. runs: name -> workdirs, one a
    seed. command: what makes the table. perturbations: run -> site_id -> name, in the first seed.
    """
    path = pathlib.Path(path)
    base = path.parent
    names = dict.fromkeys([row["run"] for row in rows] + list(runs))  # in the order of the table
    found = {name: [records.read_seed(pathlib.Path(w)) for w in runs.get(name, [])] for name in names}
    sections = {
        "Table": _table(rows, found),
        "Accuracy by experiment": _experiments(rows, found),
        "Training curves": _curves(found),
        "Reconstructions": _reconstructions(found, base),
        "Embedding maps": _maps(rows, found, perturbations or {}),
        "Provenance": _provenance(rows, found, base),
    }
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    versions = ", ".join(_version(name) for name in ("rxrx_jax", "jax", "flax"))
    links = (f'<a href="#{anchor(name)}">{name}</a>' for name in sections)
    header = (
        f"<h1>{e(title)}</h1>{_notes(notes)}"
        f"<p>Made by <code>{e(command)}</code> with {e(versions)} on {now}.</p>{_missing(found, base)}"
        f"<nav>{' · '.join(links)}</nav>"
    )
    body = "\n".join(f'<section id="{anchor(name)}"><h2>{name}</h2>{text}</section>' for name, text in sections.items())
    path.write_text(markup.document(title, f"<header>{header}</header>\n{body}"), encoding="utf-8")


def _version(name):
    try:
        return f"{name} {importlib.metadata.version(name)}"
    except importlib.metadata.PackageNotFoundError:
        return f"{name} (not installed)"


def _notes(notes):
    """The first note that says SIMULATED stands out; the others are a list."""
    simulated = [note for note in notes if "simulated" in note.lower()][:1]
    others = "".join(f"<li>{e(note)}</li>" for note in notes if note not in simulated)
    warning = "".join(f'<p class="warning">{e(note)}</p>' for note in simulated)
    return warning + (others and f"<ul>{others}</ul>")


def _missing(found, base):
    lines = [f"{name}: no workdir is known" for name, seeds in found.items() if not seeds]
    for name, seeds in found.items():
        lines += [f"{name}, {relative(s.workdir, base)}: {'; '.join(s.missing)}" for s in seeds if s.missing]
    items = "".join(f"<li>{e(line)}</li>" for line in lines)
    return f'<div class="missing"><p>Missing from this page:</p><ul>{items}</ul></div>' if lines else ""


def _table(rows, found):
    top = markup.top_of_scale(row[key] for row in rows for key in ("in_batch", "cross_batch", "ci_high"))
    columns = {
        "method": lambda r: markup.row_name(r, f'<a href="#{anchor(r["run"])}">{e(r["method"])}</a>'),
        "normalisation": lambda r: e(r["normalisation"]),
        "strip": lambda r: markup.forest(r, top) + markup.axis(top),
        "in-batch": lambda r: with_spread(r, "in_batch"),
        "cross-batch": lambda r: with_spread(r, "cross_batch"),
        "95 % interval": markup.interval,
        "validation": lambda r: number(r["validation"]),
        "per well": lambda r: number(r["cross_batch_well"]),
        "leakage": lambda r: number(r["leakage"]),
        "CPU s": lambda r: number(r["cpu_seconds"], 0),
        "seeds": lambda r: e(str(r["seeds"])),
    }
    seeds = sorted({row["seeds"] for row in rows})
    if len(seeds) == 1:
        del columns["seeds"]
    spread = f"mean ± standard deviation over {' or '.join(map(str, seeds))} seeds" if seeds != [1] else "one seed"
    header = "".join(f"<th>{markup.axis(top) if name == 'strip' else name}</th>" for name in columns)
    bodies = []
    for layout in dict.fromkeys(row["layout"] for row in rows):
        lines = [f'<tr class="group"><th colspan="{len(columns)}">layout: {e(layout)}</th></tr>']
        for row in (r for r in rows if r["layout"] == layout):
            cells = "".join(f'<td data-label="{name}">{cell(row)}</td>' for name, cell in columns.items())
            lines.append(f'<tr class="{"transductive" if row["transductive"] else "inductive"}">{cells}</tr>')
        bodies.append(f"<tbody>{''.join(lines)}</tbody>")
    marks = legend(
        ("in", "", "in-batch accuracy"),
        ("cross", "", "cross-batch accuracy with its 95 % interval"),
        ("cross trans", "", "the same, transductive (T)"),
    )
    chance = {number(s.final.get("leakage/chance")) for of_run in found.values() for s in of_run} - {"–"}
    leakage = "how well the experiment can be read from the embedding, lower is better"
    leakage += f" (chance {' or '.join(sorted(chance))})" if chance else ""
    return (
        f"<p>Accuracy per site, {spread}; <b>per well</b>: cross-batch, from the mean over a well's sites; "
        f"<b>leakage</b>: {leakage}.</p>{marks}"
        f'<div class="scroll"><table><thead><tr>{header}</tr></thead>{"".join(bodies)}</table></div>'
    )


def _experiments(rows, found):
    """A strip a row, with a dot for every experiment of every seed."""

    def read(row, split):
        return [records.by_experiment(seed.final, row["prefix"] + split) for seed in found[row["run"]]]

    accuracies = [{split: read(row, split) for split in ROLES} for row in rows]
    names = {split: sorted({k for a in accuracies for seed in a[split] for k in seed}) for split in ROLES}
    colours = pictures.colours(names["cross_batch"])
    top = markup.top_of_scale(v for a in accuracies for seeds in a.values() for s in seeds for v in s.values())
    scale = f'<div class="line"><div></div>{markup.axis(top)}</div>'
    lines = [scale]
    for layout in dict.fromkeys(row["layout"] for row in rows):
        lines.append(f'<div class="group">layout: {e(layout)}</div>')
        for row, accuracy in zip(rows, accuracies):
            if row["layout"] == layout:
                label = f"{row['method']}, {row['normalisation']}"
                drawn = markup.experiments_strip(label, accuracy, colours, top)
                lines.append(f'<div class="line"><div>{markup.row_name(row, e(label))}</div>{drawn}</div>')
    marks = legend(
        ("in", "", f"training experiments, in-batch ({', '.join(names['in_batch']) or 'none'})"),
        ("val", "", f"validation ({', '.join(names['validation']) or 'none'})"),
        *(("held", colour, f"{name}, held out") for name, colour in colours.items()),
    )
    return (
        "<p>Accuracy per site in each experiment, a dot for each seed: training and validation experiments "
        "in the upper half of a line, held-out ones in the lower.</p>"
        f"{marks}<div>{''.join(lines)}{scale}</div>"
    )


def _curves(found):
    flat = {name: records.flatten(seeds[0].config) if seeds else {} for name, seeds in found.items()}
    tasks = {name: config.get("task.name", name) for name, config in flat.items()}
    figures = []
    for name, seeds in found.items():
        lines = [s.training for s in seeds if s.training]
        same_task = [s.training for other in found if tasks[other] == tasks[name] for s in found[other]]
        drawn = '<p class="absent">no training lines</p>'
        if lines:
            svg = pictures.curves(lines, pictures.loss_limits(same_task))
            drawn = image(svg, "svg+xml", f"training curves of {name}")
        figures.append(f"<figure><figcaption>{e(name)}</figcaption>{drawn}</figure>")
    marks = legend(
        ("bar", pictures.PALETTE[0], "loss of the task (without an adversary's)"),
        ("bar", pictures.PALETTE[2], "accuracy on training minibatches"),
        ("bar", pictures.PALETTE[3], "dashed: accuracy of the adversary"),
    )
    return (
        f"<p>One line a seed. Runs of the same task share the scale of the loss.</p>{marks}"
        f'<div class="grid">{"".join(figures)}</div>'
    )


def _reconstructions(found, base):
    shown, others, missing, size = [], [], [], 0
    for name, seeds in found.items():
        for seed in seeds:
            file = seed.workdir / "reconstruction.png"
            if not file.is_file():
                settings = records.flatten(seed.config)
                wanted = any(key.startswith("evaluators.reconstruction") for key in settings)
                missing += [f"<code>{e(relative(file, base))}</code>"] * wanted
                continue
            if seed is not seeds[0] or size + file.stat().st_size > MAX_RECONSTRUCTIONS:
                others.append(f"<code>{e(relative(file, base))}</code>")
                continue
            size += file.stat().st_size
            losses = (f"{w} {number(seed.final.get(f'reconstruction/{s}/loss'))}" for s, w in ROLES.items())
            caption = f"<b>{e(name)}</b>: loss on hidden patches {', '.join(losses)}"
            picture = image(file.read_bytes(), "png", f"reconstructions of {name}")
            shown.append(f'<figure class="wide">{picture}<figcaption>{caption}</figcaption></figure>')
    more = f"<p>Not shown here: {', '.join(others)}.</p>" if others else ""
    more += f'<p class="absent">Missing: {", ".join(missing)}.</p>' if missing else ""
    if not shown:
        return f'<p class="absent">No run has reconstructions to show.</p>{more}'
    return (
        "<p>Held-out sites: the image, the patches that the encoder saw, and the hidden patches as "
        f"reconstructed; channels in the colours of RxRx1's published composites.</p>{''.join(shown)}{more}"
    )


def _maps(rows, found, perturbations):
    absent = {}
    for name, seeds in found.items():
        read = records.read_embeddings(seeds[0].workdir) if seeds else "no workdir"
        if isinstance(read, str):  # else forgotten: a large dataset's of every run would fill the memory
            absent[name] = read
    chosen = records.choose_for_map(rows, [name for name in found if name not in absent])
    absent = "; ".join(f"{name}: {why}" for name, why in absent.items())
    absent = f'<p class="absent">Without embeddings: {e(absent)}.</p>' if absent else ""
    if not chosen:
        return '<p class="absent">No run has embeddings to show.</p>' + absent
    embeddings = {run: records.read_embeddings(found[run][0].workdir) for run, _ in chosen}

    names = {"cross_batch": set(), "in_batch": set()}
    for run, _ in chosen:
        for site, split in zip(embeddings[run]["site_id"], embeddings[run]["role"]):
            names[split].add(records.experiment(site))
    known = sorted({p for run, _ in chosen for p in perturbations.get(run, {}).values()} - {"EMPTY"})
    some = np.unique(np.linspace(0, len(known) - 1, min(HIGHLIGHTED, len(known))).astype(int))
    palettes = {split: pictures.colours(sorted(names[split])) for split in names}
    palettes["perturbation"] = pictures.colours([known[i] for i in some])
    maps = [_map(run, why, embeddings[run], perturbations.get(run), palettes) for run, why in chosen]
    titles = {
        "cross_batch": "Held-out experiments",
        "in_batch": "In-batch experiments",
        "perturbation": f"{len(some)} of {len(known)} perturbations, evenly spaced by name; others grey",
    }
    marks = (
        f"<div><b>{title}</b> {legend(*(('', colour, name) for name, colour in palettes[key].items()))}</div>"
        for key, title in titles.items()
        if palettes[key]
    )
    return (
        "<p>The first two principal components of the embeddings of held-out and in-batch test sites "
        "together (first seed), so the panels of a run share their axes. Where the batch effect is weak, the "
        f"colours of experiments mix.</p>{''.join(marks)}{''.join(maps)}{absent}"
    )


def _map(run, why, found, perturbations, palettes):
    """The panels of one run: held-out and in-batch sites, each by experiment and by perturbation."""
    title = lambda text: f"<h3>{e(run)} <small>{e(text)}</small></h3>"  # noqa: E731
    scores, shares = pictures.principal_components(found["embedding"])
    if scores is None:
        return f'{title(why)}<p class="absent">All embeddings are the same.</p>'
    margin = 0.04 * np.ptp(scores, axis=0) + 1e-9
    limits = list(zip(scores.min(0) - margin, scores.max(0) + margin))
    panels = []
    for split, sites in (("cross_batch", "held-out"), ("in_batch", "in-batch")):
        here = found["role"] == split
        ids = found["site_id"][here].tolist()
        colourings = {"experiment": ([records.experiment(s) for s in ids], palettes[split])}
        if perturbations:
            colourings["perturbation"] = [perturbations.get(s, "") for s in ids], palettes["perturbation"]
        for what, (labels, palette) in colourings.items():
            png = pictures.embedding_map(scores[here], labels, palette, limits, shares)
            text = f"{sites} by {what}"
            picture = image(png, "png", f"{run}: {text}")
            panels.append(f"<figure>{picture}<figcaption>{text}</figcaption></figure>")
    explained = f"PC 1 and 2 explain {100 * shares[0]:.1f} % and {100 * shares[1]:.1f} % of the variance"
    unknown = "" if perturbations else '<p class="absent">The perturbations of its sites are not known.</p>'
    heading = title(f"{why}; {len(scores)} sites; {explained}")
    return f'{heading}<div class="maps">{"".join(panels)}</div>{unknown}'


def _provenance(rows, found, base):
    first = next((name for name, seeds in found.items() if seeds and seeds[0].config), None)
    parts = []
    for name, seeds in found.items():
        items = [
            f"row {r['row']}: {r['method']}, {r['normalisation']}, {r['layout']}; sites scored: "
            + records.sites_scored(seeds, r["prefix"], ROLES)
            for r in rows
            if r["run"] == name
        ] or ["no row of its own"]
        lines = "".join(f"<li>{e(item)}</li>" for item in items)
        for s in seeds:
            sha = e(str(s.done.get("parameters_sha256", "unknown")))
            folder = e(str(relative(s.workdir, base)))
            lines += f"<li><code>{folder}</code>, parameters_sha256 <code>{sha}</code></li>"
        config = '<p class="absent">No config.</p>'
        if seeds and seeds[0].config:
            reference = found[first][0].config if name != first else None
            summary, text = records.describe_config(seeds[0].config, reference, lambda v: relative(v, base))
            summary += f" from {first}" if reference else ""
            config = f"<details><summary>{e(summary)}</summary><pre>{e(text)}</pre></details>"
        parts.append(f'<article id="{anchor(name)}"><h3>{e(name)}</h3><ul>{lines}</ul>{config}</article>')
    return "".join(parts)
