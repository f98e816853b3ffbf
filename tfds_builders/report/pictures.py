"""The pictures of the build report: sites in colour, plates as heat maps, histograms of pixels.

matplotlib is imported by the functions that draw with it.
"""

import functools
import io
import re

import numpy as np
from PIL import Image

from rxrx_jax.base.errors import UserError
from rxrx_jax.report import pictures

PLATE_1536 = (32, 48)  # rows A to AF, columns 1 to 48
PLATE_384 = (16, 24)
MAP_LIMIT = 2.0  # standard deviations at which the colours of a plate map end
NO_WELL = (214, 214, 214)  # grey of a well without a record
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
    """Returns which of the published colours each channel has: 0..5; by position where a name says nothing."""
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
    raise UserError(f"sites.csv: the well {well!r} is none of A01 to AF48: prepare the dataset again")


def standardise(values: np.ndarray) -> np.ndarray:
    """Returns [n, C] less its mean over n, by its standard deviation; 0 where nothing varies."""
    centred = values - values.mean(0)
    spread = values.std(0)
    # A constant column's mean may differ from it in the last digit: that is no spread.
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
    from matplotlib import colormaps

    share = np.clip((plate + MAP_LIMIT) / (2 * MAP_LIMIT), 0, 1)
    missing = np.isnan(share)
    pixels = _bytes(colormaps["RdBu_r"](np.where(missing, 0.5, share))[..., :3])
    pixels[missing] = NO_WELL
    return pixels.repeat(scale, 0).repeat(scale, 1)


def histogram_figure(counts: dict[str, np.ndarray], colours: dict[str, str], step: int):
    """Returns a matplotlib figure of the share of pixels at each value, a line for each experiment.

    Args:
      counts: experiment -> [256] pixels per bin of one channel; those without pixels are left out.
      colours: experiment -> colour.
      step: pixel values per bin.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.3, 2.5), layout="constrained")
    axes = figure.subplots()
    for name, values in counts.items():
        if values.sum():
            share = np.where(values > 0, values / values.sum(), np.nan)  # a gap where a logarithm has no value
            near = np.convolve(values > 0, [1, 0, 1], "same")
            alone = np.flatnonzero((values > 0) & (near == 0))  # a line of no length: a dot shows it
            axes.plot(step * np.arange(len(values)), share, color=colours[name], linewidth=0.7, alpha=0.7,
                      marker=".", markersize=3, markevery=alone.tolist(), label=name)  # fmt: skip
    axes.set_yscale("log")
    axes.set_xlim(0, step * 256)
    axes.set_xlabel("pixel value", fontsize=8)
    axes.set_ylabel("share of pixels", fontsize=8)
    axes.tick_params(labelsize=7)
    axes.grid(color="#eeeeee")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def figure_png(figure) -> bytes:
    """Returns a PNG of a matplotlib figure."""
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=150)
    return png(np.asarray(Image.open(out).convert("RGB")), 64)
