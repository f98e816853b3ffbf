"""metrics.jsonl, the progress line and the clock."""

import contextlib
import json
import math
import pathlib
import sys
import tempfile
import time

import jax
import numpy as np
from etils import epath

from rxrx_jax.base import files, hosts
from rxrx_jax.base.errors import UserError
from rxrx_jax.training.metrics import mirrors

NAME = "metrics.jsonl"
CURVES = "held_out_curves.jsonl"  # what is scored in the end, as it was during training: nothing chooses by it
LAST = "last/"  # before metrics of the last step's network, where another one is published
SECONDS = 30.0  # between two times that the file is written to an object store
MEASURED = 200  # steps after which a run says how long the whole of it takes
AHEAD = 5  # minibatches that a loader may have ready before it is asked


class Writer:
    """Appends one flat JSON object per event to workdir/metrics.jsonl, on the first host only.

    Opened at `step`, it drops the lines of later steps that a killed run had written after its last checkpoint.
    With `mirror` the numbers also go elsewhere (`mirrors.make`). An object store cannot append: there the file is
    rewritten every SECONDS, when an evaluation or the run ends, and by `flush`.
    """

    def __init__(self, workdir: epath.PathLike, step: int, mirror: str = ""):
        self.active = jax.process_index() == 0
        self._mirror, self._file, self._path = None, None, epath.Path(workdir) / NAME
        if not self.active:
            return
        self._mirror = mirrors.make(mirror, workdir)
        # The last evaluation is repeated when a run was stopped between it and its end.
        stays = lambda line: line["step"] <= step and not line.get("final")  # noqa: E731
        kept = [line for line in read(self._path) if stays(line)] if step and self._path.exists() else []
        self._text = "".join(json.dumps(line) + "\n" for line in kept)
        files.write(self._path, self._text)
        self._flushed = time.monotonic()
        if not files.is_remote(workdir):
            self._file = open(self._path, "a", buffering=1)

    def write(self, step: int, values: dict) -> None:
        """Values are numbers, strings or booleans; a number that is not finite is written as null. Raises UserError
        when the disk is full."""
        if not self.active:
            return
        clean = _clean(values)
        line = json.dumps({"step": step} | clean) + "\n"
        if self._file:
            with files.room(self._path):
                self._file.write(line)
        else:
            self._text += line
            if "final" in clean or "done" in clean or time.monotonic() - self._flushed > SECONDS:
                self.flush()
        numbers = {k: v for k, v in clean.items() if isinstance(v, (int, float)) and not isinstance(v, bool)}
        if self._mirror and numbers:
            self._mirror.write(step, numbers)

    def flush(self) -> None:
        """Makes what was written survive this process; call it before a checkpoint is saved."""
        if self.active and not self._file:
            files.write(self._path, self._text)
            self._flushed = time.monotonic()

    def evaluation(self, step: int) -> dict | None:
        """The line of the evaluation at `step`, None if there is none; call it on the first host."""
        return next((line for line in read(self._path) if "final" in line and line["step"] == step), None)

    def curve(self, step: int, values: dict) -> None:
        """Writes a line of CURVES, after those of the steps before."""
        if self.active and values:
            path = self._path.with_name(CURVES)
            before = [line for line in read(path) if line["step"] < step] if path.exists() else []
            text = "".join(json.dumps(line) + "\n" for line in [*before, {"step": step} | _clean(values)])
            files.write(path, text)

    def last(self, step: int) -> dict[str, float]:
        """The accuracies of the evaluation of the network at `step`, each behind LAST; call it on the first host."""
        path = self._path.with_name(CURVES)
        curves = [line for line in read(path) if line["step"] == step] if path.exists() else []
        found = (self.evaluation(step) or {}) | (curves[-1] if curves else {})
        return {LAST + name: value for name, value in found.items() if name.endswith("_accuracy")}

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        # What is already being raised is the error to see.
        with contextlib.suppress(Exception) if kind else contextlib.nullcontext(), files.room(self._path):
            self.flush()
            if self._file:
                self._file.close()
        if self._mirror:
            self._mirror.close()


def _clean(values: dict) -> dict:
    """The values as JSON has them: numbers that are not finite are None."""
    plain = {k: v.item() if isinstance(v, np.generic) else v for k, v in values.items()}
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in plain.items()}


