"""What a config is: resolved, with the steps, parameters and memory that follow from it, before anything is trained."""

import dataclasses
import re

import jax

from rxrx_jax.base import sharding
from rxrx_jax.base.config import Config, to_json
from rxrx_jax.base.errors import UserError
from rxrx_jax.base.files import is_remote, mirror
from rxrx_jax.data import noise
from rxrx_jax.data.builders import builders
from rxrx_jax.data.source import make_source, minibatch_size
from rxrx_jax.evaluate import protocols
from rxrx_jax.training.step import make_step, parameter_count
from rxrx_jax.training.train import lengths_of, run_length


def text(values: dict) -> str:
    """The config as JSON, and a line of figures. Nothing is prepared or compiled."""
    return to_json(values) + figures(values) + "\n"


@dataclasses.dataclass(frozen=True)
class Figures:
    """What follows from a config: steps, images of a minibatch and of an epoch, a note on where the latter is from,
    parameters, FLOPs of an image, of all training; bytes of the state that a checkpoint holds, and per chip the least
    that a step does."""

    steps: int
    minibatch: int
    examples: int
    note: str
    parameters: int
    flops_per_image: float
    flops: float
    state_bytes: int
    least_memory: int


def measure(values: dict) -> Figures:
    """The figures of a config, of which nothing is prepared or compiled. Raises what the run raises for the config."""
    config = Config(values)
    mesh = sharding.make_mesh(1, 1)  # those of the run may be elsewhere
    with jax.set_mesh(mesh):
        source, size = _source(config)
        lengths = lengths_of(source)
        total_steps = run_length(config, **lengths)
        step = make_step(config, source, mesh, total_steps)
    state = step.arguments[0]
    return Figures(
        steps=total_steps,
        **lengths,
        note=size,
        parameters=parameter_count(state.params),
        flops_per_image=step.flops_per_image,
        flops=total_steps * minibatch_size(source) * step.flops_per_image,
        state_bytes=sharding.bytes_per_device(state, 1, 1),
        least_memory=_least_memory(config, step.task, state),
    )


def steps(values: dict) -> int:
    """The steps of a run alone, which need no network."""
    config = Config(values)
    return run_length(config, **lengths_of(_source(config)[0]))


def figures(values: dict) -> str:
    """One line of them. Raises as `measure` does."""
    of = measure(values)
    return (
        f"{of.steps:,} steps of {of.minibatch:,} images, {of.examples:,} per epoch{of.note} | "
        f"{of.parameters / 1e6:.2f} M parameters | "
        f"{of.flops_per_image / 1e9:.2f} GFLOPs per image, {of.flops:.2g} FLOP in all | "
        f"{of.least_memory / 2**30:.2f} GiB per chip of parameters, optimiser state and gradients, activations not "
        "counted"
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
        folder = data.get("folder")
        try:  # who launches need not be let into the store
            prepared = not is_remote(folder or "") and mirror.exists(
                builders().find(data.name, folder, **data.builder.as_kwargs())
            )
        except UserError:  # of your own
            prepared = True
        if not prepared and data.name in noise.KNOWN:
            source = noise.make(config, guess=True)
            guessed = " and ".join(source.description.guessed)
            note = f"; its number of {guessed} is not published, taken as {noise.GUESS}" if guessed else ""
            return source, f" (the published training split; it is not prepared here{note})"
    return make_source(config, lambda dataset: protocols.roles(dataset, config.protocol.name)), ""
