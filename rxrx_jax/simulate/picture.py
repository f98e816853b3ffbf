"""A sheet of simulated sites to look at: experiments in rows, perturbations in columns, RGB composites.

python -m rxrx_jax.simulate.picture --out sheet.png --set seed=1 image_size=128
"""

import argparse
import sys

import numpy as np

from rxrx_jax.base import command
from rxrx_jax.report.pictures import composite
from rxrx_jax.simulate.design import Screen, parse, sites
from rxrx_jax.simulate.render import render_site

# Grey level drawn at full colour. The published ones (51 to 191) are for RxRx1's darker images.
FULL = np.array([200, 320, 250, 400, 330, 400])


def montage(screen: Screen, path, perturbations: int = 10) -> None:
    """Writes a PNG sheet: site 1 of a well of the first treatments, of a control and of an untreated well."""
    from PIL import Image

    ids = list(range(min(perturbations, screen.treatments)))
    ids += [screen.treatments] * (screen.positive_controls > 0)
    ids += [screen.classes - 1] * (screen.untreated_wells > 0)
    chosen = {}
    for row in sites(screen):
        chosen.setdefault((row["experiment"], row["perturbation_id"]), row)
    lines = []
    for experiment in screen.experiments:
        tiles = [composite(render_site(screen, chosen[experiment, i]), 0, FULL) for i in ids]
        lines.append(np.concatenate([np.pad(tile, ((1, 1), (1, 1), (0, 0))) for tile in tiles], axis=1))
    Image.fromarray((255 * np.concatenate(lines)).astype(np.uint8)).save(path)


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", required=True, help="PNG file to write")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="settings of the screen")
    options = parser.parse_args(argv)
    screen = parse(options.set)
    montage(screen, options.out)


if __name__ == "__main__":
    sys.exit(command.run(main))
