"""report.html of a prepared folder: what a build kept, what it set aside, and what the images look like.

`write` is the whole interface. It reads the files of the folder and nothing else; the page needs no network.
"""

import collections
import math
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from rxrx_jax.base import page
from rxrx_jax.base.spellings import SPLITS, WELL_TYPES
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
    "tile",
    "grid",
    "published",
    "counts",
    "facts",
    "sums",
)


def write(folder: pathlib.Path) -> pathlib.Path:
    """Writes report.html of a prepared folder from the folder's other files, and returns its path.

    metadata.json gives the published design as {fact: number} in 'published', and what the source's tables hold by
    the same names in 'counts'. UserError for a file that is missing or does not fit the others.
    """
    found = contents.read(folder)
    info = found.info
    path = folder / "report.html"
    text = page.templates(pathlib.Path(__file__).parent).get_template("report.html").render(
        title=", ".join((info["name"], info.get("configName", "default"), info["version"])),
        partial=_partial(found),
        notes=found.metadata.get("notes") or [],
        about=_about(found),
        splits=_splits(found),
        published=_published(found),
        experiments=_experiments(found),
        plates=_plates(found),
        classes=_classes(found),
        set_aside=_set_aside(found),
        unlisted=_unlisted(found),
        histograms=gallery.histograms(found),
        pixel_values=_pixel_values(found),
        maps=gallery.plate_maps(found),
        edges=_edges(found),
        sites=gallery.sites(found, image_reader(folder)),
    )  # fmt: skip
    path.write_text(text, encoding="utf-8")
    return path


def image_reader(folder: pathlib.Path) -> Callable[[str, int], np.ndarray]:
    """Returns the function from (split, index) to the image of a site, [H, W, C] uint8 or uint16."""
    import tensorflow_datasets as tfds  # here: it takes a second, and importers of this module may not need it

    from tfds_builders.common import encodings

    builder = tfds.builder_from_directory(folder)
    sources, about = builder.as_data_source(), builder.info.metadata
    tiles = math.prod(about.get("grid", ()))
    if "grid" not in about:
        return lambda split, index: sources[split][index]["image"]
    of = lambda split, index: [sources[split][index * tiles + tile]["image"] for tile in range(tiles)]  # noqa: E731
    return lambda split, index: encodings.join(of(split, index), tuple(about["image_shape"]))


