"""A thread that ends a run which makes no progress, and names the host that holds it up."""

import contextlib
import json
import os
import socket
import sys
import threading
import time

from etils import epath

from rxrx_jax.base import files
from rxrx_jax.base.command import FIX
from rxrx_jax.base.errors import to_the_user
from rxrx_jax.base.hosts import AGAIN, go_last

EVALUATING = "evaluating"
PROBE = 1 << 20  # characters to which stacks are filled up with blanks, so that a full disk is noticed
DEVICES = "waiting for its devices"  # where the hosts are that wait for another one


class Watchdog:
    """Ends the process with exit code 75, on which launchers start again, when `at` was not called for `seconds`: with
    one line that names the host and what it was doing, and the stack of every thread in WORKDIR/hosts/I.stack.

    Ten times as long is allowed until `moving` is called, while programs are compiled and readers started, and between
    two calls of an evaluation, where a regression may take long. Each host keeps a small file WORKDIR/hosts/I.json,
    what it does and since when, which the others read. Use as a context manager; 0 seconds disables it.

    Args: index and count, of this process and of all.
    """

    def __init__(self, workdir: epath.Path, seconds: float, index: int, count: int):
        self._folder, self._seconds, self._index, self._count = workdir / "hosts", seconds, index, count
        self._end, self._patience = threading.Event(), 10.0
        # Two threads: a file system that hangs holds up what is told to the others, not the watching.
        jobs = [self._watch] + [self._tell] * (count > 1)
        self._threads = [threading.Thread(target=job, name="watchdog", daemon=True) for job in jobs if seconds]
        self.at("starting", 0)

    def at(self, doing: str, step: int) -> None:
        """What this host does from now on, "reading data" for instance, and at which step."""
        self._now, self._since = {"doing": doing, "step": int(step), "since": time.time()}, time.monotonic()

    def moving(self) -> None:
        """Says that the first step is done."""
        self._patience = 1.0

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._end.set()

    def _tell(self):
        while not self._end.wait(self._pause):
            told = self._now | {"host": host(), "now": time.time()}
            with contextlib.suppress(Exception):  # a disk that is full for a moment; the next time will do
                self._folder.mkdir(parents=True, exist_ok=True)
                files.write(self._folder / f"{self._index}.json", json.dumps(told))

    def _watch(self):
        last = time.monotonic()
        while not self._end.wait(self._pause):
            now = time.monotonic()
            if now - last > self._seconds / 2:  # the machine slept, or the process was stopped, and this thread too
                self._since = now
            last = now
            patience = 10.0 if self._now["doing"] == EVALUATING else self._patience
            if now - self._since > self._seconds * patience:
                self._stop()

    @property
    def _pause(self) -> float:
        return min(10.0, self._seconds / 8)

    def _stop(self):
        exit_anyway = threading.Timer(3 * self._pause + 5, os._exit, (AGAIN,))  # when the file system hangs too
        exit_anyway.daemon = True
        exit_anyway.start()
        stack, line, code = stacks(), f"{self._line()}; start again", AGAIN
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            files.write(self._folder / f"{self._index}.stack", stack.ljust(PROBE))
        except Exception as error:
            # On a full disk hosts wait for one whose part of a checkpoint could not be written.
            line, code = (to_the_user(error), FIX) if files.lack_of_room(error.__cause__ or error) else (line, code)
        with contextlib.suppress(OSError):  # where the output goes the disk may be full too
            print(f"{stack}error: {line}", file=sys.stderr, flush=True)
        go_last(2 * self._pause)  # all watch alike, and see it within a pause of each other
        os._exit(code)

    def _line(self) -> str:
        mine = f"host {self._index} ({host()}) has been {describe(self._now)}"
        if self._count == 1:
            return mine
        return f"{blame(self._others(), time.time(), self._seconds, self._count) or mine} (told by host {self._index})"

    def _others(self) -> dict[int, dict]:
        found = {}
        for i in range(self._count):
            try:
                found[i] = json.loads((self._folder / f"{i}.json").read_text())
            except (OSError, ValueError):  # none yet, or being written
                pass
        return found


def stacks() -> str:
    """Where every thread of this process is, newest call first. Neither the disk nor the source files are asked."""
    names, lines = {thread.ident: thread.name for thread in threading.enumerate()}, []
    for number, frame in sys._current_frames().items():
        lines.append(f"Thread {names.get(number, number)}:\n")
        while frame:
            code, line, frame = frame.f_code, frame.f_lineno, frame.f_back
            lines.append(f'  File "{code.co_filename}", line {line} in {code.co_name}\n')
    return "".join(lines)


def host() -> str:
    return socket.gethostname()


def describe(now: dict) -> str:
    return f"{now['doing']} at step {now['step']} for {time.time() - now['since']:.0f} s"


def blame(hosts: dict[int, dict], now: float, seconds: float, count: int) -> str | None:
    """Which host holds up the others, by what they last wrote: one that writes no more, else one that does not wait for
    devices as those do that wait for it, the one furthest behind. None where all wait."""
    for i in range(count):
        if i not in hosts or now - hosts[i]["now"] > seconds / 2:
            name = f" ({hosts[i]['host']})" if i in hosts else ""
            return f"host {i}{name} has not reported for more than {seconds / 2:.0f} s"
    busy = [(h["step"], h["since"], i) for i, h in hosts.items() if h["doing"] != DEVICES]
    if not busy:
        return None
    i = min(busy)[2]
    return f"host {i} ({hosts[i]['host']}) has been {describe(hosts[i])}"
