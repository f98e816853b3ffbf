"""HTML pages of one file that need no network: page.html, page.css and page.js hold what they share, and a page's own
template imports the first. `figures` puts Bokeh's into a page, `explorer` a map of points.

Everything is escaped by Jinja2 unless it is Markup, which only templates make.
"""

import base64
import dataclasses
import pathlib

import numpy as np


@dataclasses.dataclass(frozen=True)
class Picture:
    """An image with its bytes in the page; kind: png or webp."""

    data: bytes
    alt: str
    caption: str = ""
    kind: str = "png"


@dataclasses.dataclass(frozen=True)
class Cell:
    """What stands in a table: text, the value that it is sorted by where that is a number, the section or run that it
    leads to, and words that explain it."""

    text: str
    value: float | None = None
    link: str = ""
    title: str = ""


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
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}  # unsorted: Bokeh names before it refers
    environment.filters |= {"anchor": anchor, "base64": lambda data: base64.b64encode(data).decode(), "number": number}
    return environment
