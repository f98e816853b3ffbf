"""report.html of a prepared folder: what a build kept, what it set aside, and what the images look like.

`write` is the whole interface. It reads the files of the folder and nothing else; the page needs no network.
"""

import collections
import pathlib
from collections.abc import Callable, Iterable, Sequence
from html import escape as e
from typing import Any

import numpy as np

from rxrx_jax.report import markup
from tfds_builders.common.types import SPLITS
from tfds_builders.report import contents, gallery, pictures
from tfds_builders.report.contents import LISTED, Contents

REASONS_SHOWN = 20
ENUMERATED = 24  # items of a fact or setting, on one line
RAREST = 20  # classes
UNFOLDED = 60  # rows; a longer table is folded away
SELECTIONS = ("experiments", "plates", "cell_types")  # settings that make a partial build
NOT_FACTS = (
    "settings",
    "notes",
    "channels",
    "records",
    "set_aside",
    "unlisted",
    "image_shape",
    "bits",
    "published",
    "counts",
    "facts",
)
WELL_TYPES = ("treatment", "positive_control", "negative_control")
STYLE = """
.number{text-align:right}table{width:auto;min-width:min(100%,24rem)}details,.scroll{margin:.5rem 0}
dl{display:grid;grid-template-columns:minmax(7rem,max-content) 1fr;gap:.1rem 1rem;font-size:.9rem}
dt{color:#555}dd{margin:0;overflow-wrap:anywhere}
.sites{grid-template-columns:repeat(auto-fill,minmax(150px,1fr))}
.plots{grid-template-columns:repeat(auto-fill,minmax(300px,1fr))}
.pixels img{image-rendering:pixelated}
.row{display:grid;grid-template-columns:repeat(6,1fr);gap:.2rem .5rem;break-inside:avoid}
.row h4{grid-column:1/-1;margin:.5rem 0 0;font-size:.9rem}
.ramp{display:inline-block;width:8rem;height:.7em;margin:0 .4em;
background:linear-gradient(90deg,#053061,#4393c3,#f7f7f7,#d6604d,#67001f)}
.none{display:inline-block;width:1em;height:.7em;background:#d6d6d6}
@media screen and (max-width:760px){table{display:table;font-size:.74rem}thead{display:table-header-group}
tbody{display:table-row-group}tr{display:table-row}td{border-top:1px solid #eee}td::before{content:none}
th,td{padding:.15rem .25rem}td:only-child{overflow-wrap:anywhere}
.row{grid-template-columns:repeat(3,1fr)}.sites{grid-template-columns:1fr 1fr}dl{display:block}dd{margin-bottom:.4rem}}
@media print{section>p,.legend{break-after:avoid}
.sites{grid-template-columns:repeat(6,1fr)}.plots{grid-template-columns:repeat(3,1fr)}}
"""


def write(folder: pathlib.Path) -> pathlib.Path:
    """Writes report.html of a prepared folder from the folder's other files, and returns its path.

    metadata.json gives the published design as {fact: number} in 'published', and what the source's tables hold by
    the same names in 'counts'. UserError for a file that is missing or does not fit the others.
    """
    found = contents.read(folder)
    info = found.info
    title = ", ".join((info["name"], info.get("configName", "default"), info["version"]))
    sections = {
        "Splits": _splits(found),
        "Published design": _published(found),
        "Experiments": _experiments(found),
        "Plates": _plates(found),
        "Classes": _classes(found),
        "Set aside": _set_aside(found),
        "Files without a row": _unlisted(found),
        "Pixel values": _pixel_values(found),
        "Plate maps": _plate_maps(found),
        "Sites": gallery.sites(found, image_reader(folder)),
    }
    links = " · ".join(f'<a href="#{markup.anchor(name)}">{name}</a>' for name in sections)
    header = f"<header><h1>{e(title)}</h1>{_about(found)}<nav>{links}</nav></header>"
    body = (f'<section id="{markup.anchor(n)}"><h2>{n}</h2>{text}</section>' for n, text in sections.items())
    page = markup.document(title, "\n".join([header, *body])).replace("</style>", f"{STYLE}</style>", 1)
    path = folder / "report.html"
    path.write_text(page, encoding="utf-8")
    return path


