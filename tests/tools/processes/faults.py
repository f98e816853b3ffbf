"""What tests break on purpose, by name, inside a process of a run."""

import errno
import os
import signal
import time

import jax.numpy as jnp
from orbax.checkpoint import v1 as ocp

from rxrx_jax.base.errors import UserError
from rxrx_jax.data import dataset, images, minibatches
from rxrx_jax.data.augment import Augment
from rxrx_jax.evaluate import predict
from rxrx_jax.training import train
from rxrx_jax.training.provenance import facts
from rxrx_jax.training.safety import watchdog


def bad_images(*bad_rows):
    """The images of these rows become NaN: they are marked by their labels, and normalised to NaN."""
    read_minibatch, normalise, mark = minibatches.read_minibatch, Augment.train, 10**6

    def read(dataset, sites, rows, *arguments, **more):
        found = read_minibatch(dataset, sites, rows, *arguments, **more)
        found["label"][: len(rows)][[int(row) in bad_rows for row in rows]] = mark
        return found

    def train(self, minibatch, statistics, key):
        bad = minibatch["label"] == mark
        return normalise(self, minibatch, statistics, key) * jnp.where(bad, jnp.nan, 1.0)[:, None, None, None]

    minibatches.read_minibatch, Augment.train = read, train


def at_minibatch(number, what, *arguments):
    """Does one of the functions below when minibatch `number` of the training is read."""
    original = images.training_minibatches

    def reading(*given):
        for i, minibatch in enumerate(original(*given)):
            if i == number:
                globals()[what](*arguments)
            yield minibatch

    images.training_minibatches = reading


def slices(count):
    """This host is of one of `count` emulated slices."""
    os.environ["MEGASCALE_NUM_SLICES"] = str(count)


def sleep(seconds):
    time.sleep(seconds)


def send(name):
    os.kill(os.getpid(), getattr(signal, name))


def fail(text):
    raise OSError(text)


def other_code():
    facts.code_version = lambda: "0.0.1 another"


def other_data():
    original = dataset.fingerprint
    dataset.fingerprint = lambda found: original(found)[::-1]


def no_data(text):
    def refuse(*_):
        raise UserError(text)

    dataset.open_dataset = refuse


def own_workdir(path):
    """This host sees another disk."""
    original = train.run
    train.run = lambda values, _: original(values, path)


def in_evaluation(name):
    """Sends itself a signal in the middle of the first evaluation."""
    original = predict.Context.predict

    def predicting(*arguments):
        send(name)
        return original(*arguments)

    predict.Context.predict = predicting


def slow_to_stop(seconds):
    """Where the watchdog ends this host, it takes so long to say why."""
    original = watchdog.stacks

    def stacks():
        time.sleep(seconds)
        return original()

    watchdog.stacks = stacks


def slow_disk(seconds):
    """What is saved takes so long to appear under its name."""
    original = os.rename

    def rename(source, target, **more):
        if "checkpoint-tmp" in str(source):
            time.sleep(seconds)
        return original(source, target, **more)

    os.rename = rename


def full_disk_after(saves):
    """The disk is full once so many checkpoints are kept: found when one waits for the next."""
    original, waits = ocp.training.Checkpointer.wait, []

    def wait(self, *arguments):
        waits.append(self.latest)
        if len(waits) > saves:
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(self, *arguments)

    ocp.training.Checkpointer.wait = wait
