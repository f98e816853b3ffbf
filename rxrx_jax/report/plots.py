"""The figures of a run's or a table's page: rows with their intervals, experiments, curves, plates and confusions."""

import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rxrx_jax.base.page import figures
from rxrx_jax.report.pictures import PALETTE

POINTS = 400  # of a curve, at most
DRAWN = 8  # rows by experiment, at most
BESIDE = 28  # characters of a row's name in a line: on a phone the figure needs the rest of the width
NAMED = 64  # classes of a matrix whose names fit beside it
CLUSTERED = 2_000  # classes of a matrix that are put in order by who is taken for whom
VALUES = 200_000  # of wells in plate maps, a megabyte: with more of them, experiments are left out
NUMBERED = 8  # columns of a plate whose numbers are written: a phone is too narrow for more
HOVER = "hover,pan,wheel_zoom,box_zoom,reset,save"
INSIDE, CROSS, MARKED = "#808080", PALETTE[0], PALETTE[3]


def rows(found: Sequence[Mapping[str, Any]], words: Mapping[str, str]) -> dict[str, Any]:
    """A line per row of a table: in-batch, cross-batch and its interval.

    Args: found, with name, marks, in, cross, low and high, the numbers None where there is none; words, the headings of
    in, cross and interval."""
    from bokeh.models import ColumnDataSource, FactorRange

    shown = [row for row in found if row["in"] is not None or row["cross"] is not None]
    if not shown:
        return {}
    columns = {key: [row[key] for row in shown] for key in ("name", "in", "cross", "low", "high")}
    numbers = {key: [np.nan if v is None else v for v in columns[key]] for key in ("in", "cross", "low", "high")}
    colour = [MARKED if row["marks"] else CROSS for row in shown]
    source = ColumnDataSource(columns | numbers | {"colour": colour})
    tips = [("", "@name"), (words["in"], "@in{0.000}"), (words["cross"], "@cross{0.000}"),
            (words["interval"], "@low{0.000} to @high{0.000}")]  # fmt: skip
    # The names themselves have two lines: Chromium was seen to draw this axis without its major_label_overrides.
    columns["name"] = [textwrap.fill(name, BESIDE) for name in columns["name"]]
    lines = max(name.count("\n") + 1 for name in columns["name"])
    height = 70 + max(30, 6 + 13 * lines) * len(shown)
    one = figures.figure(height, HOVER, y_range=FactorRange(*columns["name"][::-1]), tooltips=tips)
    one.segment("in", "name", "cross", "name", source=source, line_color="#999999", line_dash="dotted")
    one.segment("low", "name", "high", "name", source=source, line_color="colour", line_width=5, line_alpha=0.4)
    one.scatter("in", "name", source=source, size=9, line_color=INSIDE, fill_color=None, line_width=2)
    one.scatter("cross", "name", source=source, size=9, color="colour")
    one.xaxis.axis_label = "accuracy"
    return figures.group({"accuracy of every row, in the table above": one})