def image_reader(folder: pathlib.Path) -> Callable[[str, int], np.ndarray]:
    """Returns the function from (split, index) to the image of a record, [H, W, C] uint8 or uint16."""
    import tensorflow_datasets as tfds  # here: it takes a second, and who imports this module may not need it

    sources = tfds.builder_from_directory(folder).as_data_source()
    return lambda split, index: sources[split][index]["image"]


def _text(value: Any) -> str:
    """A fact as text: thousands with commas, a dash for what is not known."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float)):
        return f"{value:,.15g}"
    if value is None or value == "":
        return "–"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_text(v)}" for key, v in value.items()) or "none"
    if isinstance(value, (list, tuple)):
        more = [f"and {len(value) - ENUMERATED:,} more"] * (len(value) > ENUMERATED)
        items = [*map(_text, value[:ENUMERATED]), *more]
        return (" " if items[0].endswith(".") else ", ").join(items) if items else "none"
    return str(value)


def _table(columns: Sequence[str], rows: Iterable[Sequence[Any]], fold: str = "") -> str:
    """A table; a long one is folded away behind the text `fold`, if there is one."""
    rows = list(rows)
    numbers = [all(isinstance(row[i], (int, float, type(None))) for row in rows) for i in range(len(columns))]
    kinds = [' class="number"' if number else "" for number in numbers]
    head = "".join(f"<th{kind}>{e(name)}</th>" for name, kind in zip(columns, kinds))
    lines = ("".join(f"<td{kind}>{e(_text(value))}</td>" for kind, value in zip(kinds, row)) for row in rows)
    body = "\n".join(f"<tr>{line}</tr>" for line in lines)
    table = f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    if fold and len(rows) > UNFOLDED:
        return f"<details><summary>{e(fold)}</summary>{table}</details>"
    return table


def _list(items: Iterable[str]) -> str:
    return f"<ul>{''.join(f'<li>{e(item)}</li>' for item in items)}</ul>"


def _plural(number: int, one: str) -> str:
    return f"{number:,} {one}{'' if number == 1 else 's'}"


def _spread(values: Iterable[int]) -> list[Any]:
    """Minimum, median and maximum."""
    values = list(values)
    return [min(values), float(np.median(values)), max(values)] if values else [None] * 3


def _partial(found: Contents) -> str:
    """The settings that make a build partial, in words; empty for a whole one."""
    settings = found.metadata.get("settings") or {}
    # A simulated screen has plates and cell_types of its own: they say what it is, not what was left out.
    keys = SELECTIONS if found.metadata.get("published") else SELECTIONS[:1]
    chosen = ((key.replace("_", " "), settings.get(key)) for key in keys)
    return "; ".join(f"{key} {_text(value)}" for key, value in chosen if value)


def _about(found: Contents) -> str:
    metadata = found.metadata
    height, width, _ = metadata["image_shape"]
    facts = {
        "records": f"{_text(found.facts()['sites'])} ({found.bytes / 1e6:,.1f} MB as serialised)",
        "set aside": found.set_aside,
        "image": f"{height} x {width} pixels, {metadata['bits']} bits, {_plural(len(found.channels), 'channel')}",
        "channels": [f"w{i + 1} {name}" for i, name in enumerate(found.channels)],
        **{key: value for key, value in metadata.items() if key not in NOT_FACTS},
        **metadata.get("facts", {}),
        "settings": metadata.get("settings"),
    }
    items = (f"<dt>{e(key.replace('_', ' '))}</dt><dd>{e(_text(value))}</dd>" for key, value in facts.items())
    partial = _partial(found)
    warning = f'<p class="warning">This is a partial build: {e(partial)}.</p>' if partial else ""
    notes = metadata.get("notes") or []
    return f"{warning}{_list(notes) if notes else ''}<dl>{''.join(items)}</dl>"


def _splits(found: Contents) -> str:
    rows = [(split, found.count(split), found.aside_splits[split]) for split in SPLITS]
    unknown = found.set_aside - sum(found.aside_splits[split] for split in SPLITS)
    if unknown:
        rows.append(("unknown", 0, unknown))
    rows.append(("all", sum(row[1] for row in rows), found.set_aside))
    return _table(("split", "records", "set aside"), rows)


def _published(found: Contents) -> str:
    """What the design says, the source's tables hold and the records hold, with every difference in words."""
    published, records = found.metadata.get("published") or {}, found.facts()
    counts = found.metadata.get("counts", {})
    rows, remarks = [], {}
    for fact in dict.fromkeys(["sites", *published, *counts]):
        design, table, held = published.get(fact), counts.get(fact), records.get(fact)
        aside = found.set_aside if fact == "sites" else None
        words = [_difference(table, design, "in the table than published")]
        if held is None:
            words.append("not counted in the records")
        elif table is None:
            words.append(_difference(held, design, "in the records than published"))
        elif aside is None:
            words.append(_difference(held, table, "in the records than in the table"))
        else:
            words.append(f"{aside:,} set aside" if aside else "")
            words.append(_difference(held + aside, table, "records and sites set aside than rows of the table"))
        name = fact.replace("_", " ")
        remarks[name] = "; ".join(filter(None, words))
        rows.append((name, design, table, held, aside))
    remarks = [f"{name}: {words}" for name, words in remarks.items() if words]
    if not published:
        text = "No counts are published for this dataset."
    else:
        text = "These counts differ:" if remarks else "Every count is as published."
    if _partial(found):
        text = f"This build is partial, so it holds less than the whole dataset. {text}"
    columns = ("count", "published", "in the table", "records", "set aside")
    return f"<p>{e(text)}</p>{_list(remarks) if remarks else ''}{_table(columns, rows)}"


