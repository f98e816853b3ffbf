"""Runs the plates of a build, on one machine or on Apache Beam, and shows their progress."""

import concurrent.futures
import contextlib
import functools
import math
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import tqdm

from rxrx_jax.base.errors import UserError
from tfds_builders.common import plates

SITES_PER_WORKER = 64  # a process takes a second to start, as long as it takes to read some 64 small sites


def run(task: plates.Task, names: list[tuple[str, int]], workers: int, name: str, progress: bool) -> None:
    """Builds plates in `workers` processes; what is built does not depend on their number.

    Args:
      task: the build.
      names: (experiment, plate) of every plate.
      workers: processes; with one, everything happens in this process.
      name: what the progress bar calls it.
      progress: show the bar on stderr: sites, time left, MB of pixels per second.
    """
    sites = task.plan.sites()
    workers = min(workers, len(names), 1 + sites // SITES_PER_WORKER)
    interval = 0.5 if sys.stderr.isatty() else 30  # seconds between two lines of progress
    pixels = math.prod(task.shape) * task.bits // 8  # bytes per site
    start = time.monotonic()
    with tqdm.tqdm(total=sites, unit=" sites", desc=name, mininterval=interval, disable=not progress) as bar:

        def advance(done: int) -> None:
            rate = done * pixels / max(time.monotonic() - start, 1e-3)
            bar.set_postfix_str(f"{rate / 1e6:.0f} MB/s", refresh=False)
            bar.update(done - bar.n)

        if workers <= 1:
            for experiment, plate in names:
                plates.build_plate(task, experiment, plate, lambda: advance(bar.n + 1))
        else:
            _run_in_processes(task, names, workers, advance)


def _context() -> Any:
    # Not forked from here: a fork of a process that has threads (JAX's, Grain's) may hang. A fork server imports
    # TFDS once for all workers.
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tfds_builders.common.plates"])
    return context


@contextlib.contextmanager
def open_pool(workers: int, *shared: Any) -> Iterator[concurrent.futures.ProcessPoolExecutor | None]:
    """Opens a pool of processes that end with this one; None with one worker, for this process does it then."""
    if workers <= 1:
        yield None
        return
    pool = concurrent.futures.ProcessPoolExecutor(
        workers, mp_context=_context(), initializer=_start_worker, initargs=shared
    )
    try:
        yield pool
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in list((pool._processes or {}).values()):
            process.terminate()  # its work may take minutes, and would not be used
        raise
    pool.shutdown()


def _run_in_processes(
    task: plates.Task, names: list[tuple[str, int]], workers: int, advance: Callable[[int], None]
) -> None:
    counter = _context().Value("q", 0)
    with open_pool(workers, counter, task) as pool:
        waiting = {pool.submit(_build, *name) for name in names}
        try:
            while waiting:
                done, waiting = concurrent.futures.wait(
                    waiting, timeout=0.5, return_when=concurrent.futures.FIRST_COMPLETED
                )
                for future in done:
                    future.result()
                advance(counter.value)
        except concurrent.futures.process.BrokenProcessPool as error:
            raise UserError(
                "a worker died, for the reason above or out of memory: to resume, run the same command with fewer "
                "--workers"
            ) from error


_worker: dict[str, Any] = {}  # of this process, when it builds plates: its task and the counter of sites


def _start_worker(counter: Any = None, task: plates.Task | None = None) -> None:
    """Ends the worker with its parent: a worker of a killed build would otherwise keep running."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    _worker.update(counter=counter, task=task)

    def watch():
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _build(experiment: str, plate: int) -> None:
    plates.build_plate(_worker["task"], experiment, plate, _count_site)


def _count_site() -> None:
    with _worker["counter"].get_lock():
        _worker["counter"].value += 1


def run_on_beam(task: plates.Task, names: list[tuple[str, int]], options: list[str]) -> None:
    """Builds plates on Apache Beam; every worker must see the source and the output folder under the same paths.

    Args:
      task: the build.
      names: (experiment, plate) of every plate.
      options: of the pipeline, such as ["--runner=FlinkRunner", "--flink_master=HOST:8081"].
    """
    try:
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError as error:
        raise UserError("--beam needs Apache Beam: pip install 'rxrx_jax[beam]'") from error
    with beam.Pipeline(options=PipelineOptions(options)) as pipeline:
        _ = (
            pipeline
            | "plates" >> beam.Create(names)
            | "spread" >> beam.Reshuffle()
            | "build" >> beam.MapTuple(functools.partial(_build_on_beam, task))
        )


def _build_on_beam(task: plates.Task, experiment: str, plate: int) -> str:
    return str(plates.build_plate(task, experiment, plate))