def _text(value: Any) -> str:
    """A fact as text: thousands with commas, a dash for what is not known."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float)):
        return f"{value:,.15g}"
    if value is None or value == "":
        return "–"
    if isinstance(value, dict):
        return "; ".join(f"{key}: {_text(v)}" for key, v in value.items()) or "none"
    if isinstance(value, (list, tuple)):
        more = [f"and {len(value) - ENUMERATED:,} more"] * (len(value) > ENUMERATED)
        items = [*map(_text, value[:ENUMERATED]), *more]
        return (" " if items[0].endswith(".") else ", ").join(items) if items else "none"
    return str(value)


def _table(caption: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> dict:
    """A table for the template; a long one is folded away."""
    rows = list(rows)
    numeric = [i for i in range(len(columns)) if all(isinstance(row[i], (int, float, type(None))) for row in rows)]
    fold = f"{caption}: {len(rows):,} rows" if len(rows) > UNFOLDED else ""
    rows = [[*map(_text, row)] for row in rows]
    return {"caption": caption, "columns": columns, "rows": rows, "numeric": numeric, "fold": fold}


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


def _about(found: Contents) -> dict[str, str]:
    metadata = found.metadata
    height, width, _ = metadata["image_shape"]
    tiles = math.prod(metadata.get("grid", ()))
    cut = f"; cut into {tiles:,} tiles of {metadata['tile']} x {metadata['tile']}, a record each" if tiles > 1 else ""
    facts = {
        "sites" if cut else "records": f"{_text(found.facts()['sites'])} ({found.bytes / 1e6:,.1f} MB as serialised)",
        "set aside": found.set_aside,
        "image": f"{height} x {width} pixels, {metadata['bits']} bits, {_plural(len(found.channels), 'channel')}{cut}",
        "channels": [f"w{i + 1} {name}" for i, name in enumerate(found.channels)],
        **{key: value for key, value in metadata.items() if key not in NOT_FACTS},
        **metadata.get("facts", {}),
        "settings": metadata.get("settings"),
    }
    return {key.replace("_", " "): _text(value) for key, value in facts.items()}


def _splits(found: Contents) -> dict:
    rows = [(split, found.count(split), found.aside_splits[split]) for split in SPLITS]
    unknown = found.set_aside - sum(found.aside_splits[split] for split in SPLITS)
    if unknown:
        rows.append(("unknown", 0, unknown))
    rows.append(("all", sum(row[1] for row in rows), found.set_aside))
    return _table("Records by split", ("split", "records", "set aside"), rows)


def _published(found: Contents) -> dict:
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
    return {"text": text, "remarks": remarks, "table": _table("Counts against the published design", columns, rows)}


def _difference(number: int | None, reference: int | None, words: str) -> str:
    if number is None or reference is None or number == reference:
        return ""
    return f"{abs(number - reference):,} {'fewer' if number < reference else 'more'} {words}"


def _experiments(found: Contents) -> dict:
    names = sorted(found.experiments.keys() | (found.aside_experiments.keys() - {""}))
    plates = collections.Counter(experiment for experiment, _ in found.plates)
    rows = []
    for name in names:
        counts = found.experiments.get(name, {})
        totals = (sum(counts.values()), found.aside_experiments[name], plates[name])
        rows.append((name, found.cell_types.get(name), *totals, *(counts.get(split, 0) for split in SPLITS)))
    without = found.aside_experiments[""]
    note = f"{_plural(without, 'site')} set aside without an experiment." if without else ""
    columns = ("experiment", "cell type", "records", "set aside", "plates", *SPLITS)
    return {"note": note, "table": _table("Records by experiment", columns, rows)}


def _plates(found: Contents) -> dict:
    key = lambda plate: (plate[0], int(plate[1]) if plate[1].isdecimal() else 0, plate[1])  # noqa: E731
    names = sorted(found.plates.keys() | found.aside_plates.keys(), key=key)
    wells = {plate: int(wells.sum()) for plate, wells in found.wells.items()}
    of = lambda counts: [counts.get(plate, 0) for plate in names]  # noqa: E731
    columns = {"records": of(found.plates), "wells with a record": of(wells), "sites set aside": of(found.aside_plates)}
    spread = [(name, *_spread(values)) for name, values in columns.items()]
    rows = [(*plate, *counts) for plate, *counts in zip(names, *columns.values())]
    head = ("experiment", "plate", "records", "wells", "set aside")
    return {
        "number": _plural(len(names), "plate"),
        "spread": _table("Over the plates", ("of a plate", "fewest", "median", "most"), spread),
        "table": _table("Records by plate", head, rows),
    }


def _classes(found: Contents) -> dict:
    labels = list(found.names) + [label for label in found.classes if label not in found.names]
    kinds = {label: found.names.get(label, ("", "unknown"))[1] for label in labels}
    rows = []
    for kind in dict.fromkeys([*WELL_TYPES, *kinds.values()]):
        of_kind = [found.classes[label] for label in labels if kinds[label] == kind]
        if of_kind:
            rows.append((kind.replace("_", " "), len(of_kind), *_spread(of_kind), of_kind.count(0)))
    rarest = sorted(labels, key=lambda label: (found.classes[label], int(label)))[:RAREST]
    rare = [
        (label, found.names.get(label, ("",))[0], kinds[label].replace("_", " "), found.classes[label])
        for label in rarest
    ]
    columns = ("well type", "classes", "fewest", "median", "most", "without a record")
    return {
        "number": _plural(len(labels), "class").replace("classs", "classes"),
        "unlabelled": _plural(found.unlabelled, "record") if found.unlabelled else "",
        "table": _table("Records of a class", columns, rows),
        "rarest": _table("The rarest classes", ("perturbation_id", "perturbation", "well type", "records"), rare),
    }


def _set_aside(found: Contents) -> dict:
    if not found.set_aside:
        return {"text": "Nothing: every site of the source is a record.", "reasons": None}
    shown = found.reasons.most_common(REASONS_SHOWN)
    others = found.set_aside - sum(number for _, number in shown)
    verb = "is" if found.set_aside == 1 else "are"
    return {
        "text": f"{_plural(found.set_aside, 'site')} of the source {verb} not in the records:",
        "reasons": _table("Reasons", ("reason", "sites"), shown + [("other reasons", others)] * bool(others)),
        "which": _which(found.set_aside, "set_aside.csv"),
        "sites": _table("The sites", ("site", "reason", "experiment", "split"), found.aside_listed),
    }


def _unlisted(found: Contents) -> dict:
    if not found.unlisted:
        return {"text": "None: a row asks for every image file.", "files": None}
    return {
        "text": f"No row asks for {_plural(found.unlisted, 'image file')} of the source.",
        "which": _which(found.unlisted, "unlisted.csv"),
        "files": _table("The files", ("file",), ([name] for name in found.unlisted_listed)),
    }


def _which(number: int, file: str) -> str:
    """Says that a list stops."""
    return f"The first {LISTED:,} of {number:,}; {file} has all." if number > LISTED else ""


def _pixel_values(found: Contents) -> dict:
    names = sorted(found.experiments)
    rows = [(name, found.cell_types[name], *_numbers(found, name)) for name in names if name in found.histograms]
    whole = found.statistics["dataset"]
    if whole["mean"]:
        rows.insert(0, ("train split", None, *(f"{m:.2f} ± {s:.2f}" for m, s in zip(whole["mean"], whole["std"]))))
    columns = ("experiment", "cell type", *(f"w{i + 1}" for i in range(len(found.channels))))
    return _table("Pixel values: mean ± standard deviation; 99.9th percentile", columns, rows)


def _numbers(found: Contents, name: str) -> list[str]:
    """Mean, standard deviation and 99.9th percentile of every channel of an experiment."""
    entry = found.statistics["experiment"][name]
    top = [pictures.percentile(counts, 0.999, found.step) for counts in found.histograms[name]]
    return [f"{m:.2f} ± {s:.2f}; {t:,}" for m, s, t in zip(entry["mean"], entry["std"], top)]


def _edges(found: Contents) -> dict:
    edges = {name: contents.edges(sums) for name, sums in sorted(found.sums.items())}
    rows = [(name, *(page.number(value, 2) for value in values)) for name, values in edges.items()]
    columns = ("experiment", *(f"w{i + 1}" for i in range(len(found.channels))))
    return _table("The outermost wells less the others, in standard deviations", columns, rows)
