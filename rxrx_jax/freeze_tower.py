"""Freezes the towers of runs of `molecule_map.py` into one file, which `mogfn.py:map` is rewarded by.

    python -m rxrx_jax.freeze_tower --checkpoint=runs/molecule_map --map=DIR --out=tower.npz
    python -m rxrx_jax.main --config=mogfn.py:map,gene=NAME,tower=tower.npz

Several runs of other seeds, each named by its own --checkpoint, are an ensemble; they must be of one dataset and one
size (of the simulated screen, runs that differ in --config.seed alone). --map is the map whose genes are wanted, in the
space of `data.phenomics`; of the simulated screen it is left out, and genes are simulated too.
"""

import argparse
import json
import pathlib
import sys
from collections.abc import Sequence

import numpy as np

from rxrx_jax import embed_molecules
from rxrx_jax.base import command
from rxrx_jax.base.config import Config
from rxrx_jax.base.errors import UserError
from rxrx_jax.data.source import make_source
from rxrx_jax.generate.rewards import towers
from rxrx_jax.maps import folder as maps
from rxrx_jax.molecules import records, screen, vocabulary
from rxrx_jax.molecules.split import TRAIN
from rxrx_jax.tasks import make_task
from rxrx_jax.training import checkpoint

SAME = ("data", "model", "task")  # keys of runs that can be an ensemble; of data only what the towers are of
DIFFERS = ("minibatch", "unreadable", "leave_out")


def freeze(paths: Sequence[str], out: pathlib.Path, folder: pathlib.Path | None = None) -> towers.Frozen:
    """Args: paths, of the runs; folder, of the map, None for the simulated screen's genes.

    Raises UserError for runs of another task, without a checkpoint or that are no ensemble, and for a map of another
    width or without genes."""
    runs = [_config(path) for path in paths]
    for path, run in zip(paths[1:], runs[1:]):
        for key in SAME:
            if _what(run, key) != _what(runs[0], key):
                raise UserError(f"--checkpoint={path} has another {key} than {paths[0]}: an ensemble is of runs that "
                                "differ in their seed alone, --config.seed")  # fmt: skip
    members, text = [], b""
    for path in paths:
        text = embed_molecules.open_encoder(path)[2]  # which refuses one that is not trained
        members.append(checkpoint.stored_parameters(path, checkpoint.published_part(path)))
    config = Config(runs[0])
    source = make_source(config, None)
    library, task = source.dataset, make_task(config, source)
    seed = None if runs[0]["data"]["phenomics"] else runs[0]["data"]["screen_seed"]
    if folder is not None:
        genes, positions, _ = maps.read(folder).genes
    elif seed is None:
        raise UserError(f"{paths[0]} is of wells of {runs[0]['data']['phenomics']}: name their map, --map=DIR")
    else:
        genes, positions = screen.genes(seed)
    if not len(genes) or positions.shape[1] != library.width:
        raise UserError(f"--map={folder} has {len(genes)} genes with {positions.shape[1]} features, and {paths[0]} was "
                        f"trained against {library.width}: give the map of its wells")  # fmt: skip
    out.parent.mkdir(parents=True, exist_ok=True)
    frozen = towers.Frozen(
        params=tuple(members),
        model=runs[0]["model"],
        outputs=task.head.outputs,
        doses=library.doses,
        vocabulary=vocabulary.parse(json.loads(text), f"{paths[0]}/{records.VOCABULARY}"),
        genes=tuple(map(str, genes)),
        positions=np.asarray(positions, np.float64),
        centre=library.centre,
        scale=library.scale,
        library=tuple(library.smiles.tolist()),
        trained=library.split == TRAIN,
        screen_seed=seed,
    )
    towers.save(out, frozen)
    return frozen


def _config(path: str) -> dict:
    if not embed_molecules.is_of_molecules(path):
        raise UserError(f"--checkpoint={path} is not a run on molecules: give one of molecule_map.py")
    run = checkpoint.read_config(path)
    if run["task"]["name"] != "contrast":
        raise UserError(f"--checkpoint={path} is of task.name={run['task']['name']}: give a run of molecule_map.py")
    return run


def _what(run: dict, key: str) -> dict:
    return {name: value for name, value in run[key].items() if name not in DIFFERS}


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m rxrx_jax.freeze_tower", description=__doc__.split("\n\n")[0])
    parser.add_argument("--checkpoint", required=True, action="append", help="the workdir of a run of molecule_map.py")
    parser.add_argument("--map", type=pathlib.Path, metavar="DIR", help="of rxrx_jax.maps build")
    parser.add_argument("--out", type=pathlib.Path, required=True, metavar="FILE.npz", help="the file to write")
    flags = parser.parse_args(argv)
    if flags.out.suffix != ".npz":
        parser.error(f"--out={flags.out}: expected a name that ends in .npz")
    made = freeze(flags.checkpoint, flags.out, flags.map)
    print(f"wrote {flags.out}: {len(made.params)} towers and {len(made.genes):,} genes")


if __name__ == "__main__":
    sys.exit(command.run(main))
