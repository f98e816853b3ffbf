"""The train step of a config and everything it needs except data: for the trainer, and for compiling it elsewhere."""

import dataclasses
import inspect
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from rxrx_jax import adapt
from rxrx_jax.base import sharding
from rxrx_jax.base.config import Config
from rxrx_jax.base.errors import UserError
from rxrx_jax.data.batch import TRAIN, Batch, in_order, join, label_count
from rxrx_jax.data.source import minibatch_size
from rxrx_jax.models import attention
from rxrx_jax.tasks import make_task
from rxrx_jax.training import optim
from rxrx_jax.training.speed import flops
from rxrx_jax.training.state import COLLECTIONS, SELECTIONS, TrainState

# One seed per run; each purpose folds its own number into it, each step then folds in the step and each image its place
# in the minibatch.
PURPOSES = {"init": 0, "augment": 1, "task": 2}


@dataclasses.dataclass(frozen=True)
class Step:
    """initialise(key) -> TrainState; update(state, minibatch, constants, keys) -> (state, metrics), jitted, the state
    donated; arguments: their shapes and shardings, the first is the state's; flops_per_image: of a training step;
    smaller: the minibatches of other shapes than that of `arguments`."""

    task: object
    seed: int
    initialise: Callable
    update: Callable
    arguments: tuple
    flops_per_image: float
    smaller: tuple = ()

    @property
    def keys(self) -> dict[str, jax.Array]:
        """One for each purpose; not made before they are asked for, as a mesh of described devices holds no arrays."""
        return make_keys(self.seed)

    @property
    def has_batch_norm(self) -> bool:
        """Whether the task's network has BatchNorm that training moves."""
        return _has_batch_norm(self.task, self.arguments[0].collections["batch_stats"])

    def inherited(self) -> tuple:
        """The shapes of what a stage takes over from the one before: (parameters, BatchNorm statistics, {} without)."""
        state, name = self.arguments[0], self.task.inherits
        return state.params[name], state.collections["batch_stats"].get(name, {})

    def warm_start(self, state: TrainState, part, statistics) -> TrainState:
        """The fresh state with the former stage's `part` of the parameters, and of the statistics, wherever it is
        kept."""
        name, new = self.task.inherits, {"params": part} | ({"batch_stats": statistics} if statistics else {})
        own = {"params": state.params, "batch_stats": state.collections["batch_stats"]}
        collections = state.collections | {"batch_stats": _with(own, name, new)["batch_stats"]}
        if averages := collections["averages"]:
            collections |= {"averages": _with(averages, name, jax.tree.map(jnp.copy, new))}
        return dataclasses.replace(state, params=_with(own, name, new)["params"], collections=collections)

    def compile(self):
        """The update compiled for these arguments, and for every smaller minibatch: jax.stages.Compiled or ByShape."""
        largest = self.update.lower(*self.arguments).compile()
        if not self.smaller:
            return largest
        state, minibatch, *rest = self.arguments
        found = {_shape(other): self.update.lower(state, other, *rest).compile() for other in self.smaller}
        return ByShape(found | {_shape(minibatch): largest}, largest.memory_analysis)


@dataclasses.dataclass(frozen=True)
class ByShape:
    """A step compiled for minibatches of several shapes; memory_analysis is that of the largest."""

    compiled: dict
    memory_analysis: Callable

    def __call__(self, state, minibatch, *rest):
        return self.compiled[_shape(minibatch)](state, minibatch, *rest)


def _shape(minibatch) -> tuple:
    return tuple(x.shape for x in jax.tree.leaves(minibatch))


def _with(network: dict, name: str, new: dict) -> dict:
    """{"params", "batch_stats"} with what is new of the part `name`."""
    return {kind: tree | ({name: new[kind]} if kind in new else {}) for kind, tree in network.items()}


def make_keys(seed: int) -> dict[str, jax.Array]:
    return {name: jax.random.fold_in(jax.random.key(seed), n) for name, n in PURPOSES.items()}


