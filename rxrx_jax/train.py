"""One run, from a config to a finished workdir. Every stage and every method goes through `run`."""

import contextlib
import functools
import json
import pathlib
import sys
import time

import jax
import jax.numpy as jnp

from rxrx_jax import checkpoint, data, metrics, optim, sharding
from rxrx_jax.augment import TRANSDUCTIVE_NORMALISATIONS, Augment, plate_statistics
from rxrx_jax.config import Config, duration, to_json
from rxrx_jax.errors import UserError
from rxrx_jax.evaluators import make_evaluators
from rxrx_jax.evaluators.predict import Context
from rxrx_jax.state import TrainState, parameters_sha256
from rxrx_jax.tasks import make_task

# One seed a run; each purpose folds its own number into it, each step then folds in the step.
PURPOSES = {"init": 0, "augment": 1, "task": 2}


def run(values: dict, workdir: pathlib.Path) -> dict:
    """Trains and evaluates what a config (nested dict) says, in `workdir`; continues there after a stop.

    Returns the last line of metrics.jsonl. Raises UserError for anything in the config or the data that the user can
    mend.
    """
    config = Config(values)
    workdir.mkdir(parents=True, exist_ok=True)
    mesh = sharding.make_mesh(config.mesh.fsdp, config.mesh.tensor)
    with jax.set_mesh(mesh), contextlib.ExitStack() as stack:
        return _run(config, values, workdir, mesh, stack)


def _run(config: Config, values: dict, workdir: pathlib.Path, mesh, stack: contextlib.ExitStack) -> dict:
    # Data: labelled minibatches, and unlabelled held-out ones beside them if asked for.
    dataset = data.open_dataset(config.data.name, config.data.builder.as_kwargs(), config.data.get("folder"))
    samplers = make_samplers(config, dataset, mesh)
    minibatch = sum(s.size for s in samplers)
    lengths = dict(minibatch=samplers[0].size, examples=samplers[0].size * samplers[0].steps_per_epoch)
    total_steps = duration(config, "total", **lengths)
    if not total_steps:
        raise UserError("the config sets no length: add total_steps, total_epochs or total_examples")
    every = functools.partial(duration, config, total_steps=total_steps, **lengths)
    log_every, save_every, evaluate_every = every("log"), every("checkpoint"), every("evaluate")
    transductive = is_transductive(config) or (bool(config.init.path) and checkpoint.is_transductive(config.init.path))

    # Task, optimiser and the shapes of the state.
    task = make_task(config, dataset)
    augment = Augment(config.normalisation, **config.augment.as_kwargs())
    statistics = plate_statistics(dataset, config.normalisation)
    if augment.crop > min(dataset.image_shape[:2]):
        raise UserError(f"augment.crop={augment.crop} is larger than the images, {dataset.image_shape[:2]}")
    keys = {name: jax.random.fold_in(jax.random.key(config.seed), n) for name, n in PURPOSES.items()}
    view = jax.ShapeDtypeStruct((1, augment.crop, augment.crop, dataset.image_shape[2]), jnp.float32)
    schedule = optim.make_schedule(config.optim, total_steps, **lengths)
    optimiser = optim.make_optimiser(
        config.optim, schedule, jax.eval_shape(task.init, keys["init"], view)["params"], task.frozen
    )

    def initialise(key):
        variables = task.init(key, jnp.zeros(view.shape, view.dtype))
        params = variables["params"]
        return TrainState(jnp.int32(0), params, variables["batch_stats"], optimiser.init(params))

    shapes = jax.eval_shape(initialise, keys["init"])
    placement = sharding.state_shardings(shapes, mesh)
    shapes = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, placement)

    # Evaluators, and everything in the config must have been read by now.
    sharding.check_minibatch(mesh, config.evaluation_minibatch, "evaluation_minibatch")
    context = Context(task, dataset, augment, statistics, mesh, config.evaluation_minibatch, workdir, config.seed)
    has_statistics = bool(jax.tree.leaves(shapes.batch_stats.get("encoder", {}))) and not task.frozen
    evaluators = make_evaluators(config.evaluators, has_statistics)
    inherited, keep, tensorboard = config.init.path, config.keep_checkpoints, config.tensorboard
    config.check_all_read()
    resolved = values | {"resolved": {"total_steps": total_steps, "transductive": transductive}}
    if done := claim(workdir, resolved):
        return done

    checkpoints = stack.enter_context(checkpoint.Checkpoints(workdir / "checkpoints", keep))
    # State: this run's newest checkpoint, else fresh parameters with the former stage's encoder.
    restored = checkpoints.restore(shapes)
    if restored:
        state, carried = restored
        print(f"continuing {workdir} from step {int(state.step)}", file=sys.stderr)
    else:
        state, carried = jax.jit(initialise, out_shardings=placement)(keys["init"]), None
        if inherited:
            part = checkpoint.load_parameters(inherited, task.inherits, shapes.params[task.inherits])
            state.params = state.params | {task.inherits: part}

    def train_step(state, minibatch, statistics, keys):
        key = lambda purpose: jax.random.fold_in(keys[purpose], state.step)  # noqa: E731
        images = augment.train(minibatch, statistics, key("augment"))
        gradient = jax.value_and_grad(task.loss, has_aux=True)
        (loss, (batch_stats, found)), grads = gradient(
            state.params, state.batch_stats, images, minibatch, key("task"), state.step / total_steps
        )
        updates, opt_state = optimiser.update(grads, state.opt_state, state.params)
        params = jax.tree.map(jnp.add, state.params, updates)
        norm = jnp.sqrt(sum(jnp.sum(g**2) for g in jax.tree.leaves(grads)))
        found = found | {"loss": loss, "gradient_norm": norm, "learning_rate": schedule(state.step)}
        return TrainState(state.step + 1, params, batch_stats, opt_state), found

    train_step = jax.jit(train_step, donate_argnums=0, out_shardings=(placement, sharding.replicated(mesh)))

    # Loop.
    step = first = int(state.step)
    writer = stack.enter_context(metrics.Writer(workdir, step, tensorboard))
    clock = metrics.Clock(minibatch, total_steps, carried)
    minibatches = data.training_minibatches(dataset, samplers, total_steps, start=step)
    late = None  # metrics are fetched one step late, so that logging never waits for the device

    def log():
        if late:
            at, found = late
            line = {k: float(v) for k, v in found.items()}  # waits until that step is done
            line |= clock.tick(at)
            writer.write(at, line)
            metrics.progress_line(at, total_steps, line)

    def evaluate(state, final):
        context.use(state)
        with clock.pause(state):
            found = {}
            for _, function, settings in evaluators:
                found |= dict(function(context, **settings))
            writer.write(int(state.step), found | ({"final": True} if final else {}))

    while step < total_steps:
        begin = time.perf_counter()
        host_minibatch = next(minibatches)
        clock.waited(time.perf_counter() - begin)
        del host_minibatch["row"]  # only evaluators look rows up
        state, found = train_step(state, sharding.to_device(host_minibatch, mesh), statistics, keys)
        step += 1
        log()
        late = None
        if step == first + 1:  # compiled; the rates start here
            jax.block_until_ready(state)
            clock.start(step)
        elif log_every and (step % log_every == 0 or step == total_steps):
            late = (step, found)
        if step < total_steps:
            if evaluate_every and step % evaluate_every == 0:
                evaluate(state, final=False)
            if save_every and step % save_every == 0:
                with clock.pause(state):
                    checkpoints.save(state, clock.carry())
    log()

    # The end: last checkpoint, evaluation, and the line that says so.
    if step > first:
        jax.block_until_ready(state)
        checkpoints.save(state, clock.carry())
    evaluate(state, final=True)
    last = {"done": True, "parameters_sha256": parameters_sha256(state.params), "transductive": transductive}
    last |= clock.carry()
    writer.write(step, last)
    return {"step": step} | last


