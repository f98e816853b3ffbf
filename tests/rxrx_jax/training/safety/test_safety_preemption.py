"""Which signals ask a run to stop, and how the second Ctrl-C ends it."""

import os
import signal
import subprocess
import sys

import pytest

from rxrx_jax.base import command
from rxrx_jax.training.safety.preemption import Preemption, Stopped

ASKING = ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1")


@pytest.mark.parametrize("name", ASKING)
def test_each_of_them_is_a_request_and_leaves_nothing_behind(name):
    number = getattr(signal, name)
    former = [signal.getsignal(getattr(signal, other)) for other in ASKING]
    with Preemption() as preemption:
        assert not preemption.flag(2).any()
        preemption.check()
        os.kill(os.getpid(), number)
        assert preemption.flag(2).tolist() == [True, True]
        with pytest.raises(Stopped):
            preemption.check()
    assert [signal.getsignal(getattr(signal, other)) for other in ASKING] == former


def test_a_signal_that_the_process_was_started_to_ignore_stays_ignored(monkeypatch):
    former = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        assert signal.SIGHUP not in command.stop_signals()
        with Preemption() as preemption:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not preemption.flag(1).any()
    finally:
        signal.signal(signal.SIGHUP, former)


def test_a_second_ctrl_c_ends_the_process_at_once():
    code = """
import os, signal
from rxrx_jax.training.safety.preemption import Preemption
with Preemption() as preemption:
    os.kill(os.getpid(), signal.SIGINT)
    print(preemption.flag(1).tolist(), flush=True)
    os.kill(os.getpid(), signal.SIGINT)
    print("still there", flush=True)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "[True]\n", "")
