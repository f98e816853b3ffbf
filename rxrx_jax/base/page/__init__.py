"""HTML pages of one file that need no network: `page.html` holds what they share, and a page's own template imports it.

Everything is escaped by Jinja2 unless it is Markup, which only templates make.
"""

import base64
import dataclasses
import pathlib

import numpy as np


@dataclasses.dataclass(frozen=True)
class Picture:
    """An image with its bytes in the page; kind: png or svg+xml."""

    data: bytes
    alt: str
    caption: str = ""
    kind: str = "png"


@dataclasses.dataclass(frozen=True)
class Dot:
    """A dot of a strip with a tooltip; `colour` overrides that of the CSS class `kind`; x as in CSS, y in percent."""

    x: str
    title: str
    kind: str
    colour: str = ""
    y: int = 50


class Strip:
    """One line of marks on a scale from 0 to `top`, with grid lines; `label` describes it."""

    def __init__(self, top: float, label: str):
        self.top, self.label = top, label
        self.grid = [self.x(value) for value in ticks(top)]
        self.lines: list[tuple[str, str, str]] = []
        self.dots: list[Dot] = []

    def x(self, value: float) -> str:
        return f"{100 * min(max(value / self.top, 0), 1):.2f}%"

    def line(self, low: float, high: float, kind: str) -> None:
        self.lines.append((kind, self.x(low), self.x(high)))

    def dot(self, value: float, title: str, kind: str, colour: str = "", y: int = 50) -> None:
        self.dots.append(Dot(self.x(value), title, kind, colour, y))


def ticks(top: float) -> list[float]:
    """Round numbers from 0 to `top`, at most six."""
    step = next(s for s in (0.05, 0.1, 0.2) if top / s <= 5.001)
    return [round(i * step, 2) for i in range(int(top / step + 1.001))]


def axis(top: float) -> list[tuple[str, str, str]]:
    """(place, alignment, number) of the numbers above or below strips of this scale."""
    ends = {0: "start", top: "end"}
    return [(f"{100 * t / top:.2f}%", ends.get(t, "middle"), f"{t:g}") for t in ticks(top)]


def top_of_scale(values) -> float:
    """The end of a scale of accuracies: the next tenth above the largest value."""
    finite = [v for v in values if v is not None and np.isfinite(v)]
    return float(min(1.0, max(0.2, np.ceil(10 * max(finite, default=1.0) + 1e-9) / 10)))


def number(value, digits: int = 3) -> str:
    """A number as a page shows it: rounded, a dash for what is missing or not a number."""
    return "–" if value is None or not np.isfinite(value) else f"{value:.{digits}f}"


def anchor(name: str) -> str:
    """An id for a section or run, distinct for distinct names."""
    return "part-" + "".join(c if c.isascii() and c.isalnum() else f"_{ord(c):x}_" for c in name)


def templates(folder: pathlib.Path):
    """The templates of a folder, beside page.html: a jinja2.Environment."""
    import jinja2  # cards of text are made without it

    loader = jinja2.FileSystemLoader([folder, pathlib.Path(__file__).parent])
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"anchor": anchor, "axis": axis, "base64": lambda data: base64.b64encode(data).decode()}
    environment.filters["number"] = number
    return environment
