"""One run, from a config to a finished workdir. Every stage and every method goes through `run`."""

import contextlib
import functools
import json
import sys

import jax
from etils import epath

from rxrx_jax import data
from rxrx_jax.base import files, hosts, sharding
from rxrx_jax.base.config import Config, duration, to_json
from rxrx_jax.base.errors import UserError
from rxrx_jax.data.augment import plate_statistics
from rxrx_jax.evaluate import make_evaluators
from rxrx_jax.evaluate.predict import Context
from rxrx_jax.training import checkpoint, metrics
from rxrx_jax.training.loop import Every, Loop
from rxrx_jax.training.provenance import facts, former, marks, seen
from rxrx_jax.training.safety import guard
from rxrx_jax.training.safety.preemption import Preemption, Stopped
from rxrx_jax.training.safety.watchdog import Watchdog
from rxrx_jax.training.speed import flops
from rxrx_jax.training.state import parameters_sha256
from rxrx_jax.training.step import make_step, memory_per_chip, parameter_count


def run(values: dict, workdir: epath.PathLike) -> dict:
    """Trains and evaluates what a config (nested dict) says, in `workdir`, a folder or an object store's address that
    all hosts see; continues there after a stop.

    With `measure="synthetic"` it trains on noise, reading nothing, and with `measure="loader"` it only reads: neither
    evaluates or keeps anything. Returns the last line of metrics.jsonl. Raises UserError for anything in the config or
    the data that the user can mend, and Stopped when the process was asked to stop (SIGTERM) and its state is kept.
    """
    workdir = files.locate(workdir)
    hosts.check_equal_across_hosts({"config": to_json(values), "code": facts.code_version(), "jax": jax.__version__})
    workdir.mkdir(parents=True, exist_ok=True)
    # What only reads holds nothing that a stop could lose.
    with contextlib.nullcontext() if values.get("measure") == "loader" else Preemption() as preemption:
        return _with_one_rollback(values, workdir, preemption)


def _with_one_rollback(values: dict, workdir: epath.Path, preemption: Preemption) -> dict:
    while True:
        config = Config(values)
        mesh = sharding.make_mesh(config.mesh.fsdp, config.mesh.tensor)
        with jax.set_mesh(mesh), contextlib.ExitStack() as stack:
            try:
                with hosts.leaving(Stopped, guard.Diverged):
                    return _run(config, values, workdir, mesh, stack, preemption)
            except guard.Diverged:  # and it went back to the last checkpoint: once
                pass


