"""The pictures of the build report: sites in colour, plates as heat maps, histograms of pixels.

Drawn with Pillow and as SVG: whatever prepares a dataset makes them, and Bokeh is an extra.
"""

import functools
import io
import math
import re

import numpy as np
from PIL import Image

from rxrx_jax.base.errors import UserError
from rxrx_jax.report import pictures

PLATE_1536 = (32, 48)  # rows A to AF, columns 1 to 48
PLATE_384 = (16, 24)
MAP_LIMIT = 2.0  # standard deviations at which the colours of a plate map end
NO_WELL = (214, 214, 214)  # grey of a well without a record
# Blue over white to red, ColorBrewer's RdBu in reverse (Harrower and Brewer 2003), in 256 steps as matplotlib has it.
ANCHORS = "053061 2166ac 4393c3 92c5de d1e5f0 f7f7f7 fddbc7 f4a582 d6604d b2182b 67001f".split()
RAMP = np.rint(
    [
        np.interp(np.linspace(0, 1, 256), np.linspace(0, 1, len(ANCHORS)), channel)
        for channel in zip(*map(bytes.fromhex, ANCHORS))
    ]
).T.astype(np.uint8)
PLOT = (84, 12, 466, 320)  # left, top, right and bottom of what a histogram plots, as the macro of report.html has them
# What a channel shows, as builders name it, in the order of RxRx1's channels w1..w6 and of pictures.COLOURS.
STAINS = (
    ("nucleus", "nuclei", "hoechst", "dapi", "dna"),
    ("endoplasmic", "concanavalin", "cona"),
    ("actin", "phalloidin"),
    ("nucleol", "syto", "rna"),
    ("mitochond", "mitotracker"),
    ("golgi", "wga", "wheat germ"),
)
RANGES = (51, 107, 64, 191, 89, 191)  # pixel value drawn at full colour in RxRx1's published composites, from 0


def stains(channels: list[str]) -> list[int]:
    """Returns which of the published colours each channel has: 0..5; by position where a name does not say."""
    found = []
    for name in channels:
        words = name.lower()
        found.append(
            next((i for i, known in enumerate(STAINS) if any(re.search(rf"\b{word}", words) for word in known)), None)
        )
    known = None not in found and len(set(found)) == len(found)
    return found if known else list(range(min(len(channels), len(STAINS))))


def percentile(counts: np.ndarray, share: float, step: int = 1) -> int:
    """Returns the largest pixel value of the bin where `share` of the pixels is reached; 0 without pixels.

    counts: [256], pixels per bin; step: pixel values per bin, 256 for 16-bit images.
    """
    total = counts.sum()
    return 0 if total == 0 else (int(np.searchsorted(np.cumsum(counts), share * total)) + 1) * step - 1


