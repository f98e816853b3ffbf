"""The page of generated objects: what is wanted is set by sliders, and the best that were made for it are shown, within
the fronts of every pair of objectives. One file that needs no network; its skeleton is front.html."""

import base64
import gzip
import itertools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from rxrx_jax.base import files, page
from rxrx_jax.base.page import Cell, figures, number
from rxrx_jax.molecules import drawing

OTHER, FRONT, CHOSEN = "#9aa3ad", "#0072B2", "#D55E00"


def write(
    path: pathlib.Path,
    title: str,
    names: Sequence[str],
    front: Sequence[Mapping],
    preferences: Sequence[Mapping],
    numbers: Mapping[str, float],
    molecules: bool,
    command: str,
) -> None:
    """Writes the page.

    Args:
      names: of the objectives.
      front, preferences: as `judge.Judged` has them.
      numbers: what an evaluation said.
      molecules: whether the objects' names are SMILES, which are then drawn.
      command: that makes the page.

    Raises UserError where Bokeh, or for molecules RDKit, is not installed."""
    figures.check()
    objects: dict[str, Mapping] = {}
    for one in itertools.chain(front, *(of["best"] for of in preferences)):
        objects.setdefault(one["state"], one)
    place = {name: i for i, name in enumerate(objects)}
    more = [key for key in next(iter(objects.values()), {}) if key not in ("state", *names)]
    at = lambda of: list(dict.fromkeys(place[one["state"]] for one in of))  # noqa: E731
    data = {
        "names": list(names),
        "more": more,
        "objects": [[name, *(one[key] for key in (*names, *more))] for name, one in objects.items()],
        "pictures": [_packed(drawing.svg(name)) for name in objects] if molecules else [],
        "preferences": [{"w": of["w"], "best": at(of["best"])} for of in preferences],
    }
    rows = [
        [name, *(Cell(number(one[key]), one[key]) for key in (*names, *more))]
        for name, one in ((one["state"], one) for one in front)
    ]
    here = pathlib.Path(__file__).parent
    text = page.templates(here).get_template("front.html").render(
        title=title,
        command=command,
        data=data,
        style=(here / "front.css").read_text(),
        scripts=[figures.script(), (here / "front.js").read_text()],
        heads=["object", *names, *more],
        rows=rows,
        numbers=[[name, Cell(number(value), value)] for name, value in numbers.items()],
        figures=_fronts(names, objects, {one["state"] for one in front}),
        colours=(OTHER, FRONT, CHOSEN),
        kind="molecules" if molecules else "objects",
    )  # fmt: skip
    files.write(path, text)


def _packed(picture: bytes) -> str:
    """Base64 of gzip: a picture says the same of every bond, and there may be thousands."""
    return base64.b64encode(gzip.compress(picture, mtime=0)).decode()


def _fronts(names: Sequence[str], objects: Mapping[str, Mapping], front: set[str]) -> dict[str, Any] | None:
    """A figure for every pair of objectives, with the chosen objects on top; None for one objective."""
    from bokeh.models import ColumnDataSource

    if len(names) < 2:
        return None
    columns = {f"o{i}": [float(one[name]) for one in objects.values()] for i, name in enumerate(names)}
    columns |= {"name": list(objects), "colour": [FRONT if name in front else OTHER for name in objects]}
    source = ColumnDataSource(columns)
    empty = {f"o{i}": [] for i in range(len(names))}
    chosen = ColumnDataSource(empty | {"name": []}, name="chosen")
    drawn = {}
    for i, j in itertools.combinations(range(len(names)), 2):
        tips = [("", "@name"), (names[i], f"@o{i}{{0.000}}"), (names[j], f"@o{j}{{0.000}}")]
        one = figures.figure(300, "hover,pan,box_zoom,wheel_zoom,reset,save", tooltips=tips)
        one.scatter(f"o{i}", f"o{j}", source=source, size=6, color="colour", fill_alpha=0.7)
        one.scatter(f"o{i}", f"o{j}", source=chosen, size=11, line_color=CHOSEN, fill_color=None, line_width=2.5)
        one.xaxis.axis_label, one.yaxis.axis_label = names[i], names[j]
        drawn[f"{names[j]} over {names[i]}, a point for each object"] = one
    return figures.group(drawn)
