"""Scores the alignments of a planted gene screen's map; `python -m rxrx_jax.reproduce map_demo` runs it.

    python -m rxrx_jax.planted_maps --config=rxrx_jax/planted_maps.py:seed=0 --workdir=DIR

The config holds the constants of the screen (`rxrx_jax/maps/planted/world.py`; with pixels=True in its argument those
of a simulated screen of pictures, PIXELS, instead) and the alignments. DIR gets config.json and metrics.jsonl, whose
last evaluation has ALIGNMENT/ARMS/map/NAME for each of them.
"""

import argparse
import dataclasses
import importlib.util
import pathlib
import sys
from collections.abc import Iterator, Sequence

import ml_collections
import numpy as np

from rxrx_jax.base import command, config
from rxrx_jax.base.config import parse_arguments
from rxrx_jax.base.spellings import NEGATIVE_CONTROL, TREATMENT
from rxrx_jax.maps import relate
from rxrx_jax.maps.benchmark import recall, relations, retrieval
from rxrx_jax.maps.build import align
from rxrx_jax.maps.build.aggregate import aggregate
from rxrx_jax.maps.planted import score
from rxrx_jax.maps.planted.world import Settings

# Of the pictures: one cell type, so that there is one map; more untreated wells in an experiment than features.
PIXELS = {
    "cell_types": ("SIMA",), "train": tuple(f"SIMA-{i:02d}" for i in range(1, 7)), "val": (), "test": (), "plates": 2,
    "treatments": 72, "replicates": 2, "positive_controls": 0, "untreated_wells": 40, "sites_per_well": 1,
}  # fmt: skip
MINIBATCH = 64


def get_config(argument=None):
    arg = parse_arguments(argument, seed=0, pixels=False)
    screen = PIXELS | {"seed": arg.seed} if arg.pixels else dataclasses.asdict(Settings(seed=arg.seed))
    return ml_collections.ConfigDict({"pixels" if arg.pixels else "screen": screen, "alignments": alignments()})


def alignments() -> tuple[str, ...]:
    """Those whose packages are installed."""
    return tuple(name for name in score.ALIGNMENTS if name != "harmony" or importlib.util.find_spec("harmonypy"))


def score_pixels(settings: dict, names: Sequence[str]) -> Iterator[tuple[str, str, str, dict[str, float]]]:
    """As `score.score`, of a screen of pictures by the simulator and the handcrafted features of its wells.

    A pathway of the simulator is a complex here: recall_across is of pairs of treatments of one, both of which do
    something; wells, the normalised mean average precision of such treatments' wells among all treated ones of other
    experiments. There are no arms, guides and compounds.
    """
    from rxrx_jax.simulate import effects
    from rxrx_jax.simulate.screen import Screen, sites

    screen = Screen(**{key: tuple(v) if isinstance(v, list) else v for key, v in settings.items()})
    rows = sites(screen)
    of, kind, batch = (np.array([row[key] for row in rows]) for key in ("perturbation_id", "well_type", "experiment"))
    is_control = kind == NEGATIVE_CONTROL
    treated = ~is_control
    where = screen.cell_types[0], screen.experiments[0]
    acts = np.array([effects.effect(screen.seed, i, TREATMENT, *where).share > 0 for i in range(screen.treatments)])
    pathway = np.arange(screen.treatments) // effects.PATHWAY
    alike = (pathway[:, None] == pathway) & acts[:, None] & acts
    treatments = np.array([f"treatment {i}" for i in range(screen.treatments)], object)
    known = [relations.make("across", treatments[np.stack(np.nonzero(np.triu(alike, 1)), 1)])]
    x, batches = features(screen, rows), np.unique(batch, return_inverse=True)[1]
    for name in names:
        aligner, aligned = align.fit(name, x, batch, is_control, "alignments")
        centres, _ = aggregate(aligned[treated], of[treated])
        (row,) = recall.all_pairs(centres, treatments, known, score.TAILS, draws=0)
        asked = np.flatnonzero(acts[of[treated]])
        ranked = relate.unit(aligned[treated]), of[treated], batches[treated]
        result = retrieval.average_precision(*ranked, queries=asked)
        wells = float(np.nanmean(retrieval.normalised(*result)))
        yield name, "none", aligner.marks, {"recall_across": row["recall"], "wells": wells}


def features(screen, rows: list[dict]) -> np.ndarray:
    """The handcrafted statistics of the pictures of rows of `simulate.screen.sites`, float32 [n, features]."""
    import jax

    from rxrx_jax.models.handcrafted import Handcrafted
    from rxrx_jax.simulate.screen import render_site

    compute = jax.jit(lambda images: Handcrafted().apply({}, images / 255.0)[0])
    images = np.stack([render_site(screen, row) for row in rows])
    padded = np.pad(images, ((0, -len(images) % MINIBATCH), (0, 0), (0, 0), (0, 0)))
    parts = [np.asarray(compute(padded[at : at + MINIBATCH])) for at in range(0, len(padded), MINIBATCH)]
    return np.concatenate(parts)[: len(images)]


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
        if "pixels" in values:
            scored = score_pixels(values["pixels"], values["alignments"])
        else:
            scored = score.score(Settings(**values["screen"]), values["alignments"])
        for alignment, arms, marks, numbers in scored:
            prefix = f"{alignment}/{arms}/"
            found |= {f"{prefix}map/{name}": value for name, value in numbers.items()} | {f"marks/{prefix}map": marks}
            print(f"{alignment}, arms {arms}: " + ", ".join(f"{n} {v:.3f}" for n, v in numbers.items()), flush=True)
        write(found)


if __name__ == "__main__":
    sys.exit(command.run(main))
