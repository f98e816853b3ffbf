"""The training loop: steps, and between them a look at their metrics, checkpoints and evaluations."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator

import jax

from rxrx_jax.base import hosts, sharding
from rxrx_jax.base.errors import UserError
from rxrx_jax.data.batch import TRAIN
from rxrx_jax.evaluate.predict import Evaluated
from rxrx_jax.training import metrics
from rxrx_jax.training.checkpoint import Checkpoints
from rxrx_jax.training.provenance import marks
from rxrx_jax.training.safety.guard import Diverged, Guard
from rxrx_jax.training.safety.preemption import Preemption, Stopped
from rxrx_jax.training.safety.watchdog import DEVICES, EVALUATING, Watchdog
from rxrx_jax.training.state import TrainState

CHOOSES = {"in_batch", "validation"}  # roles whose metrics are shown while a run is under way


@dataclasses.dataclass(frozen=True)
class Every:
    """Steps between lines of metrics, checkpoints and evaluations; None: only at the end."""

    log: int | None
    checkpoint: int | None
    evaluate: int | None


@dataclasses.dataclass(kw_only=True)
class Loop:
    """Takes `state` to `total_steps`; all hosts run it. `checkpoints` None keeps and evaluates nothing."""

    state: TrainState  # the train step donates it: there is this one alone
    total_steps: int
    every: Every

    train_step: Callable  # (state, minibatch, *constants) -> (state, metrics)
    minibatches: Iterator[dict]  # of this host, from the state's step on
    propose: Callable | None  # (state, minibatch) -> the minibatch with what a task samples on the host
    constants: tuple
    mesh: jax.sharding.Mesh

    evaluators: list  # of (name, function, settings)
    context: Evaluated | None  # None without evaluators
    selects: bool  # whether the network of the best evaluation takes the place of the last one at the end
    chosen_by: str  # the metric that is best then
    finish: Callable | None  # state -> state after the last step, before it is kept
    checkpoints: Checkpoints | None
    writer: metrics.Writer
    clock: metrics.Clock
    trace: metrics.Trace
    guard: Guard
    watchdog: Watchdog
    preemption: Preemption

    def __post_init__(self):
        self.step = self._first = self._saved = int(self.state.step)
        self._late = None  # (step, metrics) not checked yet: one step late, so that the devices never wait
        self._stopping = False

    def run(self) -> None:
        """Trains, saves and evaluates. Raises Stopped when a host was asked to stop and the state is kept, and what
        `Guard.check` raises."""
        with self._ending_saves():
            try:
                self._train()
            except Stopped:
                self._save()
                if self.checkpoints:
                    self.checkpoints.wait()
                hosts.say(f"stopped at step {self.step} of {self.total_steps}; the same command resumes from there")
                raise

    def _train(self) -> None:
        if self._due(self.every.evaluate):  # restored at a step that is to be evaluated
            if found := hosts.on_first_host(lambda: self.writer.evaluation(self.step)):
                self._consider(found)
            else:  # stopped before it
                self._evaluate(final=False)
        while self.step < self.total_steps:
            self.trace.before(self.step, self.state)
            self._one_step(self._read())
            if self._stopping:
                raise Stopped()
            if self.step == self._first + 1:  # the rates start here
                jax.block_until_ready(self.state)
                self.clock.start(self.step)
                self.watchdog.moving()
            if self._due(self.every.checkpoint):
                self._save()
            if self._due(self.every.evaluate):
                self._evaluate(final=False)
        self._save()
        self._evaluate(final=True)

    def _read(self) -> dict:
        self.watchdog.at("reading data", self.step)
        begin = time.perf_counter()
        minibatch = next(self.minibatches)
        if self.propose:
            minibatch = self.propose(self.state, minibatch)
        self.clock.waited(time.perf_counter() - begin)
        train = minibatch[TRAIN]
        size = len(next(iter(train.values())))
        return minibatch | {TRAIN: train | {"stop": self.preemption.flag(size)}}

    def _one_step(self, minibatch: dict) -> None:
        self.watchdog.at(DEVICES, self.step)
        on_devices = sharding.to_device(minibatch, self.mesh)
        self.state, found = self.train_step(self.state, on_devices, *self.constants)
        self.step += 1
        before, self._late = self._late, (self.step, found)
        if before:
            self._look(*before)

    def _look(self, step: int, found: dict) -> None:
        """Checks the metrics of a step, and writes them where it is time. Waits until that step is done."""
        line = {name: float(value) for name, value in jax.device_get(found).items()}
        self._stopping |= bool(line.pop("stop"))
        self.guard.check(step, line)
        if self.every.log and (step % self.every.log == 0 or step == self.total_steps):
            line["unreadable"] = self.guard.unreadable
            if step > self._first + 1:
                line |= self.clock.tick(step)
                metrics.progress_line(step, self.total_steps, line)
                if "device_hours" in line:
                    metrics.estimate_line(self.total_steps, self.clock.minibatch, self.clock.flops_per_image, line)
            if "images_per_second" in line or self._first:  # after a restart the first step's line has no rates
                self.writer.write(step, line)

    def _catch_up(self) -> None:
        newest, self._late = self._late, None
        if newest:
            self._look(*newest)

    def _save(self) -> None:
        self._catch_up()
        if self._saved == self.step or not self.checkpoints:
            return
        if self.selects and self.step == self.total_steps:
            self._evaluate(final=False, between=self._alive)
            self.state = self.state.with_best()
        self.watchdog.at("saving", self.step)
        self.writer.flush()
        with self.clock.pause(self.state):
            if self.finish and self.step == self.total_steps:
                self.context.between = self._alive
                self.state = self.finish(self.state)
            self.checkpoints.save(self.state, self.clock.carry() | self.guard.carry())
        self._saved = self.step

    def _consider(self, found: dict) -> None:
        """Takes the network that was evaluated as the best one, if it is."""
        if self.selects and found.get(self.chosen_by) is not None:
            self.state = self.state.with_candidate(found[self.chosen_by])

    def _evaluate(self, final: bool, between: Callable | None = None) -> None:
        """Args: between, called between the minibatches in place of `_between`, where it may not be interrupted."""
        if not self.checkpoints:
            return
        between = between or self._between
        self._catch_up()
        found = {}
        with self.clock.pause(self.state):
            if self.evaluators:
                self.context.use(self.state, between)
            for _, function, settings in self.evaluators:
                for name, value in function(self.context, **settings):
                    found[name] = value
                    between()
            if self.evaluators:
                found = marks.complete(found, self.context)
                found |= {"unreadable": len(self.context.left_out)} if self.context.left_out else {}
            curves = {}
            if self.selects and final:
                found["selected_step"] = int(self.state.collections["best"]["step"])
                if found["selected_step"] != self.step and self.writer.active:
                    found |= self.writer.last(self.step)
            elif not final and self.context:
                curves = {name: value for name, value in found.items() if self._is_held_out(name)}
            self.writer.write(self.step, {k: v for k, v in found.items() if k not in curves} | {"final": final})
            self.writer.curve(self.step, curves)
            if not final:
                self._consider(found)

    def _is_held_out(self, name: str) -> bool:
        """Whether a metric is of rows that are scored in the end, by which nobody should choose."""
        return bool((self.context.roles.scored.keys() - CHOOSES).intersection(name.split("/")))

    def _alive(self) -> None:
        self.watchdog.at(EVALUATING, self.step)

    def _between(self) -> None:
        """Called between the minibatches of an evaluation."""
        self._alive()
        self.preemption.check()

    @contextlib.contextmanager
    def _ending_saves(self):
        """A save that is under way ends before an error that ends this process at once, where there are several."""
        try:
            yield
        except (Diverged, UserError):
            with contextlib.suppress(Exception):  # what is already being raised is the error to see
                if self.checkpoints:
                    self.checkpoints.wait()
            raise

    def _due(self, every: int | None) -> bool:
        """Whether something is to happen at this step; what the end brings anyway does not happen before."""
        return bool(every) and 0 < self.step < self.total_steps and self.step % every == 0
