"""page.html of a map: a heat map, neighbours, doses, chromosome arms and benchmarks, in one file that needs no network.

Its skeleton is map.html; the same map gives the same bytes.
"""

import pathlib
from typing import Any

import numpy as np

from rxrx_jax.base import files, page
from rxrx_jax.base.page import Cell, figures, number
from rxrx_jax.maps import folder, markdown
from rxrx_jax.maps.benchmark.genome import ARMS, Genome
from rxrx_jax.maps.benchmark.relations import Relations
from rxrx_jax.maps.folder import Map
from rxrx_jax.maps.show import pack
from rxrx_jax.maps.show.query import Entities

NAME = "page.html"
LONG = 12  # rows of a table that is folded away
CELLS = 256  # of the heat map, along each side
BEFORE, AFTER = "#808080", "#0072B2"
COLUMNS = {"neighbour": "name", "kind": "kind", "µM": "dose", "at µM": "own", "cosine": "cosine",
           "percentile": "percentile", "known from": "known", "same arm": "arm"}  # fmt: skip
NUMBERS = ("dose", "own", "cosine", "percentile")


def write(found: Map, path: pathlib.Path, known: list[Relations], genome: Genome | None, command: str) -> pathlib.Path:
    """Writes the page of a map and returns its path.

    Args: known, whose pairs are named with neighbours; genome, for the order along chromosomes and for warnings of one
    arm; command, that makes it. Raises UserError where Bokeh is not installed or the map has neither gene nor compound.
    """
    figures.check()
    entities = Entities(found)
    packed = pack.pack(found, entities, known, genome)
    columns = {heading: key for heading, key in COLUMNS.items() if _used(key, packed, known, genome)}
    data = packed.data | {"columns": list(columns.values()), "numbers": NUMBERS, "cells": CELLS}
    here = pathlib.Path(__file__).parent
    text = page.templates(here).get_template("map.html").render(
        title=f"Map {found.path.resolve().name}",
        facts=_facts(found, entities),
        command=command,
        data=data,
        style=(here / "map.css").read_text(),
        scripts=[figures.script(), *((here / name).read_text() for name in ("map.js", "heat.js"))],
        columns=list(columns),
        numeric=[i for i, key in enumerate(columns.values()) if key in NUMBERS],
        has_curves=bool(packed.data["curves"]),
        doses=_doses(packed.data["curves"]),
        views=packed.views,
        error=f"{packed.error:.1g}",
        heat=_heat() if packed.views else None,
        arms=_arms(found),
        benchmark=_benchmark(found),
        top=packed.data["top"],
    )  # fmt: skip
    files.write(path, text)
    return path


def _used(key: str, packed: pack.Packed, known: list[Relations], genome: Genome | None) -> bool:
    compounds = bool(packed.data["dose"])
    return {"dose": compounds, "own": compounds, "known": bool(known), "arm": genome is not None}.get(key, True)


def _facts(found: Map, entities: Entities) -> list[str]:
    """How the map was made, in sentences."""
    kinds = entities.kind[entities.start[:-1]]
    counts = [f"{int((kinds == kind).sum()):,} {kind}s" for kind in ("gene", "compound") if (kinds == kind).any()]
    facts, made = found.facts, [" and ".join(counts) + "."]
    if "rows" in facts:
        wells = f"{facts['rows']:,} rows in {facts['batches']:,} batches, {facts['controls_found']:,} of them controls"
        made.append(f"Of {wells}; aligned by {facts['align']}, aggregated by {facts['aggregate']}.")
    made.append(f"Marks: {facts.get('marks') or 'none'}.")
    return made


def _heat() -> dict[str, Any]:
    """The heat map, whose image heat.js makes."""
    from bokeh.models import ColorBar, ColumnDataSource, FixedTicker, LinearColorMapper
    from bokeh.palettes import interp_palette

    blank = {"image": [np.full((1, 1), np.nan, np.float32)], "x": [0], "y": [0], "dw": [1], "dh": [1]}
    source = ColumnDataSource(blank, name="heat")
    colours = interp_palette(["#2166ac", "#92c5de", "#f7f7f7", "#f4a582", "#b2182b"], 255)
    mapper = LinearColorMapper(palette=list(colours), low=-1, high=1, nan_color="rgba(128,128,128,0.35)")
    mapper.name = "heat-colours"
    one = figures.figure(480, "pan,box_zoom,wheel_zoom,save", x_range=(0, 1), y_range=(1, 0), name="heat-map")
    one.toolbar_location = "above"
    one.image("image", "x", "y", "dw", "dh", source=source, color_mapper=mapper)
    cursor = ColumnDataSource({"x": [], "y": [], "w": [], "h": []}, name="heat-cursor")
    one.rect("x", "y", "w", "h", source=cursor, fill_color=None, line_color="#000000", line_width=2)
    one.add_layout(ColorBar(color_mapper=mapper, background_fill_color=None, width=8), "right")
    for axis in (*one.xaxis, *one.yaxis):
        axis.ticker = FixedTicker(ticks=[])
        axis.major_label_text_font_size = "9px"
    one.xaxis.major_label_orientation = "vertical"
    one.grid.visible = False
    return figures.group({"heat map of cosines; the keys and the buttons beside it say the same in words": one})


