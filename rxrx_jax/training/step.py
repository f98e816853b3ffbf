"""The train step of a config and everything that it needs but data: for the trainer, and for compiling it elsewhere."""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rxrx_jax.base import sharding
from rxrx_jax.base.config import Config
from rxrx_jax.base.errors import UserError
from rxrx_jax.data.augment import Augment
from rxrx_jax.models import attention
from rxrx_jax.tasks import make_task
from rxrx_jax.training import optim
from rxrx_jax.training.speed import flops
from rxrx_jax.training.state import TrainState

# One seed a run; each purpose folds its own number into it, each step then folds in the step and each image its place
# in the minibatch.
PURPOSES = {"init": 0, "augment": 1, "task": 2}


@dataclasses.dataclass(frozen=True)
class Step:
    """initialise(key) -> TrainState; update(state, minibatch, statistics, keys) -> (state, metrics), jitted, the state
    donated; arguments: their shapes and shardings, the first is the state's; flops_per_image: of a training step."""

    task: object
    augment: Augment
    seed: int
    initialise: Callable
    update: Callable
    arguments: tuple
    flops_per_image: float

    @property
    def keys(self) -> dict[str, jax.Array]:
        """One for each purpose; not made before they are asked for, as a mesh of described devices holds no arrays."""
        return make_keys(self.seed)

    def inherit(self, state: TrainState, part) -> TrainState:
        """The fresh state with the former stage's `part` of the parameters, wherever it is kept."""
        name, copy = self.task.inherits, lambda: jax.tree.map(jnp.copy, part)
        stats = self.task.inherit(state.batch_stats, part) if hasattr(self.task, "inherit") else state.batch_stats
        ema = state.ema | {name: copy()} if state.ema else state.ema
        return dataclasses.replace(state, params=state.params | {name: part}, batch_stats=stats, ema=ema)

    def compile(self):
        """The update compiled for these arguments: jax.stages.Compiled."""
        return self.update.lower(*self.arguments).compile()


def make_keys(seed: int) -> dict[str, jax.Array]:
    return {name: jax.random.fold_in(jax.random.key(seed), n) for name, n in PURPOSES.items()}


