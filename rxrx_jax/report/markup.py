"""The pieces of HTML that the report is made of: its style sheet, strips of dots, legends, numbers.

Strips place everything in percent of their width, so that they fit a phone and a sheet of paper alike.
"""

import base64
import html
import os
import pathlib

import numpy as np

from rxrx_jax.data import ROLES

# The page's style sheet; classes of circles and lines are those of Strip.
STYLE = """
:root{--blue:#1f5fa8;--amber:#b45f06;--grey:#8a8a8a}
*{box-sizing:border-box}
body{font:16px/1.5 system-ui,sans-serif;color:#222;background:#fff;max-width:1240px;margin:0 auto;
padding:1rem}
h1{font-size:1.6rem;line-height:1.25}h2{margin:2.2rem 0 .5rem;border-bottom:1px solid #ddd}
h3{margin:1.2rem 0 .3rem}
h3 small{font-weight:normal;color:#555}a{color:var(--blue)}td a{text-decoration:none}ul{padding-left:1.2rem}
code,pre{font-size:.82em;overflow-wrap:anywhere;white-space:pre-wrap}
pre{background:#f6f6f6;padding:.6rem}
.warning{background:#fff3cd;border-left:5px solid #d39e00;padding:.6rem .9rem;font-weight:600}
.missing{background:#fdecea;border-left:5px solid #b3261e;padding:.1rem .9rem}
.absent{color:#7a4a00;font-style:italic}
table{border-collapse:collapse;width:100%;font-size:.85rem;font-variant-numeric:tabular-nums}
th,td{text-align:left;padding:.22rem .5rem;vertical-align:middle}td{border-top:1px solid #eee}
thead th{vertical-align:bottom}tr.group th,div.group{background:#eef2f6;font-weight:600;padding:.25rem .5rem}
tr.transductive td,.line.transductive{background:#fdf8ef}.scroll{overflow-x:auto}
td[data-label=strip]{min-width:190px;width:21%}td[data-label=method]{min-width:13.5rem}td .axis{display:none}
.no{color:#777;font-weight:normal;display:inline-block;min-width:1.5em}
.n{white-space:nowrap}
.badge{background:var(--amber);color:#fff;border-radius:3px;padding:0 .3em;font-size:.78em;
text-decoration:none}
.strip,.axis{display:block;width:100%;height:22px;overflow:visible}.axis{height:16px}
.axis text{font-size:11px;fill:#555}
.strip .grid{stroke:#e6e6e6}.strip .gap{stroke:#ccc;stroke-width:1.5}
.strip .interval{stroke:var(--blue);stroke-width:4;opacity:.4}.strip .interval.trans{stroke:var(--amber)}
circle.in{fill:#fff;stroke:var(--grey);stroke-width:1.5}circle.cross{fill:var(--blue)}
circle.trans{fill:var(--amber)}circle.val{fill:var(--grey)}circle.held{fill-opacity:.85}
.legend{display:block;font-size:.82rem;color:#333;margin:.2rem 0 .5rem}
.legend span{display:inline-block;margin-right:1rem}
.legend i{display:inline-block;width:10px;height:10px;border-radius:50%;margin-right:.35em}
.legend i.in{border:2px solid var(--grey)}.legend i.cross{background:var(--blue)}
.legend i.trans{background:var(--amber)}
.legend i.val{background:var(--grey)}.legend i.bar{height:3px;width:18px;border-radius:0;
vertical-align:middle}
.line .strip{height:26px}.line{display:grid;grid-template-columns:minmax(16rem,34%) 1fr;
gap:0 1rem;align-items:center;font-size:.85rem;
padding:.1rem 1rem .1rem .5rem;border-top:1px solid #f0f0f0}
.grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(215px,1fr));gap:.8rem}
.maps{display:grid;grid-template-columns:repeat(4,1fr);gap:.5rem}
figure{margin:0;break-inside:avoid}figure img{width:100%;height:auto;display:block}
figcaption{font-size:.82rem;color:#444;overflow-wrap:anywhere}figure.wide{margin:.8rem 0}
.wide img{max-width:900px}
article{border-top:1px solid #eee;break-inside:avoid}article ul{margin:.2rem 0;font-size:.9rem}
article h3{margin:.5rem 0 0;font-size:1rem}
summary{cursor:pointer}
@media screen and (max-width:760px){body{padding:.7rem}thead{display:none}table,tbody{display:block}
tr{display:grid;grid-template-columns:repeat(auto-fill,minmax(6.9rem,1fr));padding:.4rem 0;
border-top:1px solid #ccc}
td{border:0;padding:.1rem .4rem;background:none}tr.transductive{background:#fdf8ef}
td::before{content:attr(data-label);display:block;font-size:.72rem;color:#666}
td[data-label=strip],td[data-label=method],td[data-label=normalisation],tr.group th{
grid-column:1/-1;width:auto}
td[data-label=strip]::before,td[data-label=method]::before{content:none}td .axis{display:block}
td[data-label=normalisation]::before{display:inline;font-size:inherit;content:"normalisation: "}
td[data-label=method]{font-weight:600;font-size:.95rem}
.line{grid-template-columns:1fr}.maps{grid-template-columns:1fr 1fr}}
@media print{@page{margin:12mm}html{font-size:10.5px}body{max-width:none;font-size:1rem;padding:0}
td[data-label=strip]{min-width:0}th,td{padding:.15rem .25rem}.scroll{overflow:visible}nav{display:none}
a{color:inherit;text-decoration:none}
tr,.line{break-inside:avoid}h2,h3{break-after:avoid}
*{print-color-adjust:exact;-webkit-print-color-adjust:exact}}
"""