def shrink(image: np.ndarray, side: int) -> np.ndarray:
    """Returns [h, w, C] float32 with h, w <= side: means over square blocks; [H, W, C] itself if small enough."""
    height, width, channels = image.shape
    k = -(-max(height, width) // side)
    h, w = max(1, height // k), max(1, width // k)
    blocks = image[: h * k, : w * k].reshape(h, min(k, height), w, min(k, width), channels)
    return blocks.mean((1, 3), dtype=np.float32)


def colour(image: np.ndarray, channels: list[int], high: np.ndarray) -> np.ndarray:
    """Returns the composite of an image, [h, w, 3] uint8: channel times its published colour, summed, clipped.

    Args:
      image: [h, w, C].
      channels: which published colour each channel has; channels beyond its length are not drawn.
      high: [C], the value that is drawn at full colour; the published formula
        (t / 255) / ((high - low) / 255) + low / 255 with its low of 0.
    """
    six, top = np.zeros((*image.shape[:2], len(STAINS))), np.ones(len(STAINS))
    six[..., channels] = image[..., : len(channels)]
    top[channels] = high[: len(channels)]
    return _bytes(pictures.composite(six, 0, top))


def grey(plane: np.ndarray, high: float) -> np.ndarray:
    """Returns one channel, [h, w] uint8, black at 0 and white at `high`."""
    return _bytes(np.clip(plane / max(high, 1), 0, 1))


def _bytes(share: np.ndarray) -> np.ndarray:
    return np.rint(255 * share).astype(np.uint8)


def png(pixels: np.ndarray, colours: int = 0) -> bytes:
    """Returns a PNG of [h, w] or [h, w, 3] uint8; `colours` > 0 keeps that many, for a third of the size."""
    image = Image.fromarray(pixels)
    out = io.BytesIO()
    (image.quantize(colours) if colours else image).save(out, format="PNG", optimize=True)
    return out.getvalue()


@functools.lru_cache(maxsize=4096)
def position(well: str) -> tuple[int, int]:
    """Returns (row, column) from 0 of a well, A01 to AF48."""
    match = re.fullmatch(r"(A?[A-Z])(\d\d?)", well)
    if match:
        letters, column = match[1], int(match[2]) - 1
        row = ord(letters[-1]) - ord("A") + 26 * (len(letters) - 1)
        if row < PLATE_1536[0] and 0 <= column < PLATE_1536[1]:
            return row, column
    raise UserError(f"sites.csv: the well {well!r} is not one of A01 to AF48: rebuild the dataset")


def standardise(values: np.ndarray) -> np.ndarray:
    """Returns [n, C] less its mean over n, by its standard deviation; 0 where nothing varies."""
    centred = values - values.mean(0)
    spread = values.std(0)
    # A constant column's mean may differ from it in the last digit: that is not a spread.
    flat = spread <= 1e-9 * np.abs(values).max(0, initial=0)
    return np.where(flat, 0, centred / np.where(flat, 1, spread))


def cut(plate: np.ndarray) -> np.ndarray:
    """Returns [16, 24, ...] of [32, 48, ...] if no well beyond has a value, else all of it; NaN = no record."""
    small = plate[: PLATE_384[0], : PLATE_384[1]]
    return small if np.isfinite(plate).sum() == np.isfinite(small).sum() else plate


def edge(plate: np.ndarray) -> float:
    """Returns the mean over the outermost rows and columns that hold wells, less that over the other wells.

    plate: [rows, columns], NaN = no record. NaN if every well, or none, is at the edge.
    """
    here = np.isfinite(plate)
    inner = np.zeros_like(here)
    rows, columns = np.flatnonzero(here.any(1)), np.flatnonzero(here.any(0))
    if len(rows):
        inner[rows[0] + 1 : rows[-1], columns[0] + 1 : columns[-1]] = True
    outside, inside = plate[here & ~inner], plate[here & inner]
    return float(outside.mean() - inside.mean()) if len(outside) and len(inside) else float("nan")


def heat(plate: np.ndarray, scale: int = 1) -> np.ndarray:
    """Returns a plate map, [scale * rows, scale * columns, 3] uint8: blue below 0, red above, grey without a record.

    plate: [rows, columns] in standard deviations, NaN = no record.
    """
    share = np.clip((plate + MAP_LIMIT) / (2 * MAP_LIMIT), 0, 1)
    missing = np.isnan(share)
    pixels = RAMP[np.minimum(256 * np.where(missing, 0.5, share), 255).astype(int)]
    pixels[missing] = NO_WELL
    return pixels.repeat(scale, 0).repeat(scale, 1)


def histogram(counts: dict[str, np.ndarray], colours: dict[str, str], step: int) -> dict:
    """Returns the share of pixels at each value, on a logarithmic scale, a line for each experiment: the places that
    the macro `histogram` of report.html draws.

    A line has a gap at values without pixels; a value by itself is a dot.

    Args:
      counts: experiment -> [256] pixels per bin of one channel; those without pixels are left out.
      colours: experiment -> colour, #rrggbb.
      step: pixel values per bin.
    """
    shares = {name: values / values.sum() for name, values in counts.items() if values.sum()}
    lowest = min((share[share > 0].min() for share in shares.values()), default=0.1)
    decades = max(1, math.ceil(-math.log10(lowest)))
    left, top, right, bottom = PLOT
    across = lambda i: round(left + (right - left) * i / 256, 1)  # noqa: E731
    down = lambda share: round(float(top - (bottom - top) * np.log10(share) / decades), 1)  # noqa: E731
    lines, dots = [], []
    for name, share in shares.items():
        there = np.flatnonzero(share)
        for run in np.split(there, np.flatnonzero(np.diff(there) > 1) + 1):
            points = [(across(i), down(share[i])) for i in run]
            if len(run) > 1:
                lines.append((colours[name], " ".join(f"{x:g},{y:g}" for x, y in points)))
            else:
                dots.append((colours[name], *points[0]))
    return {
        "lines": lines,
        "dots": dots,
        "shares": [(down(10.0**power), f"{100 * 10.0**power:g} %") for power in range(-decades, 1)],
        "values": [(across(i), f"{step * i:,}") for i in range(0, 257, 64)],
    }