def make_step(config: Config, source, mesh, total_steps: int) -> Step:
    """The step of `config` on `mesh`, which must be set (jax.set_mesh), for what `source` gives.

    Raises UserError for what does not fit."""
    task = make_task(config, source)
    accumulate = config.get("accumulate", 1)
    for stream, columns in source.spec.items():
        sharding.check_minibatch(mesh, _size(columns), source.lengths[stream], accumulate, source.units[stream])
    keys = jax.eval_shape(lambda: make_keys(config.seed))
    variables = jax.eval_shape(task.init, keys["init"], source.view)
    if "adapt" in config:
        has_norm = _has_batch_norm(task, variables.get("batch_stats", {}))
        has = {"has_stem": _takes(task, "after_stem"), "has_tokens": _takes(task, "tokens")}
        adapt.check(task.method, config, has_norm, tuple(source.spec), **has, steps=total_steps)
    schedule = optim.make_schedule(config.optim, total_steps, _size(source.spec[TRAIN]), source.examples)
    optimiser = optim.make_optimiser(config.optim, schedule, variables["params"], task.frozen)
    kept = _kept(config, task, variables, total_steps)

    def initialise(key):
        variables = task.init(key, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), source.view))
        params = variables["params"]
        collections = {name: variables.get(name, {}) for name in COLLECTIONS}
        if kept:
            averaged = {"params": params, "batch_stats": collections["batch_stats"]}
            collections["averages"] = jax.tree.map(jnp.copy, averaged)
        if selects_best(config):
            network = {"params": params, "batch_stats": collections["batch_stats"]}
            best = {"value": jnp.float32(-1), "step": jnp.int32(0)}
            collections["best"] = jax.tree.map(jnp.copy, network) | best
        return TrainState(jnp.int32(0), params, collections, optimiser.init(params))

    def update(state, minibatch, constants, keys):
        state, best = _without_best(state)
        minibatch, stop = _without(minibatch, "stop")
        minibatch = _numbered(minibatch)
        keys = {name: jax.random.fold_in(keys[name], state.step) for name in ("augment", "task")}
        differentiate = _differentiate(task, source, constants, keys, state.step / total_steps)
        if accumulate > 1:
            differentiate = _accumulated(differentiate, accumulate, source.units)
        params, collections, opt_state, found = task.method.update(differentiate, optimiser, state, minibatch)
        if kept:
            latest = {"params": params, "batch_stats": collections["batch_stats"]}
            averages = optim.ema_update(state.collections["averages"], latest, kept(state.step))
            collections = collections | {"averages": averages}
        # Examples that another one stands in for, because they could not be read, on all hosts.
        unreadable = sum((~columns["valid"]).sum() for columns in minibatch.values() if "valid" in columns)
        found |= {"learning_rate": schedule(state.step), "unreadable": jnp.int32(unreadable), "stop": stop.sum()}
        return TrainState(state.step + 1, params, collections | best, opt_state), found

    shapes = jax.eval_shape(initialise, keys["init"])
    placement = sharding.state_shardings(shapes, mesh)
    more = getattr(task, "proposed", {}) | {"stop": jax.ShapeDtypeStruct((_size(source.spec[TRAIN]),), bool)}
    shapes_of = getattr(source, "shapes", [(1.0, source.spec)])
    specs = [spec | {TRAIN: spec[TRAIN] | more} for _, spec in shapes_of]
    constants = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), source.constants)
    everywhere, split = sharding.replicated(mesh), sharding.minibatch_sharding(mesh)
    place = lambda shapes, sharding: jax.tree.map(  # noqa: E731
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), shapes
    )
    state = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, placement)
    rest = place(constants, everywhere), place(keys, everywhere)
    arguments, *others = ((state, place(spec, split), *rest) for spec in specs)
    initialise = jax.jit(initialise, out_shardings=placement)
    update = jax.jit(update, donate_argnums=0, out_shardings=(placement, everywhere))
    each = [share * flops_per_image(config, source, update, given) for (share, _), given in
            zip(shapes_of, (arguments, *others)) if share]  # fmt: skip
    smaller = tuple(minibatch for _, minibatch, *_ in others)
    return Step(task, config.seed, initialise, update, arguments, sum(each), smaller)


def selects_best(config: Config) -> bool:
    """Whether `config.selection` is best_val. Raises UserError for a value that there is not."""
    name = config.get("selection", SELECTIONS[0])
    if name not in SELECTIONS:
        raise UserError(f"selection={name!r}: expected {' or '.join(SELECTIONS)}")
    return name == "best_val"


def _without_best(state: TrainState) -> tuple[TrainState, dict]:
    """(the state without `best`, which no method is to see, {"best"} if it was there)."""
    collections = dict(state.collections)
    best = {"best": collections.pop("best")} if "best" in collections else {}
    return dataclasses.replace(state, collections=collections), best


def _has_batch_norm(task, batch_stats: dict) -> bool:
    return bool(jax.tree.leaves(batch_stats.get("encoder", {}))) and not task.frozen


def _takes(task, name: str) -> bool:
    """Whether the task's encoder lets a method in there: at its "tokens", or the feature map "after_stem"."""
    encoder = getattr(task, "encoder", None)
    return encoder is not None and name in inspect.signature(type(encoder).__call__).parameters


def _kept(config: Config, task, variables: dict, total_steps: int) -> Callable | None:
    """kept(step): the share of the parameters' average that a step keeps, as the method or `optim.ema_decay` says; None
    for no average. Raises UserError where the task has one of its own."""
    decay = optim.ema_decay(config.optim)
    if decay and "averages" in variables:
        raise UserError(f"optim.ema_decay={decay}: task.name={config.task.name} has an average of its own; set it to 0")
    if adapt.averages(task.method):
        return lambda step: task.method.averaged(step, total_steps)
    # Early on a shorter average, or the first values would stay in it (as TensorFlow's with num_updates).
    return (lambda step: jnp.minimum(decay, (1 + step) / (10 + step))) if decay else None


