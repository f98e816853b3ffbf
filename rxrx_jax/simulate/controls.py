"""Pixel statistics of untreated wells: what the simulated screen shares with real ones.

    python -m rxrx_jax.simulate.controls --set size=large seed=100

The strengths of version 3 in `effects.py` and `microscope.py` are set so that they lie among those of ten untreated
wells of RxRx1, which a test measures.
"""

import argparse
import sys

import numpy as np

from rxrx_jax.base import command
from rxrx_jax.base.spellings import NEGATIVE_CONTROL, SPLITS
from rxrx_jax.simulate.design import Screen, parse, sites
from rxrx_jax.simulate.render import render_site

STATISTICS = (
    "correlation of channels over the pixels of an image",
    "skewness of the pixels of an image",
    "deviation over plates of the log mean of one well",
    "difference between two experiments of a cell type in log mean, rms",
)


def statistics(images: np.ndarray, experiments: np.ndarray, plates: np.ndarray) -> dict[str, np.ndarray]:
    """STATISTICS of untreated wells, one image each: correlation [1], the others [C]; NaN where one needs two plates,
    or two experiments, and there are none.

    Args: images [n, H, W, C]; experiments [n], names that begin with the cell type and a dash; plates [n].
    """
    pixels = images.reshape(len(images), -1, images.shape[-1]).astype(float)
    pairs = np.triu_indices(pixels.shape[-1], 1)
    correlation = np.mean([np.corrcoef(x.T)[pairs].mean() for x in pixels])
    z = (pixels - pixels.mean(1, keepdims=True)) / pixels.std(1, keepdims=True)
    level = np.log(pixels.mean(1))
    over_plates, differences = [], []
    means = {e: level[experiments == e].mean(0) for e in np.unique(experiments)}
    for name, mean in means.items():
        first = [level[(experiments == name) & (plates == p)][0] for p in np.unique(plates[experiments == name])]
        over_plates += [np.var(first, axis=0, ddof=1)] if len(first) > 1 else []
        kin = [other for other in means if other < name and other.split("-")[0] == name.split("-")[0]]
        differences += [(mean - means[other]) ** 2 for other in kin]
    root = lambda squares: np.sqrt(np.mean(squares, axis=0)) if squares else np.full(len(level[0]), np.nan)  # noqa: E731
    return dict(zip(STATISTICS, (correlation[None], (z**3).mean((0, 1)), root(over_plates), root(differences))))


def of_screen(screen: Screen) -> dict[str, np.ndarray]:
    """`statistics` of site 1 of all untreated wells of the experiments that are not to be tested on."""
    untreated = [row for row in sites(screen) if row["well_type"] == NEGATIVE_CONTROL and row["site"] == 1]
    rows = [row for row in untreated if row["split"] != SPLITS[-1]]
    images = np.stack([render_site(screen, row) for row in rows])
    return statistics(images, *(np.array([row[key] for row in rows]) for key in ("experiment", "plate")))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m rxrx_jax.simulate.controls", description=__doc__.split("\n")[0])
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="settings of the screen")
    for name, values in of_screen(parse(parser.parse_args(argv).set)).items():
        print(f"{name:68}", " ".join(f"{value:5.2f}" for value in values))


if __name__ == "__main__":
    sys.exit(command.run(main))
