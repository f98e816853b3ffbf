"""A signal to stop, on any host, stops all hosts of a run at the same step, with a checkpoint."""

import signal
import threading

import numpy as np

from rxrx_jax.base import command, hosts


class Stopped(Exception):
    """The run was asked to stop and can resume from its last checkpoint."""


class Preemption:
    """Use as a context manager around a run. While it lasts SIGTERM (what schedulers, `kill` and the cloud send before
    they take a machine away), SIGINT (Ctrl-C), SIGHUP (the terminal is closed) and SIGUSR1 (what schedulers send on
    request) are a request. A second SIGINT ends the process at once.

    Hosts tell each other within the train step: each gives its part of a flag along with the minibatch (`flag`), and
    all see at the same step whether any is set, at no extra cost. jax has a service for this, which is switched off
    (`hosts.join`): it counts calls, and Orbax calls it too, with other numbers.
    """

    def __init__(self):
        self._asked, self._former = False, {}

    def flag(self, size: int) -> np.ndarray:
        """Whether this host was asked to stop, for each of its `size` images: bool [size]."""
        return np.full(size, self._asked)

    def check(self) -> None:
        """Raises Stopped on all hosts when any was asked to stop; all must call it."""
        if hosts.on_any(self._asked):
            raise Stopped()

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():  # no other may set a handler
            self._former = {number: signal.signal(number, self._ask) for number in command.stop_signals()}
        return self

    def _ask(self, number, _):
        self._asked = True
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.SIG_DFL)

    def __exit__(self, *_):
        for number, former in self._former.items():
            signal.signal(number, former)