class Strip:
    """An SVG of one line of marks on a scale from 0 to `top`, with grid lines; `label` describes it."""

    def __init__(self, top: float, label: str):
        self.top = top
        self.label = label
        grid = map(self.x, ticks(top))
        self.parts = [f'<line class="grid" x1="{x}" x2="{x}" y1="0" y2="100%"/>' for x in grid]

    def x(self, value: float) -> str:
        return f"{100 * min(max(value / self.top, 0), 1):.2f}%"

    def line(self, low: float, high: float, kind: str) -> None:
        x = f'x1="{self.x(low)}" x2="{self.x(high)}"'
        self.parts.append(f'<line class="{kind}" {x} y1="50%" y2="50%"/>')

    def dot(self, value: float, title: str, kind: str, colour: str = "", y: int = 50) -> None:
        """A dot with a tooltip; `colour` overrides that of the CSS class `kind`; y in percent."""
        style = f' style="fill:{colour}"' if colour else ""
        self.parts.append(
            f'<circle class="{kind}" cx="{self.x(value)}" cy="{y}%" r="4"{style}>'
            f"<title>{html.escape(title)}</title></circle>"
        )

    def svg(self) -> str:
        label = html.escape(self.label)
        return f'<svg class="strip" role="img" aria-label="{label}">{"".join(self.parts)}</svg>'


def ticks(top: float) -> list[float]:
    """Round numbers from 0 to `top`, at most six."""
    step = next(s for s in (0.05, 0.1, 0.2) if top / s <= 5.001)
    return [round(i * step, 2) for i in range(int(top / step + 1.001))]


def axis(top: float) -> str:
    """The numbers above or below strips of this scale."""
    texts = []
    for t in ticks(top):
        align = "start" if t == 0 else "end" if t == top else "middle"
        texts.append(f'<text x="{100 * t / top:.2f}%" y="12" text-anchor="{align}">{t:g}</text>')
    return f'<svg class="axis" aria-hidden="true">{"".join(texts)}</svg>'


def number(value, digits: int = 3) -> str:
    """A number as the page shows it: rounded, a dash for what is missing or not a number."""
    return "–" if value is None or not np.isfinite(value) else f"{value:.{digits}f}"


def with_spread(row: dict, key: str) -> str:
    """A number of a table row, ± its standard deviation over seeds."""
    spread = row[f"{key}_sd"]
    spread = "" if spread is None else f" ± {number(spread)}"
    return f'<span class="n"><b>{number(row[key])}</b>{spread}</span>'