def _difference(number: int | None, reference: int | None, words: str) -> str:
    if number is None or reference is None or number == reference:
        return ""
    return f"{abs(number - reference):,} {'fewer' if number < reference else 'more'} {words}"


def _experiments(found: Contents) -> str:
    names = sorted(found.experiments.keys() | (found.aside_experiments.keys() - {""}))
    plates = collections.Counter(experiment for experiment, _ in found.plates)
    rows = []
    for name in names:
        counts = found.experiments.get(name, {})
        totals = (sum(counts.values()), found.aside_experiments[name], plates[name])
        rows.append((name, found.cell_types.get(name), *totals, *(counts.get(split, 0) for split in SPLITS)))
    without = found.aside_experiments[""]
    note = f"<p>{_plural(without, 'site')} set aside without an experiment.</p>" if without else ""
    columns = ("experiment", "cell type", "records", "set aside", "plates", *SPLITS)
    return note + _table(columns, rows, f"The {len(rows):,} experiments")


def _plates(found: Contents) -> str:
    key = lambda plate: (plate[0], int(plate[1]))  # noqa: E731
    names = sorted(found.plates.keys() | found.aside_plates.keys(), key=key)
    wells = {plate: int(wells.sum()) for plate, wells in found.wells.items()}
    of = lambda counts: [counts.get(plate, 0) for plate in names]  # noqa: E731
    columns = {"records": of(found.plates), "wells with a record": of(wells), "sites set aside": of(found.aside_plates)}
    spread = [(name, *_spread(values)) for name, values in columns.items()]
    rows = [(*plate, *counts) for plate, *counts in zip(names, *columns.values())]
    text = f"<p>{_plural(len(names), 'plate')}; of each:</p>"
    head = ("experiment", "plate", "records", "wells", "set aside")
    return text + _table(("", "fewest", "median", "most"), spread) + _table(head, rows, f"The {len(rows):,} plates")


