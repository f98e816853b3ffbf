"""What a run starts from, and what it and the runs before it have seen."""

import sys

from rxrx_jax import weights
from rxrx_jax.adapt import Method
from rxrx_jax.base.config import Config
from rxrx_jax.base.errors import UserError
from rxrx_jax.data.augment import TRANSDUCTIVE_NORMALISATIONS
from rxrx_jax.training import checkpoint


def resolve(config: Config, task, total_steps: int) -> dict:
    """What config.json keeps beside the config itself."""
    resolved = {
        "total_steps": total_steps,
        "transductive": is_transductive(config, task.method),
        "layout": checkpoint.LAYOUT,
    }
    if path := config.init.path:
        resolved["transductive"] |= inherits_transductive(path)
        if foreign := foreign_weights(path):
            resolved["foreign_weights"] = foreign
    return resolved


def is_transductive(config: Config, method: Method) -> bool:
    """Whether anything in the run's training or reading sees unlabelled images of held-out experiments."""
    return bool(
        config.get("normalisation") in TRANSDUCTIVE_NORMALISATIONS
        or config.data.get("unlabelled_minibatch", 0)
        or method.needs.transductive
    )


def former_encoder(path: str, source: str, config: Config, task, shapes):
    """The encoder to start from: of a run's checkpoint, there the part `source` of the state ("params", "averages";
    "" is the part that run was evaluated with), or of a file or folder of weights."""
    if checkpoint.is_run(path):
        former = checkpoint.read_config(path)["normalisation"]
        if former != config.normalisation:
            print(f"note: {path} saw images normalised by {former}, this run {config.normalisation}", file=sys.stderr)
        return checkpoint.load_parameters(path, task.inherits, shapes, source or checkpoint.published_part(path))
    if source:
        raise UserError(f"init.parameters={source} is a part of a run's state, and init.path={path} is no run")
    return weights.encoder_parameters(path, shapes, task.encoder)


def inherits_transductive(path: str) -> bool:
    """Whether what the run starts from is known to have seen unlabelled held-out images."""
    return checkpoint.is_transductive(path) if checkpoint.is_run(path) else bool(weights.seen(path))


def foreign_weights(path: str) -> str | None:
    """The file of another project's weights that a run starts from, directly or through the stages before: nobody here
    knows what they have seen."""
    if checkpoint.is_run(path):
        return checkpoint.read_config(path)["resolved"].get("foreign_weights")
    return path if weights.seen(path) is None else None
