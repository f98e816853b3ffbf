"""Bokeh's figures in a page: their scripts, their look, and their JSON, the same bytes for the same figures.

A group is figures that share data and so a selection. page.js draws it when it comes into view, with the colours of the
theme. Bokeh, of the extra [report], is imported when it is needed.
"""

import importlib.util
from typing import Any

from rxrx_jax.base.errors import missing_extra

TOOLS = "pan,box_zoom,wheel_zoom,reset,save"


def check() -> None:
    """Raises UserError where Bokeh is not installed."""
    if importlib.util.find_spec("bokeh") is None:
        raise missing_extra("bokeh", "report")


def script(component: str = "bokeh") -> str:
    """BokehJS itself, or another of its components, for a script element."""
    from bokeh.resources import Resources

    return "\n".join(Resources(mode="inline", components=[component]).js_raw)


def figure(height: int, tools: str = TOOLS, **settings: Any):
    """An empty figure as wide as its place; `settings` as `bokeh.plotting.figure` takes them."""
    from bokeh.plotting import figure

    plain = {"background_fill_color": None, "border_fill_color": None, "outline_line_color": None}
    made = figure(height=height, tools=tools, sizing_mode="stretch_width", **plain | settings)
    made.toolbar.logo, made.toolbar.autohide = None, True
    made.min_border_right = 12
    return made


def group(figures: dict[str, Any]) -> dict[str, Any]:
    """What the template needs of figures, by the words that describe each to those who do not see it: the document as
    JSON, and for each figure its description, id and height."""
    from bokeh.document import Document

    document = Document()
    for one in figures.values():
        document.add_root(one)
    names: dict[str, str] = {}
    made = _renamed(document.to_json(deferred=False), names)
    roots = [(words, names[one.id], one.height) for words, one in figures.items()]
    return {"document": made, "roots": roots}


def _renamed(value: Any, names: dict[str, str]) -> Any:
    """The JSON with ids numbered from 1: Bokeh counts on from figure to figure of a process. Data of users are values
    in lists, never objects with an id."""
    if isinstance(value, list):
        return [_renamed(one, names) for one in value]
    if not isinstance(value, dict):
        return value
    if isinstance(value.get("id"), str):
        value = value | {"id": names.setdefault(value["id"], f"p{len(names) + 1}")}
    return {key: _renamed(one, names) for key, one in value.items()}
