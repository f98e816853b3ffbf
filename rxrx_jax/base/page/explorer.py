"""A map of points to explore: panels that share colours and a selection, thumbnails, a search, nearest neighbours."""

import base64
import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rxrx_jax.base.page import figures

SIZE = 48  # pixels of a thumbnail
MARKERS = ("circle", "triangle", "square", "diamond")


@dataclasses.dataclass(frozen=True)
class Panel:
    """Places [n, 2] of the points, NaN for those that are not in it, and the set whose colours and neighbours it has,
    as the name of a run."""

    title: str
    of: str
    places: np.ndarray
    axes: tuple[str, str] = ("", "")


def scripts() -> list[str]:
    """What a page needs after `figures.script()`: the points are drawn by WebGL, where a browser has it. For that the
    page must be a `document` of page.html with `evaluates`."""
    return [figures.script("bokeh-gl"), (pathlib.Path(__file__).parent / "explorer.js").read_text()]


def explore(
    about: Mapping[str, Sequence[str]],
    panels: Sequence[Panel],
    colourings: Mapping[str, Mapping[str, Sequence[str]] | Sequence[str]],
    neighbours: Mapping[str, tuple[np.ndarray, np.ndarray]],
    search: str,
    thumbnails: Sequence[bytes] = (),
    shapes: str = "",
) -> dict[str, Any]:
    """What the macro `explorer` of page.html needs.

    Args:
      about: by heading what is told of each of the n points; the first is its name.
      panels: in the order in which they are drawn.
      colourings: by heading the group of each point, [n], or such for each set of panels. "" is in no group.
      neighbours: by set of panels the nearest points, int [n, k], -1 where there are fewer, and how near, [n, k].
      search: the heading of `about` that is searched.
      thumbnails: a WebP of each point, b"" where there is none; or none at all.
      shapes: the heading of `about` by which the points have shapes.
    """
    from bokeh.models import ColumnDataSource, HoverTool, LassoSelectTool, TapTool

    sets = list(dict.fromkeys(panel.of for panel in panels))
    n = len(next(iter(about.values())))
    columns: dict[str, Any] = {f"about{i}": list(values) for i, values in enumerate(about.values())}
    if thumbnails:
        columns["picture"] = [base64.b64encode(data).decode() for data in thumbnails]
    columns |= {f"colour{i}": ["#808080"] * n for i in range(len(sets))}
    kinds = sorted(set(about[shapes])) if shapes else []
    marker = {kind: MARKERS[i % len(MARKERS)] for i, kind in enumerate(kinds)}
    columns["marker"] = [marker[kind] for kind in about[shapes]] if shapes else [MARKERS[0]] * n
    for i, panel in enumerate(panels):
        columns |= {f"{axis}{i}": panel.places[:, j].astype(np.float32) for j, axis in enumerate("xy")}
    source = ColumnDataSource(columns, name="points")
    drawn = {}
    for i, panel in enumerate(panels):
        title = f"{panel.of}: {panel.title}"
        one = figures.figure(
            320, "pan,wheel_zoom,box_zoom,reset", title=title, match_aspect=True, output_backend="webgl"
        )
        colour = f"colour{sets.index(panel.of)}"
        shown = one.scatter(
            f"x{i}", f"y{i}", source=source, size=6, marker="marker", fill_color=colour, line_color=None,
            fill_alpha=0.85, nonselection_fill_alpha=0.08, selection_line_color="#000000", selection_line_alpha=0.6,
        )  # fmt: skip
        lasso = LassoSelectTool()
        hover = HoverTool(tooltips=_tooltip(about, bool(thumbnails)), renderers=[shown], limit=1)
        one.add_tools(lasso, TapTool(), hover)
        one.toolbar.active_drag = lasso
        one.xaxis.axis_label, one.yaxis.axis_label = panel.axes
        one.xaxis.ticker = one.yaxis.ticker = []
        one.grid.visible = False
        drawn[f"{title}, map of {n:,} points"] = one
    return {
        "figures": figures.group(drawn),
        "words": sorted(set(about[search]) - {""}),
        "data": {
            "headings": list(about),
            "sets": sets,
            "search": list(about).index(search),
            "colourings": {name: _coded(of, sets) for name, of in colourings.items()},
            "neighbours": {
                of: [ids.shape[1], _packed(ids, "<i4"), _packed(np.rint(1000 * near), "<i2")]
                for of, (ids, near) in neighbours.items()
            },
        },
        "shapes": list(marker.items()),
    }


def _packed(values: np.ndarray, kind: str) -> str:
    """Numbers as explorer.js unpacks them: a third of what they take as text."""
    return base64.b64encode(np.ascontiguousarray(values, kind)).decode()


def _coded(groups: Mapping[str, Sequence[str]] | Sequence[str], sets: Sequence[str]) -> dict[str, Any]:
    """The names of the groups, sorted, and of each set of panels the number of each point's among them, -1 for none."""
    of = {one: groups[one] if isinstance(groups, Mapping) else groups for one in sets}
    names = sorted({name for values in of.values() for name in values} - {""})
    at = {name: i for i, name in enumerate(names)} | {"": -1}
    codes = {one: [at[name] for name in values] for one, values in of.items()}
    return {"names": names, "codes": list(codes.values()) if isinstance(groups, Mapping) else [codes[sets[0]]]}


def _tooltip(about: Mapping[str, Sequence[str]], pictures: bool) -> str:
    """What stands beside the pointer. Bokeh escapes what it puts in place of @NAME."""
    image = f'<img src="data:image/webp;base64,@picture" width="{2 * SIZE}" height="{2 * SIZE}" alt=""/>' * pictures
    return image + "".join(f"<div>{heading}: @about{i}</div>" for i, heading in enumerate(about))
