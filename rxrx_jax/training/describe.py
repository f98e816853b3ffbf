"""What a config is: resolved, with the steps and the parameters that follow from it, before anything is trained."""

import contextlib

import jax

from rxrx_jax.base import sharding
from rxrx_jax.base.config import Config, to_json
from rxrx_jax.base.errors import UserError
from rxrx_jax.data import noise
from rxrx_jax.data.builders import builders
from rxrx_jax.data.source import make_source
from rxrx_jax.evaluate import protocols
from rxrx_jax.training.step import make_step, parameter_count
from rxrx_jax.training.train import lengths_of, run_length


def text(values: dict) -> str:
    """The config as JSON, and a line of figures. Nothing is prepared or compiled."""
    return to_json(values) + figures(values) + "\n"


def figures(values: dict) -> str:
    """One line: steps, minibatch, parameters and FLOPs of a run. Raises what the run raises for the config."""
    config = Config(values)
    mesh = sharding.make_mesh(1, 1)  # those of the run may be elsewhere
    with jax.set_mesh(mesh):
        source, size = _source(config)
        lengths = lengths_of(source)
        total_steps = run_length(config, **lengths)
        step = make_step(config, source, mesh, total_steps)
    return (
        f"{total_steps:,} steps of {lengths['minibatch']:,} images, {lengths['examples']:,} per epoch{size} | "
        f"{parameter_count(step.arguments[0].params) / 1e6:.2f} M parameters | "
        f"{step.flops_per_image / 1e9:.2f} GFLOPs per image"
    )


def _source(config: Config):
    """(the source of a config, ""), or noise in its published shape and a note where it is not prepared here."""
    data = config.data
    if data.get("source", "images") == "images":
        with contextlib.suppress(UserError):  # a dataset that is not published is opened
            if not builders().find(data.name, out=data.get("folder"), **data.builder.as_kwargs()).is_dir():
                return noise.make(config), " (the published training split; it is not prepared here)"
    return make_source(config, lambda dataset: protocols.roles(dataset, config.protocol.name)), ""
