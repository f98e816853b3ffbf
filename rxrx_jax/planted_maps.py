"""Scores the alignments of a planted gene screen's map; `python -m rxrx_jax.reproduce map_demo` runs it.

    python -m rxrx_jax.planted_maps --config=rxrx_jax/planted_maps.py:seed=0 --workdir=DIR

The config holds the constants of the screen (`rxrx_jax/maps/planted/world.py`) and the alignments. DIR gets config.json
and metrics.jsonl, whose last evaluation has ALIGNMENT/ARMS/map/NAME for each of them.
"""

import argparse
import dataclasses
import importlib.util
import pathlib
import sys

import ml_collections

from rxrx_jax.base import command, config
from rxrx_jax.base.config import parse_arguments
from rxrx_jax.maps.planted import score
from rxrx_jax.maps.planted.world import Settings


def get_config(argument=None):
    arg = parse_arguments(argument, seed=0)
    return ml_collections.ConfigDict(
        {"screen": dataclasses.asdict(Settings(seed=arg.seed)), "alignments": alignments()}
    )


def alignments() -> tuple[str, ...]:
    """Those whose packages are installed."""
    return tuple(name for name in score.ALIGNMENTS if name != "harmony" or importlib.util.find_spec("harmonypy"))


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m rxrx_jax.planted_maps", description=__doc__.split("\n")[0])
    parser.add_argument("--config", required=True, metavar="FILE", help="rxrx_jax/planted_maps.py:seed=0, or another")
    parser.add_argument("--workdir", type=pathlib.Path, required=True, metavar="DIR", help="where its numbers go")
    flags = parser.parse_args(argv)
    values = config.load(flags.config)

    from rxrx_jax.training.provenance.recorded import recorded  # with jax, when the flags are known to be good

    with recorded(flags.workdir, values) as write:
        found: dict = {}
        for alignment, arms, marks, numbers in score.score(Settings(**values["screen"]), values["alignments"]):
            prefix = f"{alignment}/{arms}/"
            found |= {f"{prefix}map/{name}": value for name, value in numbers.items()} | {f"marks/{prefix}map": marks}
            print(f"{alignment}, arms {arms}: " + ", ".join(f"{n} {v:.3f}" for n, v in numbers.items()), flush=True)
        write(found)


if __name__ == "__main__":
    sys.exit(command.run(main))
