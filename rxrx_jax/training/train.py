"""One run, from a config to a finished workdir. Every stage and every method goes through `run`."""

import contextlib
import functools
from collections.abc import Callable

import jax
from etils import epath

from rxrx_jax import adapt
from rxrx_jax.adapt.method import Method, Network
from rxrx_jax.base import files, hosts, seen, sharding
from rxrx_jax.base.config import Config, duration, to_json
from rxrx_jax.base.errors import UserError
from rxrx_jax.base.sharding import parameters_sha256
from rxrx_jax.data import ARRAYS, Dataset
from rxrx_jax.data.batch import TRAIN
from rxrx_jax.data.source import make_source, minibatch_size, only_measures
from rxrx_jax.evaluate import CONTEXTS, make_evaluators, make_readings, protocols
from rxrx_jax.evaluate.predict import Context
from rxrx_jax.training import checkpoint, claims, metrics
from rxrx_jax.training.loop import Every, Loop
from rxrx_jax.training.provenance import facts, former, marks
from rxrx_jax.training.safety import guard
from rxrx_jax.training.safety.preemption import Preemption, Stopped
from rxrx_jax.training.safety.watchdog import Watchdog
from rxrx_jax.training.speed import flops
from rxrx_jax.training.state import CHOSEN_BY, TrainState
from rxrx_jax.training.step import Step, has_batch_norm, make_step, memory_per_chip, parameter_count, selects_best


def run(values: dict, workdir: epath.PathLike, dataset: Dataset | None = None) -> dict:
    """Trains and evaluates what a config (nested dict) says, in `workdir`, a folder or an object store's address that
    all hosts see; resumes there after a stop.

    `dataset`, of `rxrx_jax.datasets.from_arrays`, is trained on in place of the one that the config names; config.json
    then says data.name=arrays.

    With `measure="synthetic"` it trains on noise, reading nothing, and with `measure="loader"` it only reads: neither
    evaluates or keeps anything. Returns the last line of metrics.jsonl. Raises UserError for anything in the config or
    the data that the user can fix, and Stopped when the process was asked to stop (a signal) and its state is kept.
    """
    workdir = files.locate(workdir)
    if dataset is not None:
        values = values | {"data": values["data"] | {"name": ARRAYS, "builder": {}, "folder": None}}
    same = {"config": to_json(values), "code": facts.code_version(), "jax": jax.__version__}
    hosts.check_equal_across_hosts(same)
    with contextlib.ExitStack() as stack:
        hosts.on_first_host(lambda: stack.enter_context(claims.alone(workdir)))
        # What only reads holds nothing that a stop could lose.
        preemption = None if values.get("measure") == "loader" else stack.enter_context(Preemption())
        return _with_one_rollback(values, workdir, preemption, dataset)


def _with_one_rollback(values: dict, workdir: epath.Path, preemption: Preemption, dataset: Dataset | None) -> dict:
    while True:
        config = Config(values)
        mesh = sharding.make_mesh(config.mesh.fsdp, config.mesh.tensor)
        with jax.set_mesh(mesh), contextlib.ExitStack() as stack:
            try:
                with hosts.leaving(Stopped, guard.Diverged):
                    return _run(config, values, workdir, mesh, stack, preemption, dataset)
            except guard.Diverged:  # and it went back to the last checkpoint: once
                pass