def _run(config: Config, values: dict, workdir: epath.Path, mesh, stack: contextlib.ExitStack, preemption) -> dict:
    measure = config.get("measure", "")
    patience = config.watchdog_timeout_seconds * (measure != "loader")
    watchdog = stack.enter_context(Watchdog(workdir, patience, jax.process_index(), jax.process_count()))

    # Data: labelled minibatches, and unlabelled held-out ones beside them if asked for.
    if measure not in ("", "synthetic", "loader"):
        raise UserError(f"measure={measure!r}: expected synthetic, loader or nothing")
    synthetic = measure == "synthetic"
    unreadable, max_loss_ratio, may_roll_back = (
        config.data.unreadable,
        config.guard.max_loss_ratio,
        config.guard.rollback,
    )
    if synthetic:
        dataset = data.describe(config.data.name, config.data.builder.as_kwargs())
        config.data.as_kwargs(), config.data.select.as_kwargs()  # read, though nothing is chosen
        samplers, labelled, examples = [], config.data.minibatch, dataset.train_images
        minibatch = labelled + config.data.unlabelled_minibatch
    else:
        dataset = open_dataset(config)
        samplers = make_samplers(config, dataset, mesh)
        labelled, examples = samplers[0].size, samplers[0].size * samplers[0].steps_per_epoch
        minibatch = sum(s.size for s in samplers)
    lengths = dict(minibatch=labelled, examples=examples)
    total_steps = run_length(config, **lengths)
    steps = functools.partial(duration, config, total_steps=total_steps, **lengths)
    every = Every(log=steps("log"), checkpoint=steps("checkpoint"), evaluate=steps("evaluate"))
    inherited, source, allowed = (
        config.init.path,
        config.init.get("parameters", ""),
        config.init.get("contaminated", ""),
    )
    stage = f"{workdir.name} ({config.task.name})"
    scores, opened = bool(list(config.evaluators)), functools.partial(marks.open_ledger, config, dataset, stage)
    ledger = None if measure else hosts.on_all_hosts(lambda: opened(scores, allowed))

    # The step: task, augmentation, optimiser, and the shapes of the state.
    the_step = make_step(config, dataset, mesh, minibatch, total_steps, examples)
    task, augment, shapes = the_step.task, the_step.augment, the_step.arguments[0]
    statistics = data.synthetic_statistics(dataset) if synthetic else plate_statistics(dataset, config.normalisation)

    # Evaluators, and everything in the config must have been read by now.
    sharding.check_minibatch(mesh, config.evaluation_minibatch, "evaluation_minibatch")
    size = config.evaluation_minibatch
    context = Context(task, dataset, augment, statistics, mesh, size, workdir, config.seed, unreadable=unreadable,
                      ledger=ledger)  # fmt: skip
    has_statistics = bool(jax.tree.leaves(shapes.batch_stats.get("encoder", {}))) and not task.frozen
    evaluators = make_evaluators(config.evaluators, has_statistics)
    keep, tensorboard, profile = config.keep_checkpoints, config.tensorboard, config.get("profile_steps")
    config.check_all_read()
    transductive, made_by = bool(ledger) and ledger.transductive, facts.facts(dataset)
    resolved = {"total_steps": total_steps, "transductive": transductive, "layout": checkpoint.LAYOUT}
    resolved["provenance"] = made_by
    if done := hosts.on_first_host(lambda: claim(workdir, values | {"resolved": resolved}, bool(measure))):
        return done
    hosts.on_all_hosts(lambda: check_shared(workdir))
    if measure == "loader":
        minibatches = data.training_minibatches(dataset, samplers, total_steps, 0, augment.crop, config.seed)
        return metrics.measure_loader(minibatches, workdir, total_steps, minibatch, every.log)
    rolled_back = hosts.on_first_host(lambda: guard.rolled_back(workdir))
    if rolled_back is not None:  # what stands in for the minibatch that was left out comes after all others
        samplers = [guard.LeavingOut(s, step=rolled_back - 1, instead=total_steps) for s in samplers]

    # State: this run's newest checkpoint, else fresh parameters with the former stage's encoder.
    checkpoints = stack.enter_context(checkpoint.Checkpoints(workdir / "checkpoints", keep))
    restored = checkpoints.restore(shapes)
    keys = the_step.keys
    if restored:
        state, carried = restored
        hosts.say(f"continuing {workdir} from step {int(state.step)}")
    else:
        state, carried = the_step.initialise(keys["init"]), {}
        if ledger:
            hosts.on_first_host(lambda: seen.write(workdir / seen.NAME, ledger.seen))
        if inherited:
            part = former.encoder(inherited, source, config, task, shapes.params[task.inherits])
            state = the_step.inherit(state, part)
    step = int(state.step)
    writer = stack.enter_context(metrics.Writer(workdir, step, tensorboard))
    watchdog.at("compiling", step)
    train_step = the_step.compile()
    about = {
        "parameters": parameter_count(shapes.params),
        "flops_per_image": the_step.flops_per_image,
        "memory_per_chip": memory_per_chip(train_step),
    }
    metrics.first_line(about)

    # The loop, and what it looks at and writes to.
    if synthetic:
        minibatches = data.synthetic_minibatches(dataset, minibatch, augment.crop, config.seed)
    else:
        minibatches = data.training_minibatches(dataset, samplers, total_steps, step, augment.crop, config.seed)
    loop = Loop(
        state=state,
        total_steps=total_steps,
        every=every,
        train_step=train_step,
        minibatches=minibatches,
        constants=sharding.to_every_device((statistics, keys), mesh),
        mesh=mesh,
        evaluators=evaluators,
        context=context,
        checkpoints=None if synthetic else checkpoints,
        writer=writer,
        clock=metrics.Clock(minibatch, total_steps, carried, the_step.flops_per_image, flops.peak()),
        trace=stack.enter_context(metrics.Trace(workdir / "profile", profile)),
        guard=guard.Guard(max_loss_ratio, unreadable, -(-examples // labelled), carried),
        watchdog=watchdog,
        preemption=preemption,
    )
    try:
        loop.run()
    except guard.Diverged as bad:
        writer.flush()
        rows = [s.rows(bad.step - 1) for s in samplers]
        hosts.on_first_host(functools.partial(guard.stop_or_roll_back, workdir, bad, dataset, rows, may_roll_back))
        raise

    # The line that says that the run is finished, when all of it is kept.
    watchdog.at("saving", total_steps)
    checkpoints.wait()
    last = {"done": True, "parameters_sha256": parameters_sha256(loop.state.params), "transductive": transductive}
    last |= made_by | loop.clock.carry() | about | {"unreadable": loop.guard.unreadable}
    last |= {} if rolled_back is None else {"rolled_back": rolled_back}
    last |= metrics.best(workdir / metrics.NAME) if writer.active else {}
    writer.write(total_steps, last)
    return {"step": total_steps} | last


def run_length(config: Config, **lengths: int) -> int:
    """The run's steps. Args: minibatch and examples, as `duration` takes them."""
    total_steps = duration(config, "total", **lengths)
    if not total_steps:
        raise UserError("the config sets no length: add total_steps, total_epochs or total_examples")
    return total_steps


def open_dataset(config: Config) -> data.Dataset:
    """The dataset of a config, the same on all hosts. Where it is still to be made, the first host makes it."""
    find = lambda: data.open_dataset(config.data.name, config.data.builder.as_kwargs(), config.data.get("folder"))  # noqa: E731
    hosts.on_first_host(lambda: find() and None)
    dataset = hosts.on_all_hosts(find)
    hosts.check_equal_across_hosts({"data": data.fingerprint(dataset)})
    return dataset


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


def claim(workdir: epath.Path, resolved: dict, measure: bool) -> dict | None:
    """Writes the resolved config into the workdir. A workdir that holds another config's run is refused; that of the
    same config is continued, or, when it is finished, its last line is returned. What is measured is measured again.
    Where it continues with other code, data, versions or device, stderr says so and config.json keeps both."""
    path, now = workdir / "config.json", json.loads(to_json(resolved))
    stored = json.loads(path.read_text()) if path.exists() else {}
    started = (workdir / "metrics.jsonl").exists()
    again = measure and bool(stored.get("measure"))
    if started and stored and not again and facts.without(stored) != facts.without(now):
        raise UserError(f"{workdir} holds a run with another config (config.json); use another --workdir or delete it")
    if not measure and (done := metrics.finished(workdir / "metrics.jsonl")):
        print(f"{workdir} is finished; nothing to do", file=sys.stderr)
        return done
    now = facts.continued(stored, now, workdir) if started and not again else now
    if now != stored:
        files.write(path, to_json(now))
    return None


def check_shared(workdir: epath.Path) -> None:
    """Raises UserError on a host that does not see what the first one has written."""
    if not (workdir / "config.json").exists():
        raise UserError(f"{workdir} is not the first host's: give a --workdir on a disk that all hosts share, or gs://")
