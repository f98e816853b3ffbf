"""One run, from a config to a finished workdir. Every stage and every method goes through `run`."""

import contextlib
import functools
import json
import pathlib
import sys
import time

import jax

from rxrx_jax import checkpoint, data, metrics, sharding, weights
from rxrx_jax.augment import TRANSDUCTIVE_NORMALISATIONS, plate_statistics
from rxrx_jax.config import Config, duration, to_json
from rxrx_jax.errors import UserError
from rxrx_jax.evaluators import make_evaluators
from rxrx_jax.evaluators.predict import Context
from rxrx_jax.speed import flops
from rxrx_jax.state import parameters_sha256
from rxrx_jax.step import make_step, memory_per_chip, parameter_count


def run(values: dict, workdir: pathlib.Path) -> dict:
    """Trains and evaluates what a config (nested dict) says, in `workdir`; continues there after a stop.

    With `measure="synthetic"` it trains on noise, reading nothing, and with `measure="loader"` it only reads: neither
    evaluates or keeps anything. Returns the last line of metrics.jsonl. Raises UserError for anything in the config or
    the data that the user can mend.
    """
    config = Config(values)
    workdir.mkdir(parents=True, exist_ok=True)
    mesh = sharding.make_mesh(config.mesh.fsdp, config.mesh.tensor)
    with jax.set_mesh(mesh), contextlib.ExitStack() as stack:
        return _run(config, values, workdir, mesh, stack)


def _run(config: Config, values: dict, workdir: pathlib.Path, mesh, stack: contextlib.ExitStack) -> dict:
    # Data: labelled minibatches, and unlabelled held-out ones beside them if asked for.
    measure = config.get("measure", "")
    if measure not in ("", "synthetic", "loader"):
        raise UserError(f"measure={measure!r}: expected synthetic, loader or nothing")
    synthetic = measure == "synthetic"
    if synthetic:
        dataset = data.describe(config.data.name, config.data.builder.as_kwargs())
        config.data.as_kwargs(), config.data.select.as_kwargs()  # read, though nothing is chosen
        labelled, examples = config.data.minibatch, dataset.train_images
        minibatch = labelled + config.data.unlabelled_minibatch
    else:
        dataset = data.open_dataset(config.data.name, config.data.builder.as_kwargs(), config.data.get("folder"))
        samplers = make_samplers(config, dataset, mesh)
        labelled, examples = samplers[0].size, samplers[0].size * samplers[0].steps_per_epoch
        minibatch = sum(s.size for s in samplers)
    lengths = dict(minibatch=labelled, examples=examples)
    total_steps = run_length(config, **lengths)
    every = functools.partial(duration, config, total_steps=total_steps, **lengths)
    log_every, save_every, evaluate_every = every("log"), every("checkpoint"), every("evaluate")
    inherited, source = config.init.path, config.init.get("parameters", "")
    transductive = is_transductive(config) or (bool(inherited) and inherits_transductive(inherited))

    # The step: task, augmentation, optimiser, and the shapes of the state.
    the_step = make_step(config, dataset, mesh, minibatch, total_steps, examples)
    task, augment, shapes = the_step.task, the_step.augment, the_step.arguments[0]
    statistics = data.synthetic_statistics(dataset) if synthetic else plate_statistics(dataset, config.normalisation)

    # Evaluators, and everything in the config must have been read by now.
    sharding.check_minibatch(mesh, config.evaluation_minibatch, "evaluation_minibatch")
    context = Context(task, dataset, augment, statistics, mesh, config.evaluation_minibatch, workdir, config.seed)
    has_statistics = bool(jax.tree.leaves(shapes.batch_stats.get("encoder", {}))) and not task.frozen
    evaluators = make_evaluators(config.evaluators, has_statistics)
    keep, tensorboard, profile = config.keep_checkpoints, config.tensorboard, config.get("profile_steps")
    config.check_all_read()
    resolved = {"total_steps": total_steps, "transductive": transductive, "layout": checkpoint.LAYOUT}
    if inherited and (foreign := foreign_weights(inherited)):
        resolved["foreign_weights"] = foreign
    if done := claim(workdir, values | {"resolved": resolved}, bool(measure)):
        return done
    if measure == "loader":
        minibatches = data.training_minibatches(dataset, samplers, total_steps, 0, augment.crop, config.seed)
        return metrics.measure_loader(minibatches, workdir, total_steps, minibatch, log_every)

    # State: this run's newest checkpoint, else fresh parameters with the former stage's encoder.
    checkpoints = stack.enter_context(checkpoint.Checkpoints(workdir / "checkpoints", keep))
    restored = checkpoints.restore(shapes)
    if restored:
        state, carried = restored
        print(f"continuing {workdir} from step {int(state.step)}", file=sys.stderr)
    else:
        state, carried = the_step.initialise(the_step.keys["init"]), None
        if inherited:
            part = former_encoder(inherited, source, config, task, shapes.params[task.inherits])
            state = the_step.inherit(state, part)
    writer = stack.enter_context(metrics.Writer(workdir, int(state.step), tensorboard))
    train_step = the_step.compile()
    about = {
        "parameters": parameter_count(shapes.params),
        "flops_per_image": the_step.flops_per_image,
        "memory_per_chip": memory_per_chip(train_step),
    }
    metrics.first_line(about)

    # Loop.
    step = first = int(state.step)
    clock = metrics.Clock(minibatch, total_steps, carried, the_step.flops_per_image, flops.peak())
    if synthetic:
        minibatches = data.synthetic_minibatches(dataset, minibatch, augment.crop, config.seed)
    else:
        minibatches = data.training_minibatches(dataset, samplers, total_steps, step, augment.crop, config.seed)
    constants = sharding.to_every_device((statistics, the_step.keys), mesh)
    late = None  # metrics are fetched one step late, so that logging never waits for the device
    trace = stack.enter_context(metrics.Trace(workdir / "profile", profile))

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
        trace.before(step, state)
        begin = time.perf_counter()
        host_minibatch = next(minibatches)
        clock.waited(time.perf_counter() - begin)
        del host_minibatch["row"]  # only evaluators look rows up
        state, found = train_step(state, sharding.to_device(host_minibatch, mesh), *constants)
        step += 1
        log()
        late = None
        if step == first + 1:  # the rates start here
            jax.block_until_ready(state)
            clock.start(step)
        elif log_every and (step % log_every == 0 or step == total_steps):
            late = (step, found)
        if step < total_steps and not synthetic:
            if evaluate_every and step % evaluate_every == 0:
                evaluate(state, final=False)
            if save_every and step % save_every == 0:
                with clock.pause(state):
                    checkpoints.save(state, clock.carry())
    log()

    # The end: last checkpoint, evaluation, and the line that says so.
    jax.block_until_ready(state)
    if not synthetic:
        if step > first:
            checkpoints.save(state, clock.carry())
        evaluate(state, final=True)
    last = {"done": True, "parameters_sha256": parameters_sha256(state.params), "transductive": transductive}
    last |= clock.carry() | about
    writer.write(step, last)
    return {"step": step} | last