def amend(path: epath.PathLike, values: dict) -> None:
    """Adds values, in place of those of the same name, to the line of the last evaluation of a finished run. Raises
    UserError where there is none."""
    records = read(epath.Path(path))
    last = next((line for line in reversed(records) if line.get("final")), None)
    if last is None:
        raise UserError(f"{path} has no line of the last evaluation to add to: the run has no evaluators")
    last |= _clean(values)
    files.write(path, "".join(json.dumps(line) + "\n" for line in records))


def read(path: epath.Path) -> list[dict]:
    """The lines of a metrics.jsonl, objects with at least a step; a last line that a killed process left half-written
    is ignored. Raises UserError naming any other line."""
    try:
        with files.opened(path, "put back a copy of it") as file:
            lines = file.read().decode().splitlines()
    except UnicodeDecodeError:
        raise UserError(f"{path} is not text; the file was edited or damaged: put back a copy of it") from None
    records = []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            if number == len(lines):
                break
            record = None
        if not isinstance(record, dict) or type(record.get("step")) is not int:
            what = "is not JSON" if record is None else "is not an object with a step"
            raise UserError(f"{path}:{number} {what}; the file was edited or damaged: put back a copy of it")
        records.append(record)
    return records


def finished(path: epath.Path) -> dict | None:
    """The last line of a finished run, else None."""
    records = read(path) if path.exists() else []
    return records[-1] if records and records[-1].get("done") is True else None


def best(path: epath.Path) -> dict[str, float]:
    """The best of each accuracy on validation experiments that a run's evaluations found, over all restarts, and its
    step: best/NAME and best/NAME/step. {} after a single evaluation, with nothing to choose from."""
    lines = [line for line in read(path) if "final" in line]
    found = {}
    if len(lines) < 2:
        return found
    for name in lines[-1]:
        chosen_by = name.endswith(tuple(f"validation/{kind}_accuracy" for kind in ("site", "well", "balanced")))
        if chosen_by and not name.startswith(LAST):
            top = max((line for line in lines if line.get(name) is not None), key=lambda line: line[name])
            found |= {f"best/{name}": top[name], f"best/{name}/step": top["step"]}
    return found


class Clock:
    """Where the time of a run goes. Training time excludes compilation, evaluation and checkpoints (`pause`)."""

    def __init__(
        self,
        minibatch: int,
        total_steps: int,
        carried: dict[str, float] | None = None,
        flops_per_image: float = 0.0,
        peak: float | None = None,
    ):
        self.minibatch, self.total_steps = minibatch, total_steps
        self.flops_per_image, self.peak = flops_per_image, peak
        self.train_seconds = (carried or {}).get("train_seconds", 0.0)
        self._cpu_before = (carried or {}).get("cpu_seconds", 0.0)
        self._waited = 0.0
        self._measured = [0, 0.0]  # steps and seconds, until there are enough
        self._last_step = self._mark = None

    def start(self, step: int) -> None:
        """Call when the first step of this process has finished compiling and running."""
        self._last_step, self._mark, self._waited = step, time.perf_counter(), 0.0

    def waited(self, seconds: float) -> None:
        self._waited += seconds

    @contextlib.contextmanager
    def pause(self, state):
        """For work that is not training: waits for the steps under way (their time is training), then stops."""
        jax.block_until_ready(state)
        begin = time.perf_counter()
        yield
        if self._mark is not None:
            self._mark += time.perf_counter() - begin

    def tick(self, step: int) -> dict[str, float]:
        """Rates since the last tick: images_per_second, .._per_chip, data_wait (share of the time), eta_seconds,
        teraflops_per_chip (model FLOPs per second / 1e12) and, where the chip's peak is known, mfu, its share of it.
        Once, after MEASURED steps of this process, also device_hours: what training takes from the first step to the
        last at the rate of these steps."""
        now = time.perf_counter()
        seconds = max(now - self._mark, 1e-9)
        self.train_seconds += seconds
        rate = (step - self._last_step) * self.minibatch / seconds
        values = {
            "images_per_second": rate,
            "images_per_second_per_chip": rate / jax.device_count(),
            "teraflops_per_chip": rate / jax.device_count() * self.flops_per_image / 1e12,
            "data_wait": min(1.0, self._waited / seconds),
            "eta_seconds": (self.total_steps - step) * self.minibatch / max(rate, 1e-9),
            "train_seconds": self.train_seconds,
        }
        self._measured = [sum(x) for x in zip(self._measured, (step - self._last_step, seconds))]
        if self._measured[0] >= MEASURED > self._measured[0] - (step - self._last_step):
            per_step = self._measured[1] / self._measured[0]
            values["device_hours"] = self.total_steps * per_step * jax.device_count() / 3600
        if self.peak:
            values["mfu"] = values["teraflops_per_chip"] * 1e12 / self.peak
        self.start(step)
        return values

    def carry(self) -> dict[str, float]:
        """What a checkpoint keeps: training time, and processor time of this host, over all restarts."""
        since = time.perf_counter() - self._mark if self._mark is not None else 0.0  # the last tick
        cpu = self._cpu_before + time.process_time()
        return {"train_seconds": self.train_seconds + since, "cpu_seconds": cpu}