def _differentiate(task, source, constants, keys, progress) -> Callable:
    """differentiate(params, collections, minibatch, labelled=None) -> (gradients, collections, metrics) of any part of
    a minibatch; `labelled` is what sums over labelled examples are divided by, their number unless given."""

    def differentiate(params, collections, minibatch, labelled=None):
        columns, streams = join(minibatch)
        index = columns.pop("index")
        labelled = label_count(minibatch) if labelled is None else labelled
        own = {name: jax.vmap(jax.random.fold_in, (None, 0))(key, index) for name, key in keys.items()}

        def loss(params):
            views = source.views(columns, constants, own["augment"], task.method.needs.views)
            batch = Batch(views, columns, own["task"], streams, labelled)
            return task.loss(params, collections, batch, keys["task"], progress)

        (value, (new, found)), gradients = jax.value_and_grad(loss, has_aux=True)(params)
        return gradients, new, found | {"loss": value}

    return differentiate


def _accumulated(differentiate: Callable, count: int, units: dict[str, int]) -> Callable:
    """The same in `count` parts, one after the other, which needs memory for one. All parts start from the same
    collections and their results are averaged: that is the whole minibatch's gradient where the loss is a mean over
    examples, since sums over labelled ones are divided by the same number in every part (BatchNorm sees parts, and
    stochastic depth draws for each)."""

    def accumulated(params, collections, minibatch):
        labelled = label_count(minibatch) / count
        parts = {
            stream: jax.tree.map(lambda x, unit=units[stream]: sharding.split_parts(x, count, unit), columns)
            for stream, columns in minibatch.items()
        }
        one = lambda part: differentiate(params, collections, part, labelled)  # noqa: E731
        zeros = jax.tree.map(jnp.zeros_like, jax.eval_shape(one, jax.tree.map(lambda x: x[0], parts)))
        summed, _ = jax.lax.scan(lambda total, part: (jax.tree.map(jnp.add, total, one(part)), None), zeros, parts)
        return jax.tree.map(lambda x: x / count, summed)

    return accumulated


def _size(columns: dict) -> int:
    return next(iter(columns.values())).shape[0]


def _without(minibatch: dict, name: str) -> tuple[dict, jax.Array]:
    """(the minibatch without one column of its first stream, that column)."""
    columns = dict(minibatch[TRAIN])
    column = columns.pop(name)
    return minibatch | {TRAIN: columns}, column


def _numbered(minibatch: dict) -> dict:
    """The minibatch with `index`, the place of each example among all streams."""
    first, found = 0, {}
    for stream in in_order(minibatch):
        columns = minibatch[stream]
        found[stream] = columns | {"index": first + jnp.arange(_size(columns))}
        first += _size(columns)
    return found


def flops_per_image(config: Config, source, update, arguments) -> float:
    """Model FLOPs of the forward and backward passes of one step, without rematerialisation, per example of all
    streams. Args: update, jitted, with its arguments: its own trace is counted where that shows the passes as they are.
    """
    remat = "model" in config and config.model.get("remat", "none") != "none"
    if not remat and not attention.fused():
        return flops.of_jaxpr(update.trace(*arguments).jaxpr) / minibatch_size(source)
    task = make_task(config.replace("model", remat="none") if remat else config, source)
    state, minibatch, constants, keys = arguments
    minibatch, _ = _without(minibatch, "stop")

    def gradients(params, collections, minibatch, constants, keys, progress):
        state = TrainState(jnp.int32(0), params, collections, {})
        differentiate = _differentiate(task, source, constants, keys, progress)
        return task.method.update(differentiate, _Nothing(), state, _numbered(minibatch))

    keys = {name: keys[name] for name in ("augment", "task")}
    progress = jax.ShapeDtypeStruct((), np.float32)
    with attention.unfused():  # a fused kernel's operations are hidden in it
        arguments = state.params, state.collections, minibatch, constants, keys, progress
        return flops.count(gradients, *arguments) / minibatch_size(source)


class _Nothing:
    """An optimiser whose update is the gradient: of FLOPs, only those of the passes count."""

    def init(self, params):
        return {}

    def update(self, gradients, state, params):
        return gradients, state


def memory_per_chip(compiled) -> int:
    """Bytes that one device needs while a compiled step runs, as the compiler says: arguments, results, temporaries,
    less what shares a place."""
    m = compiled.memory_analysis()
    return m.argument_size_in_bytes + m.output_size_in_bytes + m.temp_size_in_bytes - m.alias_size_in_bytes


def parameter_count(params) -> int:
    return sum(math.prod(x.shape) for x in jax.tree.leaves(params))