def run_length(config: Config, **lengths: int) -> int:
    """The run's steps. Args: minibatch and examples, as `duration` takes them."""
    total_steps = duration(config, "total", **lengths)
    if not total_steps:
        raise UserError("the config sets no length: add total_steps, total_epochs or total_examples")
    return total_steps


def former_encoder(path: str, source: str, config: Config, task, shapes):
    """The encoder to start from: of a run's checkpoint, there the part `source` of the state ("params", "ema",
    "batch_stats/teacher"; "" is the part that run was evaluated with), or of a file or folder of weights."""
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


def make_samplers(config: Config, dataset: data.Dataset, mesh) -> list:
    """The labelled sampler (train split only) and, for transductive methods, the unlabelled held-out one."""
    c = config.data
    sharding.check_minibatch(mesh, c.minibatch, "data.minibatch")
    rows = data.select(dataset, splits="train", **checked(c.select.as_kwargs()))
    drawn = c.minibatch, c.group, c.groups_per_minibatch, config.seed, c.get("pairs", "")
    samplers = [data.make_sampler(dataset, rows, *drawn)]
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


def claim(workdir: pathlib.Path, resolved: dict, measure: bool) -> dict | None:
    """Writes the resolved config into the workdir. A workdir that holds another config's run is refused; that of the
    same config is continued, or, when it is finished, its last line is returned. What is measured is measured anew."""
    path, text = workdir / "config.json", to_json(resolved)
    stored = json.loads(path.read_text()) if path.exists() else {}
    started = (workdir / "metrics.jsonl").exists()
    again = measure and bool(stored.get("measure"))
    if started and stored and stored != json.loads(text) and not again:
        raise UserError(f"{workdir} holds a run with another config (config.json); use another --workdir or delete it")
    if jax.process_index() == 0 and (again or not started):
        path.write_text(text)
    if measure:
        return None
    if done := metrics.finished(workdir / "metrics.jsonl"):
        print(f"{workdir} is finished; nothing to do", file=sys.stderr)
    return done