class Trace:
    """A profile of steps first .. last-1 of a run, (first, last) or nothing, in `folder`. A run that starts in between
    traces what is left, one that ends there stops it. Use as a context manager."""

    def __init__(self, folder: epath.PathLike, steps):
        self._folder, self._steps, self._open = epath.Path(folder), steps, False
        # The profiler knows local folders only.
        self._local = tempfile.TemporaryDirectory() if steps and files.is_remote(folder) else None

    def before(self, step: int, state) -> None:
        """Call before step number `step`."""
        if not self._steps:
            return
        wanted = self._steps[0] <= step < self._steps[1]
        if wanted and not self._open:
            jax.profiler.start_trace(self._local.name if self._local else self._folder)
            self._open = True
        elif self._open and not wanted:
            jax.block_until_ready(state)
            self._stop()

    def _stop(self):
        jax.profiler.stop_trace()
        self._open = False
        if self._local:
            root = pathlib.Path(self._local.name)
            for path in root.rglob("*"):
                if path.is_file():
                    there = self._folder / path.relative_to(root)
                    there.parent.mkdir(parents=True, exist_ok=True)
                    files.write(there, path.read_bytes())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self._open:
            self._stop()
        if self._local:
            self._local.cleanup()


def first_line(about: dict[str, float]) -> None:
    """The run's size and memory, on stderr, from the first host, when its step is compiled."""
    hosts.say(
        f"{about['parameters'] / 1e6:.2f} M parameters | {about['flops_per_image'] / 1e9:.2f} GFLOPs per image | "
        f"{about['memory_per_chip'] / 2**30:.2f} GiB per chip during a step"
    )


def progress_line(step: int, total: int, values: dict[str, float]) -> None:
    """One line on stderr, from the first host."""
    minutes, seconds = divmod(round(values["eta_seconds"]), 60)
    mfu = f"MFU {100 * values['mfu']:.1f}% | " if "mfu" in values else ""
    hosts.say(
        f"step {step}/{total} {100 * step / total:3.0f}% | loss {values['loss']:.4f} | "
        f"{values['images_per_second']:.0f} images/s ({values['images_per_second_per_chip']:.0f} per chip) | {mfu}"
        f"data wait {100 * values['data_wait']:.1f}% | ETA {minutes}:{seconds:02d}"
    )


def estimate_line(total: int, minibatch: int, flops_per_image: float, values: dict[str, float]) -> None:
    """What the whole run takes, by the steps that were measured, on stderr, from the first host."""
    devices, hours = jax.device_count(), values["device_hours"]
    flops = total * minibatch * flops_per_image
    hosts.say(
        f"measured: the whole run of {total:,} steps takes {hours:.3g} device hours ({hours / devices:.3g} h on "
        f"{devices} device{'s' * (devices > 1)}) and {flops:.2g} FLOP, evaluation not counted"
    )


def measure_loader(minibatches, workdir: epath.PathLike, total_steps: int, minibatch: int, every: int | None) -> dict:
    """Reads `total_steps` minibatches and does nothing with them; images_per_second of this host's part go to stderr
    and metrics.jsonl, without the first minibatches, which are read ahead. Returns the last line."""
    share, ahead = minibatch / jax.process_count(), min(AHEAD, total_steps - 1)
    with Writer(workdir, 0) as writer:
        for _ in range(ahead):
            next(minibatches)
        begin = time.perf_counter()
        for step in range(ahead + 1, total_steps + 1):
            next(minibatches)
            rate = (step - ahead) * share / (time.perf_counter() - begin)
            if step == total_steps or (every and step % every == 0):
                writer.write(step, {"images_per_second": rate})
                print(f"minibatch {step}/{total_steps} | {rate:.0f} images/s read", file=sys.stderr, flush=True)
        last = {"done": True, "images_per_second": rate}
        writer.write(total_steps, last)
    return {"step": total_steps} | last