def _classes(found: Contents) -> str:
    labels = list(found.names) + [label for label in found.classes if label not in found.names]
    kinds = {label: found.names.get(label, ("", "unknown"))[1] for label in labels}
    rows = []
    for kind in dict.fromkeys([*WELL_TYPES, *kinds.values()]):
        of_kind = [found.classes[label] for label in labels if kinds[label] == kind]
        if of_kind:
            rows.append((kind.replace("_", " "), len(of_kind), *_spread(of_kind), of_kind.count(0)))
    text = f"<p>{_plural(len(labels), 'class').replace('classs', 'classes')}; records of each:</p>"
    if found.unlabelled:
        text += f"<p>{_plural(found.unlabelled, 'record')} without a label (perturbation_id -1).</p>"
    rarest = sorted(labels, key=lambda label: (found.classes[label], int(label)))[:RAREST]
    rare = [
        (label, found.names.get(label, ("",))[0], kinds[label].replace("_", " "), found.classes[label])
        for label in rarest
    ]
    columns = ("well type", "classes", "fewest", "median", "most", "without a record")
    return f"{text}{_table(columns, rows)}<h3>The rarest</h3>" + _table(
        ("perturbation_id", "perturbation", "well type", "records"), rare
    )


def _set_aside(found: Contents) -> str:
    if not found.set_aside:
        return "<p>Nothing: every site of the source is a record.</p>"
    shown = found.reasons.most_common(REASONS_SHOWN)
    others = found.set_aside - sum(number for _, number in shown)
    rows = shown + [("other reasons", others)] * bool(others)
    sites = _table(("site", "reason", "experiment", "split"), found.aside_listed, "The sites")
    verb = "is" if found.set_aside == 1 else "are"
    text = f"{_plural(found.set_aside, 'site')} of the source {verb} not in the records:"
    listed = f"<h3>Which sites</h3>{_which(found.set_aside, 'set_aside.csv')}{sites}"
    return f"<p>{text}</p>{_table(('reason', 'sites'), rows)}{listed}"


def _unlisted(found: Contents) -> str:
    if not found.unlisted:
        return "<p>None: a row asks for every image file.</p>"
    files = _table(("file",), ([name] for name in found.unlisted_listed), "The files")
    text = f"<p>No row asks for {_plural(found.unlisted, 'image file')} of the source.</p>"
    return f"{text}{_which(found.unlisted, 'unlisted.csv')}{files}"


def _which(number: int, file: str) -> str:
    """Says that a list stops."""
    return f"<p>The first {LISTED:,} of {number:,}; {file} has all.</p>" if number > LISTED else ""


def _pixel_values(found: Contents) -> str:
    names = sorted(found.experiments)
    rows = [(name, found.cell_types[name], *_numbers(found, name)) for name in names if name in found.histograms]
    whole = found.statistics["dataset"]
    if whole["mean"]:
        rows.insert(0, ("train split", None, *(f"{m:.2f} ± {s:.2f}" for m, s in zip(whole["mean"], whole["std"]))))
    columns = ("experiment", "cell type", *(f"w{i + 1}" for i in range(len(found.channels))))
    return (
        "<p>How often each pixel value occurs, a line for each experiment. Where lines of one colour lie apart, "
        f"experiments on the same cell type differ.</p>{gallery.histograms(found)}<details><summary>In numbers: mean ± "
        f"standard deviation; 99.9th percentile</summary>{_table(columns, rows)}</details>"
    )


def _numbers(found: Contents, name: str) -> list[str]:
    """Mean, standard deviation and 99.9th percentile of every channel of an experiment."""
    entry = found.statistics["experiment"][name]
    top = [pictures.percentile(counts, 0.999, found.step) for counts in found.histograms[name]]
    return [f"{m:.2f} ± {s:.2f}; {t:,}" for m, s, t in zip(entry["mean"], entry["std"], top)]


def _plate_maps(found: Contents) -> str:
    edges = {name: contents.edges(sums) for name, sums in sorted(found.sums.items())}
    rows = [(name, *(markup.number(value, 2) for value in values)) for name, values in edges.items()]
    columns = ("experiment", *(f"w{i + 1}" for i in range(len(found.channels))))
    return (
        f"{gallery.plate_maps(found)}<details><summary>In numbers: the outermost wells with records less the others, "
        f"in standard deviations</summary>{_table(columns, rows)}</details>"
    )