def make_samplers(config: Config, dataset: data.Dataset, mesh) -> list:
    """The labelled sampler (train split only) and, for transductive methods, the unlabelled held-out one."""
    c = config.data
    sharding.check_minibatch(mesh, c.minibatch, "data.minibatch")
    rows = data.select(dataset, splits="train", **checked(c.select.as_kwargs()))
    samplers = [data.make_sampler(dataset, rows, c.minibatch, c.group, c.groups_per_minibatch, config.seed)]
    if c.unlabelled_minibatch:
        sharding.check_minibatch(mesh, c.unlabelled_minibatch, "data.unlabelled_minibatch")
        held_out = data.select(dataset, splits=data.HELD_OUT)
        samplers.append(data.make_sampler(dataset, held_out, c.unlabelled_minibatch, c.group, 0, config.seed + 1))
    return samplers


def checked(criteria: dict) -> dict:
    """The keys of data.select, which may not name splits: tasks train on the train split alone."""
    known = ("experiments", "cell_types", "well_types", "sites")
    if unknown := [key for key in criteria if key not in known]:
        raise UserError(f"data.select.{unknown[0]}: expected {', '.join(known)}")
    return criteria


def is_transductive(config: Config) -> bool:
    """Whether anything in the run's training or evaluation sees unlabelled images of held-out experiments."""
    return bool(
        config.normalisation in TRANSDUCTIVE_NORMALISATIONS
        or config.data.unlabelled_minibatch
        or ("adapt" in config and config.adapt.name == "adabn")
    )


def claim(workdir: pathlib.Path, resolved: dict) -> dict | None:
    """Writes the resolved config into the workdir. A workdir that holds another config's run is refused; that of the
    same config is continued, or, when it is finished, its last line is returned."""
    path, text = workdir / "config.json", to_json(resolved)
    started = (workdir / "metrics.jsonl").exists()
    if started and path.exists() and json.loads(path.read_text()) != json.loads(text):
        raise UserError(f"{workdir} holds a run with another config (config.json); use another --workdir or delete it")
    if jax.process_index() == 0 and not started:
        path.write_text(text)
    if done := metrics.finished(workdir / "metrics.jsonl"):
        print(f"{workdir} is finished; nothing to do", file=sys.stderr)
    return done
