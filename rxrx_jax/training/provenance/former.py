"""The previous stage: its encoder, and what that has seen."""

import pathlib
import sys

from rxrx_jax import weights
from rxrx_jax.base import seen
from rxrx_jax.base.config import Config
from rxrx_jax.base.seen import Seen
from rxrx_jax.training import checkpoint


def encoder(path: str, source: str, config: Config, task, shapes, statistics) -> tuple:
    """The encoder to start from, (parameters, BatchNorm statistics) of these shapes.

    It is that of a run's checkpoint, there the part `source` of the state ("params" or "averages"; "" is the part that
    the run published), or of a file, folder or hub address of weights, there the part `source` if the file holds
    several."""
    if checkpoint.is_run(path):
        former = checkpoint.read_config(checkpoint.find_checkpoint(path, "init.path="))["normalisation"]
        if former != config.normalisation:
            print(f"note: {path} saw images normalised by {former}, this run {config.normalisation}", file=sys.stderr)
        where = task.inherits, source or checkpoint.published_part(path)
        return tuple(
            load(path, where[0], like, where[1])
            for load, like in ((checkpoint.load_parameters, shapes), (checkpoint.load_statistics, statistics))
        )
    return weights.encoder_network(path, shapes, statistics, task.encoder, source)


def seen_by(path: str) -> Seen:
    """What the parameters at `path`, a run, an exported folder, a file of weights or "" for fresh ones, have seen.
    Unknown where no file beside them records it."""
    if not path:
        return Seen()
    if not checkpoint.is_run(path):
        return weights.seen(path)
    workdir = checkpoint.find_checkpoint(path).parent.parent
    found = seen.read(workdir / seen.NAME)
    return Seen(unknown=(pathlib.PurePath(workdir).name,)) if found is None else found
