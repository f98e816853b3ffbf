"""What a config is: resolved, with the steps, parameters and memory that follow from it, before anything is trained."""

import re

import jax

from rxrx_jax.base import sharding
from rxrx_jax.base.config import Config, to_json
from rxrx_jax.base.errors import UserError
from rxrx_jax.data import noise
from rxrx_jax.data.builders import builders
from rxrx_jax.data.source import make_source, minibatch_size
from rxrx_jax.evaluate import protocols
from rxrx_jax.training.step import make_step, parameter_count
from rxrx_jax.training.train import lengths_of, run_length


def text(values: dict) -> str:
    """The config as JSON, and a line of figures. Nothing is prepared or compiled."""
    return to_json(values) + figures(values) + "\n"


def figures(values: dict) -> str:
    """One line: steps, minibatch, parameters, FLOPs and the least memory of a run. Raises what the run raises for the
    config."""
    config = Config(values)
    mesh = sharding.make_mesh(1, 1)  # those of the run may be elsewhere
    with jax.set_mesh(mesh):
        source, size = _source(config)
        lengths = lengths_of(source)
        total_steps = run_length(config, **lengths)
        step = make_step(config, source, mesh, total_steps)
    state = step.arguments[0]
    return (
        f"{total_steps:,} steps of {lengths['minibatch']:,} images, {lengths['examples']:,} per epoch{size} | "
        f"{parameter_count(state.params) / 1e6:.2f} M parameters | "
        f"{step.flops_per_image / 1e9:.2f} GFLOPs per image, "
        f"{total_steps * minibatch_size(source) * step.flops_per_image:.2g} FLOP in all | "
        f"{_least_memory(config, step.task, state) / 2**30:.2f} GiB per chip of parameters, optimiser state and "
        "gradients, activations not counted"
    )


def _least_memory(config: Config, task, state) -> int:
    """Bytes per chip that a step holds whatever its minibatch: the state, and a gradient of each trained parameter."""
    trained = {
        name: leaf
        for name, leaf in sharding.named_leaves(state.params).items()
        if not (task.frozen and re.match(task.frozen, name))
    }
    ways = config.mesh.fsdp, config.mesh.tensor
    return sharding.bytes_per_device(state, *ways) + sharding.bytes_per_device({"params": trained}, *ways)


def _source(config: Config):
    """(the source of a config, ""), or noise in its published shape and a note where it is not prepared here."""
    data = config.data
    if data.get("source", "images") == "images":
        try:
            prepared = builders().find(data.name, out=data.get("folder"), **data.builder.as_kwargs()).is_dir()
        except UserError:  # of your own
            prepared = True
        if not prepared and data.name in noise.KNOWN:
            source = noise.make(config, guess=True)
            guessed = " and ".join(source.description.guessed)
            note = f"; its number of {guessed} is not published, taken as {noise.GUESS}" if guessed else ""
            return source, f" (the published training split; it is not prepared here{note})"
    return make_source(config, lambda dataset: protocols.roles(dataset, config.protocol.name)), ""
