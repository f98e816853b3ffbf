"""How much of the pixel variance is experiment, plate, well, perturbation: shares by the method of moments.

    python -m rxrx_jax.simulate.variance --set seed=1

Model, per channel, for pixel p of site s (all effects random, independent, with mean 0):

    y[s, p] = mu + cell_type + experiment + plate + perturbation + well + site + pixel

experiment is nested in cell type, plate in experiment, well in plate; perturbation is crossed with all of
them. For every factor A take the uncorrected sum of squares

    T_A = sum over levels a of (sum of y in a)^2 / n_a

    E[T_A] = N mu^2 + sum over factors B of var_B * sum over a of (sum over b of n_ab^2) / n_a

with n_ab the number of pixels in level a of A and b of B (Henderson's method 1, 1953). As many equations as
unknowns: solving them gives unbiased variances for any design, balanced or not. An unbiased estimate of a
small variance, or of one with few levels such as cell type, can be negative.

Columns of the table, each the mean over channels of var_B / sum of all var: "pixels" counts the variance
between the pixels of one image, so it says how much the batch effect moves single pixels; "site means" leaves
it out, and is the same decomposition of the mean intensity of a site. The interaction of perturbation and
experiment falls to "well".

The strengths of version 2, in `morphology.py`, are set so that over seeds experiment takes about 20 to 25 % of "pixels"
(cell type not counted) and perturbation about 4 to 7 %, like a prototype whose batch effect resembled
RxRx1's. One world of 12 experiments scatters around that (seeds 0 to 5: 14 to 29 % and 4 to 12 %). Version 3 moves
light at constant amounts: its perturbations take less than 1 %, its experiments more (docs/simulated_screen.md).
"""

import argparse
import sys

import numpy as np

from rxrx_jax.base import command
from rxrx_jax.simulate.design import Screen, parse, sites
from rxrx_jax.simulate.morphology import generator
from rxrx_jax.simulate.render import render_site

FACTORS = ("cell_type", "experiment", "plate", "perturbation", "well", "site", "pixel")
# the keys of a site row that tell the level of a factor
KEYS = {
    "cell_type": ("cell_type",), "experiment": ("experiment",), "plate": ("experiment", "plate"),
    "perturbation": ("perturbation",), "well": ("well_id",), "site": ("site_id",),
}  # fmt: skip


def components(levels: dict, total: np.ndarray, squares: np.ndarray, pixels: int) -> np.ndarray:
    """Variances [factors + 1, channels] in the order of levels, then the one within a row of the table.

    levels: factor -> level number of each row [rows] | total, squares [rows, channels]: sum and sum of
    squares over the `pixels` pixels of a row.
    """
    rows = len(total)
    factors = [np.zeros(rows, int), *(np.unique(level, return_inverse=True)[1] for level in levels.values())]
    sizes = [np.bincount(factor) * pixels for factor in factors]
    # last factor: every pixel is a level of its own
    matrix = np.empty((len(factors) + 1, len(factors) + 1))
    moments = np.empty((len(factors) + 1, total.shape[1]))
    for i, a in enumerate(factors):
        sums = np.zeros((a.max() + 1, total.shape[1]))
        np.add.at(sums, a, total)
        moments[i] = (sums**2 / sizes[i][:, None]).sum(0)
        for j, b in enumerate(factors):
            pairs, count = np.unique(np.stack([a, b]), axis=1, return_counts=True)
            matrix[i, j] = ((count * pixels) ** 2 / sizes[i][pairs[0]]).sum()
        matrix[i, -1] = len(sizes[i])
    moments[-1] = squares.sum(0)
    matrix[-1] = rows * pixels
    matrix[:, 0] = rows * pixels  # the mean is one constant: N mu^2 in every equation
    return np.linalg.solve(matrix, moments)[1:]


def sample(screen: Screen, wells: int) -> list[dict]:
    """The sites of at most `wells` wells of the screen, drawn at random."""
    rows = sites(screen)
    names = list(dict.fromkeys(row["well_id"] for row in rows))
    drawn = generator(screen.seed, "variance").permutation(len(names))[:wells]
    kept = {names[i] for i in drawn}
    return [row for row in rows if row["well_id"] in kept]


def shares(screen: Screen, wells: int = 1400) -> dict[str, tuple[float, float]]:
    """Factor -> (share of the variance of pixels, of site means), from a sample of wells."""
    rows = sample(screen, wells)
    total, squares = [], []
    for row in rows:
        pixels = render_site(screen, row).reshape(-1, 6).astype(float)
        total.append(pixels.sum(0))
        squares.append((pixels**2).sum(0))
    levels = {}
    for factor, keys in KEYS.items():
        names = np.array(["/".join(str(row[key]) for key in keys) for row in rows])
        level = np.unique(names, return_inverse=True)[1]
        # a factor of one level, or with the same levels as another, cannot be told apart: it gets no share
        if level.max() > 0 and not any(_same(level, other) for other in levels.values()):
            levels[factor] = level
    var = components(levels, np.array(total), np.array(squares), screen.image_size**2)
    of_pixels = dict(zip([*levels, "pixel"], (var / var.sum(0)).mean(1)))
    of_means = dict(zip(levels, (var[:-1] / var[:-1].sum(0)).mean(1)))
    return {f: (float(of_pixels.get(f, 0.0)), float(of_means.get(f, 0.0))) for f in FACTORS}


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    pairs = np.unique(np.stack([a, b]), axis=1).shape[1]
    return pairs == a.max() + 1 == b.max() + 1


def table(values: dict[str, tuple[float, float]]) -> str:
    """The shares as text, in per cent."""
    lines = [f"{'factor':14}{'pixels':>9}{'site means':>13}"]
    for factor, (pixel, mean) in values.items():
        text = f"{100 * mean:11.1f} %" if factor != "pixel" else f"{'':>13}"
        lines.append(f"{factor:14}{100 * pixel:7.1f} %{text}".rstrip())
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="settings of the screen")
    parser.add_argument("--wells", type=int, default=1400, help="how many wells to draw")
    options = parser.parse_args(argv)
    screen = parse(options.set)
    print(table(shares(screen, options.wells)))


if __name__ == "__main__":
    sys.exit(command.run(main))
