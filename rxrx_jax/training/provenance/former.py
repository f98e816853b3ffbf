"""The previous stage: its encoder, and what that has seen."""

import pathlib
import sys

from rxrx_jax import weights
from rxrx_jax.base import seen
from rxrx_jax.base.config import Config
from rxrx_jax.base.errors import UserError
from rxrx_jax.base.seen import Seen
from rxrx_jax.training import checkpoint

VOCABULARY = "vocabulary"  # key of a resolved config: of a run on molecules, a digest of what its tokens mean


def encoder(path: str, source: str, config: Config, task, shapes, statistics) -> tuple:
    """The encoder to start from, (parameters, BatchNorm statistics) of these shapes.

    It is that of a run's checkpoint, there the part `source` of the state ("params" or "averages"; "" is the part that
    the run published), or of a file, folder or hub address of weights, there the part `source` if the file holds
    several."""
    vocabulary = getattr(task, "vocabulary", "")
    if checkpoint.is_run(path):
        before = checkpoint.read_config(checkpoint.find_checkpoint(path, "init.path="))
        check_vocabulary(path, before, vocabulary)
        former = before.get("normalisation")
        if former and former != config.normalisation:
            print(f"note: {path} saw images normalised by {former}, this run {config.normalisation}", file=sys.stderr)
        where = task.inherits, source or checkpoint.published_part(path)
        return tuple(
            load(path, where[0], like, where[1])
            for load, like in ((checkpoint.load_parameters, shapes), (checkpoint.load_statistics, statistics))
        )
    if vocabulary:
        raise UserError(f"init.path={path}: an encoder of molecules starts from a run's workdir")
    return weights.encoder_network(path, shapes, statistics, task.encoder, source)


def check_vocabulary(path: str, before: dict, vocabulary: str, given: str = "init.path=") -> None:
    """Raises UserError where the run whose config is `before` embeds other tokens than a task of this `vocabulary`, or
    images (""). Args: given, what stands before the path where the user named it."""
    theirs = before.get("resolved", {}).get(VOCABULARY, "")
    if theirs != vocabulary:
        what = f"the vocabulary {theirs[:12]}" if theirs else "no vocabulary of molecules"
        mine = f"{vocabulary[:12]}" if vocabulary else "none"
        raise UserError(
            f"{given}{path} has {what} and this run's data {mine}: prepare them with the vocabulary of its dataset"
        )


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