def experiments(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Accuracy in each held-out experiment, those of a cell type together, the rows of the table side by side.

    Args: found, with row, colour, cell_type, experiment, mean, low and high over seeds."""
    from bokeh.models import ColumnDataSource, FactorRange
    from bokeh.transform import dodge

    names = list(dict.fromkeys(one["row"] for one in found))[:DRAWN]
    factors = sorted({(one["cell_type"], one["experiment"]) for one in found}, reverse=True)
    if not factors:
        return {}
    tips = [("", "@row"), ("experiment", "@experiment, @cell_type"), ("accuracy", "@mean{0.000}"),
            ("seeds", "@low{0.000} to @high{0.000}")]  # fmt: skip
    height = 70 + len(factors) * max(20, 9 * len(names))
    one = figures.figure(height, HOVER, y_range=FactorRange(*factors, factor_padding=0.15), tooltips=tips)
    for i, name in enumerate(names):
        of_row = [item for item in found if item["row"] == name]
        columns = {key: [item[key] for item in of_row] for key in of_row[0]}
        source = ColumnDataSource(columns | {"y": [(item["cell_type"], item["experiment"]) for item in of_row]})
        at = dodge("y", 0.8 * ((len(names) - 1) / 2 - i) / len(names), range=one.y_range)
        one.segment("low", at, "high", at, source=source, line_color=of_row[0]["colour"], line_width=2, line_alpha=0.6)
        one.scatter("mean", at, source=source, size=7, color=of_row[0]["colour"])
    one.xaxis.axis_label = "accuracy per site"
    return figures.group({"accuracy by held-out experiment, in the table below": one})


def loss_key(lines: list[dict]) -> str:
    """The loss to draw: of the task alone where an adversary's is added to it, so that methods compare."""
    return "class_loss" if any(line.get("class_loss") is not None for line in lines) else "loss"


def loss_limits(seeds: list[list[dict]]) -> tuple[float, float]:
    """The lowest loss to the 99th percentile (without a first outburst), with a margin."""
    found = [line.get(loss_key(lines)) for lines in seeds for line in lines]
    found = [value for value in found if value is not None]
    low, high = (min(found), float(np.quantile(found, 0.99))) if found else (0.0, 1.0)
    margin = 0.06 * (high - low) or 0.1
    return low - margin, high + margin


def curves(name: str, seeds: list[list[dict]], limits: tuple[float, float]) -> dict[str, Any]:
    """The training loss of each seed over steps and, beside it, accuracies; they are zoomed together."""
    made = figures.figure(220, HOVER, title="loss", y_range=limits, tooltips="step $x{0}: $y{0.000}")
    drawn = {f"training loss of {name}": made}
    kinds = [("accuracy", PALETTE[2], "solid"), ("domain_accuracy", PALETTE[3], "dashed")]
    if any(line.get(key) is not None for lines in seeds for line in lines for key, *_ in kinds):
        other = figures.figure(220, HOVER, title="accuracy", x_range=made.x_range, y_range=(0, 1.02),
                               tooltips="step $x{0}: $y{0.000}")  # fmt: skip
        drawn[f"training accuracy of {name}"] = other
        for lines in seeds:
            for key, colour, dash in kinds:
                _curve(other, lines, key, line_color=colour, line_dash=dash)
    for lines in seeds:
        _curve(made, lines, loss_key(lines), line_color=PALETTE[0])
    for one in drawn.values():
        one.xaxis.axis_label = "step"
    return figures.group(drawn)


def _curve(one, lines: list[dict], key: str, **style: Any) -> None:
    found = [(line["step"], line[key]) for line in lines if line.get(key) is not None]
    kept = np.unique(np.linspace(0, len(found) - 1, min(POINTS, len(found))).astype(int)) if found else []
    if len(kept) == 1:  # of a short run
        one.scatter(*found[0], size=6, alpha=0.85, color=style["line_color"])
    elif len(kept):
        one.line(*zip(*(found[i] for i in kept)), line_width=1.5, line_alpha=0.85, **style)


def plates(maps: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, Any]:
    """A plate map whose quantity and experiment are chosen, for the macro `plates` of report.html.

    Args: maps, by quantity and experiment [rows, columns], NaN without a well; quantities whose name begins with
    "intensity" are in standard deviations, others shares from 0 to 1."""
    from bokeh.models import ColorBar, ColumnDataSource, FactorRange, LinearColorMapper
    from bokeh.palettes import RdBu11, Viridis256

    maps = {quantity: of for quantity, of in maps.items() if of}
    if not maps:
        return {}
    shapes = [plate.shape for of in maps.values() for plate in of.values()]
    height, width = (max(sizes) for sizes in zip(*shapes))
    every = sorted({name for of in maps.values() for name in of})
    most = max(1, min(len(every), VALUES // (height * width * len(maps))))
    shown = {every[i] for i in np.linspace(0, len(every) - 1, most).astype(int)}
    maps = {quantity: {name: of[name] for name in of if name in shown} for quantity, of in maps.items()}
    maps = {quantity: of for quantity, of in maps.items() if of}
    letters = [chr(65 + i) if i < 26 else f"A{chr(39 + i)}" for i in range(height)]
    at = [(column, row) for row in letters for column in range(1, width + 1)]
    cells = {"x": [x for x, _ in at], "y": [y for _, y in at], "value": [np.nan] * len(at)}
    source = ColumnDataSource(cells, name="plate")
    mapper = LinearColorMapper(palette=list(Viridis256), low=0, high=1, nan_color="rgba(128,128,128,0.25)")
    mapper.name = "mapper"
    one = figures.figure(
        60 + 20 * height, "hover,save", x_range=(0.5, width + 0.5), y_range=FactorRange(*letters[::-1]),
        x_axis_location="above", tooltips="@y@x: @value{0.00}",
    )  # fmt: skip
    one.rect("x", "y", 0.94, 0.94, source=source, line_color=None, fill_color={"field": "value", "transform": mapper})
    one.add_layout(ColorBar(color_mapper=mapper, background_fill_color=None, width=8), "right")
    one.xaxis.ticker = list(range(1, width + 1, -(-width // NUMBERED)))
    one.grid.visible = False

    def listed(plate):
        padded = np.full((height, width), np.nan)
        padded[: plate.shape[0], : plate.shape[1]] = plate
        return [None if np.isnan(value) else round(float(value), 3) for value in padded.ravel()]

    values = {quantity: {name: listed(of[name]) for name in sorted(of)} for quantity, of in maps.items()}
    data = {"values": values, "palettes": [list(Viridis256), list(RdBu11)]}
    left_out = f"{most} of {len(every)} experiments, evenly chosen" if most < len(every) else ""
    return {"figures": figures.group({"plate map, a value for each well": one}), "data": data, "left_out": left_out}


def plate_map(wells: Sequence[str], values: np.ndarray) -> np.ndarray:
    """Means by well, [16, 24] or [32, 48], NaN without one. Args: names A01 to AF48 and values, [n] each; names of
    other wells are left out."""
    sums, number = np.zeros((32, 48)), np.zeros((32, 48))
    for well, value in zip(wells, values):
        if (match := re.fullmatch("(A?)([A-Z])([0-9]{1,2})", well)) and 1 <= int(match[3]) <= 48:
            row = 26 * len(match[1]) + ord(match[2]) - 65
            if row < 32:
                sums[row, int(match[3]) - 1] += value
                number[row, int(match[3]) - 1] += 1
    mean = np.divide(sums, number, out=np.full_like(sums, np.nan), where=number > 0)
    return mean if number[16:].any() or number[:, 24:].any() else mean[:16, :24]


def confusions(name: str, true: np.ndarray, called: np.ndarray) -> dict[str, Any]:
    """A matrix of what each perturbation is called, text [n] each, those that are alike side by side; of more than
    NAMED of them a point for each pair that occurs, without their names at the sides."""
    from bokeh.models import ColorBar, ColumnDataSource, FactorRange, LinearColorMapper
    from bokeh.palettes import Viridis256
    from scipy.cluster import hierarchy
    from scipy.spatial.distance import pdist

    names = sorted({*true.tolist(), *called.tolist()})
    if len(names) < 2:
        return {}
    at, large = {one: i for i, one in enumerate(names)}, len(names) > NAMED
    counts = np.zeros((len(names), len(names)), np.float32)
    np.add.at(counts, ([at[one] for one in true], [at[one] for one in called]), 1)
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    if len(names) <= CLUSTERED:
        alike = hierarchy.linkage(pdist(share + share.T), "average", optimal_ordering=not large)
        order = hierarchy.leaves_list(alike)
        names, share, counts = [names[i] for i in order], share[np.ix_(order, order)], counts[np.ix_(order, order)]
    rows, columns = np.nonzero(counts) if large else np.indices(share.shape).reshape(2, -1)
    source = ColumnDataSource({
        "true": [names[i] for i in rows], "called": [names[i] for i in columns],
        "share": share[rows, columns].astype(float).round(4), "wells": counts[rows, columns].astype(int),
    })  # fmt: skip
    mapper = LinearColorMapper(palette=list(Viridis256), low=0, high=1)
    side = 130 + 11 * min(len(names), NAMED)
    tips = [("is", "@true"), ("called", "@called"), ("share", "@share{0.00} (@wells wells)")]
    one = figures.figure(side, HOVER, x_range=FactorRange(*names), y_range=FactorRange(*names[::-1]), tooltips=tips)
    colour = {"line_color": None, "fill_color": {"field": "share", "transform": mapper}}
    if large:
        one.scatter("called", "true", marker="square", size=4, source=source, **colour)
        one.axis.major_label_text_font_size, one.axis.major_tick_line_color = "0px", None
    else:
        one.rect("called", "true", 1, 1, source=source, **colour)
        one.axis.major_label_text_font_size = "8px"
    one.add_layout(ColorBar(color_mapper=mapper, background_fill_color=None, width=8), "right")
    one.xaxis.axis_label, one.yaxis.axis_label = "called", "is"
    one.xaxis.major_label_orientation = "vertical"
    one.grid.visible = False
    words = f", {len(names):,} perturbations, a point for each pair that occurs" if large else ""
    return figures.group({f"confusions of {name}{words}": one})
