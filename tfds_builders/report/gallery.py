"""The pictures of the build report: histograms, plate maps and sites, in bounded number."""

from collections.abc import Callable

import numpy as np

from rxrx_jax.base.page import Picture
from rxrx_jax.base.spellings import NEGATIVE_CONTROL
from rxrx_jax.report.pictures import colours
from tfds_builders.report import pictures
from tfds_builders.report.contents import Contents, as_map, edges

PICTURED = 24  # experiments with thumbnails and plate maps, at most
THUMBNAIL, LARGE = 256, 512  # pixels, at most
COLOUR_NAMES = ("blue", "green", "red", "cyan", "magenta", "yellow")


def choose(names: list[str]) -> tuple[list[str], dict]:
    """Returns up to PICTURED of the names, evenly spread, and the others with the number of all."""
    at = np.unique(np.linspace(0, len(names) - 1, min(PICTURED, len(names))).astype(int)) if names else []
    chosen = [names[i] for i in at]
    return chosen, {"others": [name for name in names if name not in chosen], "number": len(names)}


def histograms(found: Contents) -> dict:
    """A figure for each channel, with a line for each experiment in the colour of its cell type."""
    palette = colours(sorted(set(found.cell_types.values())))
    names = [name for name in sorted(found.cell_types) if name in found.histograms]
    of_experiment = {name: palette[found.cell_types[name]] for name in names}
    figures = []
    for i, channel in enumerate(found.channels):
        counts = {name: found.histograms[name][i] for name in names}
        tops = [pictures.percentile(values, 0.999, found.step) for values in counts.values()]
        top = " to ".join(f"{value:,}" for value in sorted({min(tops), max(tops)}))
        text = f"w{i + 1} {channel}: 99.9 % of an experiment's pixels are at most {top}"
        drawn = pictures.histogram(counts, of_experiment, found.step)
        figures.append(drawn | {"label": f"histograms of w{i + 1}; in numbers below", "caption": text})
    return {"figures": figures, "legend": [("bar", colour, name) for name, colour in palette.items()]}


def plate_maps(found: Contents) -> dict:
    """Intensities by well: the mean over an experiment's plates for each channel, and its first plate."""
    chosen, left_out = choose(sorted(found.sums))
    rows = {}
    for name in chosen:
        maps, at_edge = as_map(found.sums[name]), edges(found.sums[name])
        rows[name] = [_plate(maps[..., i], f"{name} w{i + 1}", f"w{i + 1}", at_edge[i]) for i in range(maps.shape[-1])]
    first = []
    for name in chosen:
        plate, sums = found.first[name]
        values = as_map(sums).mean(-1)
        label = f"{name} plate {plate}"
        first.append(_plate(values, label, label, pictures.edge(values)))
    return {"rows": rows, "first": first, "left_out": left_out, "limit": f"{pictures.MAP_LIMIT:g}"}


def _plate(values: np.ndarray, name: str, label: str, at_edge: float) -> Picture:
    caption = f"{label}: edge {round(at_edge, 2) + 0.0:+.2f}" if np.isfinite(at_edge) else label
    scale = 192 // values.shape[1]  # the same size for plates of 384 and of 1536 wells
    png = pictures.png(pictures.heat(values, scale), 256)
    return Picture(png, f"plate map of {name}", caption)


def sites(found: Contents, read: Callable[[str, int], np.ndarray]) -> dict:
    """A thumbnail of one site of each experiment, and every channel of the first of them."""
    chosen, left_out = choose(sorted(found.samples))
    high, words = full_colour(found)
    channels = pictures.stains(found.channels)
    figures, large = [], []
    for name in chosen:
        sample = found.samples[name]
        image = read(sample.split, sample.index)  # [H, W, C]; one at a time
        small = pictures.colour(pictures.shrink(image, THUMBNAIL), channels, high)
        what = sample.well_type.replace("_", " ")
        what = what if sample.well_type == NEGATIVE_CONTROL else f"{what} {sample.perturbation}"
        caption = f"{sample.site_id}, {found.cell_types[name]}, {what}"
        figures.append(Picture(pictures.png(small, 256), f"composite image of site {sample.site_id}", caption))
        large = large or _channels(found, pictures.shrink(image, LARGE), sample.site_id)
    painted = ", ".join(f"{found.channels[i]} {COLOUR_NAMES[stain]}" for i, stain in enumerate(channels))
    others = ", ".join(found.channels[len(channels) :])
    return {
        "painted": f"{painted}; not drawn: {others}" if others else painted,
        "scale": words,
        "left_out": left_out,
        "figures": figures,
        "first": found.samples[chosen[0]].site_id if chosen else "",
        "channels": large,
    }


def full_colour(found: Contents) -> tuple[np.ndarray, str]:
    """Returns the pixel value drawn at full colour, [C], and how it was found.

    RxRx1 has published values; other screens are brighter or darker, and take theirs from all of their pixels.
    """
    if found.info["name"] in ("rxrx1", "rxrx1_wilds"):
        high = np.array(pictures.RANGES)[pictures.stains(found.channels)]
        words = "from 0 to the published values"
    else:
        total = sum(found.histograms.values())  # [C, 256]
        high = np.array([max(1, pictures.percentile(counts, 0.999, found.step)) for counts in total])
        words = "from 0 to the 99.9th percentile of all pixels"
    drawn = high[: len(pictures.stains(found.channels))]
    return high, f"{words} ({', '.join(f'{value:,}' for value in drawn)})"


def _channels(found: Contents, image: np.ndarray, site_id: str) -> list[Picture]:
    """Every channel on a scale of its own, as RxRx1's is too bright or too dark for many a site."""
    figures = []
    for i, channel in enumerate(found.channels):
        high = float(np.quantile(image[..., i], 0.999))
        png = pictures.png(pictures.grey(image[..., i], high), 64)
        label = f"w{i + 1} {channel}"
        figures.append(Picture(png, f"{label} of {site_id}", f"{label}, from 0 to {high:,.0f}"))
    return figures