def _doses(curves: dict[str, dict[str, Any]]) -> dict[str, Any] | None:
    """Cosine and length over doses; map.js puts the chosen compound's into it."""
    from bokeh.models import ColumnDataSource

    if not curves:
        return None
    first = next(iter(curves.values()))
    blank = [None] * len(first["dose"])
    columns = {"dose": first["dose"], "length": first["length"], "cosine": first.get("cosine", blank)}
    source = ColumnDataSource(columns, name="curve")
    drawn = {}
    for key, colour in (("cosine", AFTER), ("length", "#D55E00")):
        if not any(key in curve for curve in curves.values()):
            continue  # a map without genes
        tips = [("µM", "@dose"), (key, f"@{key}{{0.000}}")]
        one = figures.figure(230, "hover,save", title=key, x_axis_type="log", tooltips=tips)
        one.line("dose", key, source=source, line_color=colour, line_width=2)
        one.scatter("dose", key, source=source, color=colour, size=8)
        one.xaxis.axis_label = "µM"
        drawn[f"{key} at each dose, in the table below"] = one
    return figures.group(drawn)


def _arms(found: Map) -> dict[str, Any] | None:
    """How alike the genes of each arm are, before and after centring where the map's arms were centred, else as the
    benchmark has it; None without either."""
    if (centred := found.facts.get("arm_centring")) is not None:
        by_arm = centred["by_arm"]
        rows = [[name, one["genes"], one["c"], one["before"], one["after"]] for name, one in by_arm.items()]
        change = f"{number(centred['probability_before'])} before and {number(centred['probability_after'])} after"
        words = f"Arms were centred ({centred['how']}): over all arms {change}."
        heads = ["arm", "genes", "c", "before", "after"]
    elif (measured := (_read(found) or {}).get("proximity")) is not None:
        rows = [[one["arm"], one["genes"], one["probability"]] for one in measured["arms"]]
        words = f"Arms were not centred: over all arms {number(measured['genome']['probability'])}."
        heads = ["arm", "genes", "as it is"]
    else:
        return None
    rows.sort(key=lambda row: ARMS.index(row[0]))
    cells = [
        [name, Cell(f"{genes:,}", genes), *(Cell(number(value), value) for value in values)]
        for name, genes, *values in rows
    ]
    centring = "c" in heads
    places = {"arm": 0, "genes": 1, "before": -1 - centring, "after": -1}
    columns = {key: [row[i] for row in rows] for key, i in places.items()}
    return {"words": words, "columns": heads, "rows": cells, "centred": centring, "figures": _strip(columns, centring)}


def _strip(columns: dict[str, list], centred: bool) -> dict[str, Any]:
    from bokeh.models import ColumnDataSource, Span

    columns = columns | {"place": list(range(len(columns["arm"])))}
    source = ColumnDataSource({key: [np.nan if v is None else v for v in values] for key, values in columns.items()})
    tips = [("arm", "@arm, @genes genes"), *([("before", "@before{0.000}"), ("after", "@after{0.000}")] if centred
            else [("probability", "@after{0.000}")])]  # fmt: skip
    one = figures.figure(260, "hover,save", x_range=(-0.5, len(columns["arm"]) - 0.5), tooltips=tips)
    one.add_layout(Span(location=0.5, dimension="width", line_color="#808080", line_dash="dashed"))
    if centred:
        one.segment("place", "before", "place", "after", source=source, line_color=BEFORE, line_width=1.5)
        one.scatter("place", "before", source=source, size=8, line_color=BEFORE, fill_color=None, line_width=2)
    one.scatter("place", "after", source=source, size=8, color=AFTER)
    written = _chromosomes(columns["arm"])
    one.xaxis.ticker, one.xaxis.major_label_overrides = list(written), written
    one.xaxis.major_label_text_font_size = "9px"
    one.xaxis.axis_label, one.yaxis.axis_label = "chromosome, p before q", "probability"
    one.grid.visible = False
    return figures.group({"probability that genes of an arm are alike, in the table below": one})


def _chromosomes(arms: list[str]) -> dict[int, str]:
    """What stands under arms, by place: a chromosome under the first of its arms, and never two side by side, for which
    a telephone is too narrow."""
    labels: dict[int, str] = {}
    for i, arm in enumerate(arms):
        before = arms[i - 1] if i else ""
        if arm[:-1] != before[:-1] and i - 1 not in labels:
            labels[i] = arm[3:-1]
    return labels


def _read(found: Map) -> dict[str, Any] | None:
    path = found.path / folder.BENCHMARK
    return files.read_json(path, "run the benchmark again") if path.exists() else None


def _benchmark(found: Map) -> dict[str, Any] | None:
    """The tables of benchmark.json; None without one."""
    if (result := _read(found)) is None:
        return None
    tables = []
    for one in markdown.sections(result):
        keys = list(one.columns.values())
        rows = [[_cell(row.get(key)) for key in keys] for row in one.rows]
        numeric = [i for i, key in enumerate(keys) if any(isinstance(row.get(key), int | float) for row in one.rows)]
        fold = f"{len(rows)} rows" if len(rows) > LONG else ""
        tables.append(one._asdict() | {"heads": list(one.columns), "cells": rows, "numeric": numeric, "fold": fold})
    return {"command": result.get("command", ""), "summary": markdown.summary(result), "tables": tables}


def _cell(value: Any) -> Cell | str:
    text = str(value) if isinstance(value, str) else markdown.cell(value) or "–"
    return Cell(text, float(value)) if isinstance(value, int | float) else text