def make_step(config: Config, dataset, mesh, minibatch: int, total_steps: int, examples: int) -> Step:
    """The step of `config` on `mesh`, which must be set (jax.set_mesh).

    Args: dataset, a data.Dataset or data.Description; minibatch, images a step, of which config.data.minibatch are
    labelled; examples, images an epoch. Raises UserError for what does not fit.
    """
    task = make_task(config, dataset)
    augment = Augment(config.normalisation, **config.augment.as_kwargs())
    if augment.crop > min(dataset.image_shape[:2]):
        raise UserError(f"augment.crop={augment.crop} is larger than the images, {dataset.image_shape[:2]}")
    accumulate, unit = config.get("accumulate", 1), getattr(task, "examples_per_unit", 1)
    sharding.check_minibatch(mesh, minibatch, "data.minibatch", accumulate, unit)
    keys = jax.eval_shape(lambda: make_keys(config.seed))
    channels = dataset.image_shape[2]
    view = jax.ShapeDtypeStruct((1, augment.crop, augment.crop, channels), jnp.float32)
    schedule = optim.make_schedule(config.optim, total_steps, config.data.minibatch, examples)
    params = jax.eval_shape(task.init, keys["init"], view)["params"]
    optimiser = optim.make_optimiser(config.optim, schedule, params, task.frozen)
    ema_decay = optim.ema_decay(config.optim)

    def initialise(key):
        variables = task.init(key, jnp.zeros(view.shape, view.dtype))
        params = variables["params"]
        ema = jax.tree.map(jnp.copy, params) if ema_decay else {}
        return TrainState(jnp.int32(0), params, variables["batch_stats"], optimiser.init(params), ema)

    shapes = jax.eval_shape(initialise, keys["init"])
    placement = sharding.state_shardings(shapes, mesh)
    images = jax.ShapeDtypeStruct((minibatch, *view.shape[1:]), jnp.uint8)
    indices = dict.fromkeys(("label", "experiment", "plate", "cell_type"), jax.ShapeDtypeStruct((minibatch,), np.int32))
    flags = dict.fromkeys(("valid", "stop"), jax.ShapeDtypeStruct((minibatch,), bool))
    of_minibatch = {"image": images} | flags | indices
    of_plates = dict.fromkeys(("mean", "std"), jax.ShapeDtypeStruct((len(dataset.plates), channels), jnp.float32))

    def gradient(params, batch_stats, minibatch, statistics, keys, index, progress):
        """Gradients, and (loss, batch_stats, metrics), of the images at places `index` [B] of the minibatch."""
        keys = {name: jax.vmap(jax.random.fold_in, (None, 0))(key, index) for name, key in keys.items()}

        def loss(params):
            images = augment.train(minibatch, statistics, keys["augment"])
            return task.loss(params, batch_stats, images, minibatch, keys["task"], progress)

        (value, (batch_stats, found)), gradients = jax.value_and_grad(loss, has_aux=True)(params)
        return gradients, (value, batch_stats, found)

    def accumulated(params, batch_stats, minibatch, statistics, keys, index, progress):
        """The same in `accumulate` parts, one after the other, which needs memory for one. All parts start from the
        same batch_stats and their results are averaged: that is the whole minibatch's gradient where the loss is a mean
        over images (BatchNorm sees parts, a part with more labels than another counts the same, and stochastic depth
        draws for each part)."""
        parts = jax.tree.map(lambda x: sharding.split_parts(x, accumulate, unit), (minibatch, index))
        one = lambda part: gradient(params, batch_stats, part[0], statistics, keys, part[1], progress)  # noqa: E731
        zeros = jax.tree.map(jnp.zeros_like, jax.eval_shape(one, jax.tree.map(lambda x: x[0], parts)))
        summed, _ = jax.lax.scan(lambda total, part: (jax.tree.map(jnp.add, total, one(part)), None), zeros, parts)
        return jax.tree.map(lambda x: x / accumulate, summed)

    def update(state, minibatch, statistics, keys):
        keys = {name: jax.random.fold_in(keys[name], state.step) for name in ("augment", "task")}
        index = jnp.arange(len(minibatch["label"]))
        compute = gradient if accumulate == 1 else accumulated
        gradients, (loss, batch_stats, found) = compute(
            state.params, state.batch_stats, minibatch, statistics, keys, index, state.step / total_steps
        )
        updates, opt_state = optimiser.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        # Early on a shorter average, or the first values would stay in it (as TensorFlow's with num_updates).
        decay = jnp.minimum(ema_decay, (1 + state.step) / (10 + state.step))
        ema = optim.ema_update(state.ema, params, decay) if ema_decay else state.ema
        norm = optax.tree.norm(gradients)
        unreadable = (~minibatch["valid"]).sum()  # images that another one stands in for, on all hosts
        found |= {"loss": loss, "gradient_norm": norm, "learning_rate": schedule(state.step)}
        found |= {"unreadable": unreadable, "stop": minibatch["stop"].sum()}
        return TrainState(state.step + 1, params, batch_stats, opt_state, ema), found

    place = lambda shapes, shardings: jax.tree.map(  # noqa: E731
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings
    )
    everywhere = sharding.replicated(mesh)
    whole = lambda shapes: place(shapes, jax.tree.map(lambda _: everywhere, shapes))  # noqa: E731
    split = sharding.minibatch_sharding(mesh)
    arguments = (
        place(shapes, placement),
        place(of_minibatch, jax.tree.map(lambda _: split, of_minibatch)),
        whole(of_plates),
        whole(keys),
    )
    return Step(
        task,
        augment,
        config.seed,
        initialise=jax.jit(initialise, out_shardings=placement),
        update=jax.jit(update, donate_argnums=0, out_shardings=(placement, everywhere)),
        arguments=arguments,
        flops_per_image=flops_per_image(config, dataset, mesh, view, shapes),
    )


def flops_per_image(config: Config, dataset, mesh, view, shapes: TrainState) -> float:
    """Model FLOPs of the forward and backward pass, without rematerialisation, an image."""
    task = make_task(config.replace("model", remat="none") if "remat" in config.model else config, dataset)
    size = sharding.minibatch_devices(mesh) * getattr(task, "examples_per_unit", 1)
    images = jax.ShapeDtypeStruct((size, *view.shape[1:]), view.dtype)
    indices = dict.fromkeys(("label", "experiment", "plate", "cell_type"), jax.ShapeDtypeStruct((size,), jnp.int32))
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), size))
    gradient, progress = jax.value_and_grad(task.loss, has_aux=True), jax.ShapeDtypeStruct((), jnp.float32)
    with attention.unfused():  # a fused kernel's operations are hidden in it
        return flops.count(gradient, shapes.params, shapes.batch_stats, images, indices, keys, progress) / size


def memory_per_chip(compiled) -> int:
    """Bytes that one device needs while a compiled step runs, as the compiler says: arguments, results, temporaries,
    less what shares a place."""
    m = compiled.memory_analysis()
    return m.argument_size_in_bytes + m.output_size_in_bytes + m.temp_size_in_bytes - m.alias_size_in_bytes


def parameter_count(params) -> int:
    return sum(math.prod(x.shape) for x in jax.tree.leaves(params))
