"""Signals to a launcher that waits for a run elsewhere: each stops the run; a closed terminal not where it says so."""

import os
import signal

import pytest
from launch_tools import COMMIT

from launch import common, gke, host, slurm, tpu_pod

STOP = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
RUN = [f"--commit={COMMIT}", "--", "--config=mae_vit.py"]
MODULES = {
    slurm: ["--workdir=/a"],
    host: ["--ssh=me@server", "--workdir=/a"],
    tpu_pod: ["--zone=a", "--type=b", "--runtime=c", "--workdir=gs://a/b"],
    gke: ["--image=a", "--gpu=b", "--workdir=gs://a/b"],
}
OUTLIVES = (slurm, host)  # the terminal


@pytest.fixture(autouse=True)
def handlers():
    before = {number: signal.getsignal(number) for number in STOP}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", STOP)
@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_every_signal_to_stop_is_heeded(module, number, monkeypatch):
    done = []

    def run(step, signals):
        done.append(step.why)
        if step.why.startswith("follow") and sum(why.startswith("follow") for why in done) == 1:
            os.kill(os.getpid(), number)
            raise common.Stopped(signals.pop())
        return 0

    monkeypatch.setattr(common, "run", run)
    stays = number == signal.SIGHUP and module in OUTLIVES
    if stays or module is gke:  # whose stop is to delete
        with pytest.raises(common.Stopped):
            module.main([*MODULES[module], *RUN])
    else:
        assert module.main([*MODULES[module], *RUN]) == 0
    assert stays != any("Ctrl-C" in why for why in done)


def test_a_signal_that_the_launcher_was_started_to_ignore_stays_ignored():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    signals = common.catch_signals()
    os.kill(os.getpid(), signal.SIGHUP)
    os.kill(os.getpid(), signal.SIGUSR1)
    assert signals == [signal.SIGUSR1]
