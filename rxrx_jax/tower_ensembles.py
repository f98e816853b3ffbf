"""Runs of `molecule_map.py` that differ in their seed alone, frozen into one file: a run of the table mogfn_map.

    python -m rxrx_jax.tower_ensembles --config=rxrx_jax/tower_ensembles.py --workdir=DIR

They are of one simulated screen, and start from init.path where it is set. DIR gets tower.npz beside config.json and
metrics.jsonl, whose last evaluation has the mean retrieval of the members (`test/top_5_percent`).
"""

import pathlib
import sys

import ml_collections
import numpy as np

from rxrx_jax.base import command, config, config_flag
from rxrx_jax.base.config import parse_arguments

NAME, TOWER = "tower_ensembles", "tower.npz"
SCORES = ("test/top_1_percent", "test/top_5_percent")


def get_config(argument=None):
    arg = parse_arguments(argument, members=3, seed=0)
    stage = config.make(f"molecule_map.py:seed={arg.seed}")
    stage.evaluators.retrieval.baselines = False
    return ml_collections.ConfigDict({"members": arg.members, "stage": stage, "seed": arg.seed, "init": {"path": ""}})


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    run(*config_flag.run_arguments(NAME, __doc__, "members=3", argv))


def run(values: dict, workdir: pathlib.Path) -> None:
    """Trains the members, with seeds from that of the config on, and freezes them."""
    from rxrx_jax.freeze_tower import freeze
    from rxrx_jax.training import metrics, train
    from rxrx_jax.training.provenance.recorded import recorded

    with recorded(workdir, values) as write:
        folders, found = [], []
        for i in range(values["members"]):
            folders.append(workdir / f"member{i}")
            stage = values["stage"] | {"seed": values["seed"] + i}
            train.run(stage | {"init": stage["init"] | values["init"]}, folders[-1])
            lines = metrics.read(folders[-1] / metrics.NAME)
            found.append({k: v for line in lines if line.get("final") for k, v in line.items()})
        freeze([str(folder) for folder in folders], workdir / TOWER)
        write({name: float(np.mean([one[name] for one in found])) for name in SCORES})


if __name__ == "__main__":
    sys.exit(command.run(main))