def row_name(row: dict, name: str) -> str:
    """Number and name (HTML) of a table row, with the mark of transductive ones."""
    mark = ' <abbr class="badge" title="transductive">T</abbr>' if row["transductive"] else ""
    return f'<span class="no">{html.escape(str(row["row"]))}</span> {name}{mark}'


def interval(row: dict) -> str:
    low, high = number(row["ci_low"]), number(row["ci_high"])
    return "–" if low == high == "–" else f'<span class="n">{low} to {high}</span>'


def relative(value, base: pathlib.Path):
    """A path, or text that names one below `base`, as seen from `base`; anything else as it is."""
    if isinstance(value, str) and os.path.isabs(value):
        for folder in (os.path.abspath(base), os.path.realpath(base)):
            if value.startswith(folder + os.sep):
                return os.path.relpath(value, folder)
    return os.path.relpath(value, base) if isinstance(value, pathlib.Path) else value


def anchor(name: str) -> str:
    """An id for a section or run, distinct for distinct names."""
    return "part-" + "".join(c if c.isascii() and c.isalnum() else f"_{ord(c):x}_" for c in name)


def top_of_scale(values) -> float:
    """The end of a scale of accuracies: the next tenth above the largest value."""
    finite = [v for v in values if v is not None and np.isfinite(v)]
    return float(min(1.0, max(0.2, np.ceil(10 * max(finite, default=1.0) + 1e-9) / 10)))


def document(title: str, body: str) -> str:
    """A whole page."""
    return (
        '<!DOCTYPE html>\n<html lang="en-GB"><head><meta charset="utf-8"/>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"/>'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head>\n<body>{body}</body></html>\n"
    )


def legend(*entries: tuple[str, str, str]) -> str:
    """A line of marks and their meaning: (CSS class, colour or "", text)."""
    items = []
    for kind, colour, text in entries:
        style = f' style="background:{colour}"' if colour else ""
        items.append(f'<span><i class="{kind}"{style}></i>{html.escape(text)}</span>')
    return f'<span class="legend">{"".join(items)}</span>'


def image(data: bytes, kind: str, alt: str) -> str:
    """An image with its bytes in the page; kind: "png" or "svg+xml"."""
    return f'<img alt="{html.escape(alt)}" src="data:image/{kind};base64,{base64.b64encode(data).decode()}"/>'


def forest(row: dict, top: float) -> str:
    """The strip of a table row: in-batch and cross-batch accuracy, the drop between them, the interval."""
    has = lambda *keys: all(number(row[key]) != "–" for key in keys)  # noqa: E731
    kind = "cross trans" if row["transductive"] else "cross"
    cross = f"cross-batch {number(row['cross_batch'])} ({number(row['ci_low'])} to {number(row['ci_high'])})"
    inside = f"in-batch {number(row['in_batch'])}"
    strip = Strip(top, f"{row['row']} {row['method']}: {inside}, {cross}")
    if has("in_batch", "cross_batch"):
        strip.line(row["in_batch"], row["cross_batch"], "gap")
    if has("ci_low", "ci_high"):
        strip.line(row["ci_low"], row["ci_high"], f"interval {kind}")
    if has("in_batch"):
        strip.dot(row["in_batch"], inside, "in")
    if has("cross_batch"):
        strip.dot(row["cross_batch"], cross, kind)
    return strip.svg()


def experiments_strip(label: str, accuracy: dict[str, list[dict]], colours: dict, top: float) -> str:
    """The strip of accuracies by experiment: split -> for each seed experiment -> accuracy."""
    strip = Strip(top, f"{label}: accuracy by experiment")
    count = 0
    for split, kind, y in (("in_batch", "in", 28), ("validation", "val", 28), ("cross_batch", "held", 72)):
        for seed, values in enumerate(accuracy[split]):
            for name, value in values.items():
                colour = colours[name] if split == "cross_batch" else ""
                strip.dot(value, f"{name} ({ROLES[split]}, seed {seed}) {number(value)}", kind, colour, y)
                count += 1
    return strip.svg() if count else '<span class="absent">no accuracies by experiment</span>'
