"""Reads sites in parallel, in order, with a bounded number in flight.

Imports no TFDS, so that spawned workers start fast.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

AHEAD = 3  # sites in flight per worker: enough to hide the writer, few enough to stay small


class BadSite(Exception):
    """A site's image cannot be used; the message is the reason that the report gives."""


@dataclasses.dataclass
class Site:
    """One read site: its image and pixel sums, or the reason why it is set aside."""

    image: np.ndarray | None = None  # [H, W, C] uint8
    total: np.ndarray | None = None  # [C] int64, sum of pixel values
    squares: np.ndarray | None = None  # [C] int64, sum of squared pixel values
    reason: str = ""


def read(reader: Callable[[dict], np.ndarray], shape: tuple[int, int, int], row: dict[str, Any]) -> Site:
    """Reads one site and sums its pixels. Only BadSite sets a site aside; any other exception is a bug."""
    try:
        image = reader(row)  # [H, W, C]
    except BadSite as error:
        return Site(reason=str(error))
    if image.shape != shape or image.dtype != np.uint8:
        raise TypeError(f"{row['site_id']}: the reader gave {image.dtype}{image.shape}, expected uint8{shape}")
    total = image.sum(axis=0, dtype=np.uint32)  # [W, C]; 255**2 * H fits 32 bits up to H = 66,051
    squares = np.einsum("hwc,hwc->wc", image, image, dtype=np.uint32)
    return Site(image, total.sum(axis=0, dtype=np.int64), squares.sum(axis=0, dtype=np.int64))


def cores() -> int:
    """Returns the number of cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def open_pool(workers: int, processes: bool) -> Iterator[concurrent.futures.Executor | None]:
    """Opens a pool of processes or threads; None with one worker, which then runs in the caller's thread.

    Processes are spawned: a fork of a process that has threads (JAX's, Grain's) may hang.
    """
    if workers <= 1:
        yield None
        return
    if processes:
        context = multiprocessing.get_context("spawn")
        pool = concurrent.futures.ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker)
    else:
        pool = concurrent.futures.ThreadPoolExecutor(workers, thread_name_prefix="read_site")
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def ordered_map(
    pool: concurrent.futures.Executor | None, function: Callable, items: Iterable, workers: int
) -> Iterator[Any]:
    """Yields function(item) for every item, in the order of the items whatever the workers do."""
    if pool is None:
        yield from map(function, items)
        return
    items = iter(items)
    running = collections.deque(pool.submit(function, item) for item in itertools.islice(items, AHEAD * workers))
    while running:
        result = running.popleft().result()
        running.extend(pool.submit(function, item) for item in itertools.islice(items, 1))
        yield result


def _start_worker() -> None:
    """Ends the worker with its parent: a worker of a killed build would otherwise wait for ever."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C

    def watch():
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