def _run(config: Config, values: dict, workdir: epath.Path, mesh, stack, preemption, dataset: Dataset | None) -> dict:
    measure = config.get("measure", "")
    patience = config.watchdog_timeout_seconds * (measure != "loader")
    watchdog = stack.enter_context(Watchdog(workdir, patience, jax.process_index(), jax.process_count()))

    # What is drawn, for how long, and the step with the shapes of the state.
    source = make_source(config, lambda found: protocols.roles(found, config.protocol.name), dataset)
    hosts.check_equal_across_hosts({"data": source.fingerprint})
    minibatch = minibatch_size(source)
    lengths = lengths_of(source)
    total_steps = run_length(config, **lengths)
    steps = functools.partial(duration, config, total_steps=total_steps, **lengths)
    every = Every(log=steps("log"), checkpoint=steps("checkpoint"), evaluate=steps("evaluate"))
    the_step = make_step(config, source, mesh, total_steps)
    evaluators, context = make_evaluation(config, source, the_step, mesh, workdir)
    finish = make_finish(config, source, the_step, context)
    chosen_by = getattr(the_step.task, "chosen_by", ("accuracy", CHOSEN_BY))
    selects = check_selection(config, source, every.evaluate, evaluators, finish, chosen_by)

    # Everything in the config must have been read by now; the workdir is claimed, or its finished run returned.
    settings, made_by = settings_of(config), facts.facts(source)
    ledger = context.ledger if context else None
    config.check_all_read()
    resolved = {"total_steps": total_steps, "transductive": bool(ledger) and ledger.transductive}
    resolved |= {"layout": checkpoint.LAYOUT, facts.NOW: made_by}
    if vocabulary := getattr(the_step.task, "vocabulary", ""):
        resolved[former.VOCABULARY] = vocabulary
    if done := hosts.on_first_host(lambda: claims.claim(workdir, values | {"resolved": resolved}, bool(measure))):
        claims.confirm(workdir, done)
        return done
    claims.check_shared(workdir)
    if measure == "loader":
        return metrics.measure_loader(source.minibatches(0, total_steps), workdir, total_steps, minibatch, every.log)
    rolled_back = hosts.on_first_host(lambda: guard.rolled_back(workdir))
    if rolled_back is not None:  # what stands in for the minibatch that was left out comes after all others
        source = source.without(step=rolled_back - 1, instead=total_steps)

    # State: this run's newest checkpoint, else fresh parameters with the former stage's encoder.
    checkpoints = stack.enter_context(checkpoint.Checkpoints(workdir / "checkpoints", settings["keep"]))
    state, carried = starting_state(config, the_step, checkpoints, workdir, ledger)
    writer = stack.enter_context(metrics.Writer(workdir, int(state.step), settings["mirror"]))
    watchdog.at("compiling", int(state.step))
    train_step = the_step.compile()
    metrics.first_line(about := sizes(the_step, train_step))

    loop = Loop(
        state=state,
        total_steps=total_steps,
        every=every,
        train_step=train_step,
        minibatches=source.minibatches(int(state.step), total_steps),
        propose=the_step.task.propose if getattr(the_step.task, "proposed", {}) else None,
        constants=sharding.to_every_device((source.constants, the_step.keys), mesh),
        mesh=mesh,
        evaluators=evaluators,
        context=context,
        selects=selects,
        chosen_by=chosen_by[1],
        finish=finish,
        checkpoints=None if only_measures(source) else checkpoints,
        writer=writer,
        clock=metrics.Clock(minibatch, total_steps, carried, the_step.flops_per_image, flops.peak()),
        trace=stack.enter_context(metrics.Trace(workdir / "profile", settings["profile"])),
        guard=guard.Guard(*settings["guard"], -(-lengths["examples"] // lengths["minibatch"]), carried),
        watchdog=watchdog,
        preemption=preemption,
    )
    try:
        loop.run()
    except guard.Diverged as bad:
        writer.flush()
        found, may = source.rows(bad.step - 1), settings["rollback"]
        hosts.on_first_host(functools.partial(guard.stop_or_roll_back, workdir, bad, found, may))
        raise

    # The line that says that the run is finished, when all of it is kept.
    watchdog.at("saving", total_steps)
    checkpoints.wait()
    last = {"done": True, "parameters_sha256": parameters_sha256(loop.state.params)}
    last |= {"transductive": resolved["transductive"]} | made_by | loop.clock.carry() | about
    last |= {"unreadable": loop.guard.unreadable} | ({} if rolled_back is None else {"rolled_back": rolled_back})
    last |= {"selected_step": int(loop.state.collections["best"]["step"])} if selects else {}
    last |= {"partial": partial} if ledger and (partial := source.dataset.roles.scoring.partial) else {}
    last |= metrics.best(workdir / metrics.NAME) if writer.active else {}
    writer.write(total_steps, last)
    return {"step": total_steps} | last


def sizes(step: Step, compiled) -> dict[str, float]:
    """What the first and the last line say of a step: its parameters, FLOPs and bytes."""
    return {
        "parameters": parameter_count(step.arguments[0].params),
        "flops_per_image": step.flops_per_image,
        "memory_per_chip": memory_per_chip(compiled),
    }


def lengths_of(source) -> dict[str, int]:
    """{"minibatch", "examples"} of a source's labelled stream, as `duration` takes them."""
    return {"minibatch": next(iter(source.spec[TRAIN].values())).shape[0], "examples": source.examples}


def settings_of(config: Config) -> dict:
    """The keys that are used only while the run is under way."""
    return {
        "keep": config.keep_checkpoints,
        "mirror": config.get("mirror", ""),
        "profile": config.get("profile_steps"),
        "guard": (config.guard.max_loss_ratio, config.data.get("unreadable", 0)),
        "rollback": config.guard.rollback,
        "init": (config.init.path, config.init.get("parameters", ""), config.init.get("contaminated", "")),
    }


def make_evaluation(config: Config, source, step: Step, mesh, workdir: epath.Path) -> tuple[list, object | None]:
    """The evaluators of a config and the context that they work with, which the source names; none where it has neither
    a context nor a dataset to evaluate."""
    evaluators, size = make_evaluators(config.evaluators, source), config.evaluation_minibatch
    sharding.check_minibatch(mesh, size, "evaluation_minibatch")
    has_dataset, own_context = hasattr(source, "dataset"), CONTEXTS.get(getattr(source, "evaluated_as", ""))
    if not has_dataset and not own_context:
        if evaluators and not only_measures(source):
            raise UserError(f"evaluators.{evaluators[0][0]}: this source has no dataset to evaluate; remove it")
        if "post_hoc" in config:
            [getattr(config.post_hoc, name).as_kwargs() for name in config.post_hoc]
        return [], None
    ledger = None
    if has_dataset and not config.get("measure", ""):
        stage = f"{workdir.name} ({config.task.name})"
        given = config, source, step.task.method, stage, bool(evaluators), config.init.get("contaminated", "")
        ledger = hosts.on_all_hosts(lambda: marks.open_ledger(*given))
    if own_context:
        dataset = getattr(source, "dataset", None)
        return evaluators, own_context(step.task, dataset, mesh, size, workdir, config.seed, ledger)
    readings = make_readings(config, step.task.method, source.shares, has_batch_norm(step.task, step.arguments[0]))
    for name, method in readings.items():
        key = f"post_hoc.{name}" if name else "adapt.name"
        adapt.check_controls(key, method, source.dataset, classifies=hasattr(step.task, "logits"))
    context = Context(
        task=step.task,
        readings=readings,
        dataset=source.dataset,
        augment=source.augment,
        statistics=source.constants,
        mesh=mesh,
        minibatch=size,
        workdir=workdir,
        seed=config.seed,
        unreadable=config.data.unreadable,
        ledger=ledger,
    )
    return evaluators, context


def make_finish(config: Config, source, step: Step, context: Context | None) -> Callable | None:
    """`Method.finished` as a function of the state; None where the method has nothing to do then. Raises UserError
    where the source has no dataset whose images it could read."""
    method = step.task.method
    if type(method).finished is Method.finished or only_measures(source):
        return None
    if context is None:
        raise UserError(f"adapt.name={config.adapt.name} reads training images at the end, and this source has none")

    def finish(state: TrainState) -> TrainState:
        network = method.finished(context, Network(*state.network()), source.samplers[TRAIN].drawn_from)
        return state.with_network(*network)

    return finish


def check_selection(
    config: Config, source, every: int | None, evaluators: list, finish: Callable | None, chosen_by: tuple[str, str]
) -> bool:
    """Whether the network of the best evaluation is kept (selection=best_val). Raises UserError where that cannot be.

    Args: every, steps between evaluations; evaluators and finish, as made of the config; chosen_by, the evaluator and
    the metric."""
    if not selects_best(config) or only_measures(source):
        return False
    said = "selection=best_val"
    if not every:
        raise UserError(f"{said} chooses among evaluations during training: set evaluate_epochs=1")
    if chosen_by[0] not in [name for name, _, _ in evaluators]:
        raise UserError(f"{said} chooses by {chosen_by[1]}: add evaluators.{chosen_by[0]}")
    scored = source.dataset.roles.scored.get("validation", ())
    if not len(scored) or not (source.dataset.sites.label[scored] >= 0).any():
        raise UserError(f"{said} chooses on validation experiments, and protocol.name={config.protocol.name} scores "
                        "none that have labels: use selection=last")  # fmt: skip
    if finish:
        raise UserError(f"{said}: adapt.name={config.adapt.name} makes the network that it publishes after the last "
                        "step, which no evaluation before has seen: use selection=last")  # fmt: skip
    return True


def starting_state(config: Config, step: Step, checkpoints, workdir, ledger) -> tuple[TrainState, dict]:
    """This run's newest checkpoint, else fresh parameters, those of the former stage among them, of which the workdir
    then says what they have seen; and what the clock and the guard carry over."""
    shapes = step.arguments[0]
    if restored := checkpoints.restore(shapes):
        hosts.say(f"resuming {workdir} from step {int(restored[0].step)}")
        return restored
    if not config.measure:
        hosts.on_first_host(lambda: claims.warn_of_a_fresh_start(workdir))
    state = step.initialise(step.keys["init"])
    if ledger:
        hosts.on_first_host(lambda: seen.write(workdir / seen.NAME, ledger.seen))
    path, parameters, _ = settings_of(config)["init"]
    if path:
        if not step.task.inherits:
            raise UserError(
                f"init.path={path}: task.name={config.task.name} does not start from another stage; remove it"
            )
        state = step.warm_start(state, *former.encoder(path, parameters, config, step.task, *step.inherited()))
    return state, {}


def run_length(config: Config, **lengths: int) -> int:
    """The run's steps. Args: minibatch and examples, as `duration` takes them."""
    total_steps = duration(config, "total", **lengths)
    if not total_steps:
        raise UserError("the config sets no length: add total_steps, total_epochs or total_examples")
    return total_steps
