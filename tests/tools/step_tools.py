"""The real train step of a config on a tiny simulated screen that is only described, with random parameters."""

import contextlib
import dataclasses
import functools
from unittest import mock

import jax
import numpy as np
import tiny
from parameters import random_variables

from rxrx_jax import models
from rxrx_jax.base import config, sharding
from rxrx_jax.data import noise
from rxrx_jax.data.batch import TRAIN, Batch, label_count
from rxrx_jax.models import vit
from rxrx_jax.models.resnet import ResNet
from rxrx_jax.models.vit import Size
from rxrx_jax.tasks import make_task
from rxrx_jax.training.state import COLLECTIONS
from rxrx_jax.training.step import Step, make_step

MINIBATCH, SIDE, TOTAL_STEPS = 16, 8, 10
PARALLEL = {
    f"model.{key}": value
    for key, value in dict(block="parallel", qk_norm=True, layer_scale=0.1, drop_path=0.2, class_token=True).items()
}
PARALLEL |= {"model.qkv_bias": False, "task.normalise_target": True}
AGNOSTIC = {"model.channel_agnostic": True, "model.final_norm": False, "task.fourier_weight": 0.1}
SGD = dict(name="sgd", lr=0.1, momentum=0.9, weight_decay=0.01, clip_norm=1.0, warmup_steps=1)
ARM_BN = {"model.widths": (4, 6), "data.control_minibatch": 16, "adapt.context": "controls"}
CONFIGS = {
    "mae": ("mae_vit.py", PARALLEL | {"task.decoder": (8, 1, 2)}),
    "channel-agnostic mae": ("mae_vit.py", PARALLEL | AGNOSTIC | {"task.decoder": (8, 2, 2)}),
    "distill": ("distill_vit.py", {"task.head": (16, 8, 12)}),
    "classify": ("convnet.py:method=dann", {"model.widths": (4, 6)}),
    "resnet": ("convnet.py:model=resnet50", {}),
    "cs_bn": ("convnet.py:method=cs_bn", {"model.widths": (4, 6), "data.control_minibatch": 16}),
    "arm_bn with controls": ("convnet.py:method=arm_bn", ARM_BN),
}


@contextlib.contextmanager
def small_models():
    """Within it the ViT called XXS is smaller still, and resnet50 is not a full ResNet-50."""
    few = functools.partial(ResNet, (1, 1), 4)
    with mock.patch.dict(vit.SIZES, XXS=Size(16, 2, 32, 2)), mock.patch.object(models, "ResNet", few):
        yield


def values(name: str, **changes) -> dict:
    """The config of CONFIGS[name], with SGD unless changed: Adam makes full steps of rounding errors where gradients
    are zero (those of the keys' bias)."""
    file, own = CONFIGS[name]
    if "vit" in file:
        own = {"model.variant": "XXS/4"} | own
    return tiny.values(file, "", **{"augment.crop": SIDE, "optim": SGD} | own | changes)


def task(name: str):
    """The task of CONFIGS[name]."""
    found = config.Config(values(name))
    return make_task(found, noise.make(found))


def make(name: str, mesh, minibatch: int = MINIBATCH, **changes) -> tuple[Step, noise.Noise]:
    """The step of CONFIGS[name] on a mesh that is set, and its source."""
    found = config.Config(values(name, **{"data.minibatch": minibatch} | changes))
    source = noise.make(found)
    with small_models():
        return make_step(found, source, mesh, TOTAL_STEPS), source


def collections(variables: dict) -> dict:
    """The collections of a state from what `task.init` gives."""
    return {name: variables.get(name, {}) for name in COLLECTIONS}


def batch(images, keys, **columns) -> Batch:
    """A minibatch of one stream, as a task gets it: images [B, ...], keys [B], columns [B]."""
    labelled = label_count({TRAIN: columns}) if "label" in columns else len(images)
    return Batch((images,), columns, keys, {TRAIN: slice(0, len(images))}, labelled)


def random_state(step: Step):
    """A state at step 0 whose every parameter is random, biases and norms too; the moving average starts from it."""
    shapes = step.arguments[0]
    channels = step.arguments[1][TRAIN]["image"].shape[-1]
    variables = random_variables(step.task.init, np.zeros((1, SIDE, SIDE, channels), np.float32))
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
    found = collections(variables)
    if shapes.collections["averages"] and not found["averages"]:
        found["averages"] = {"params": variables["params"], "batch_stats": found["batch_stats"]}
    state = dataclasses.replace(zeros, params=variables["params"], collections=found)
    return jax.device_put(state, jax.tree.map(lambda x: x.sharding, shapes))


def minibatches(source, count: int) -> list[dict]:
    """Random ones; one label in four is hidden, as many in every quarter of four neighbours."""
    found = []
    for seed in range(count):
        minibatch = next(dataclasses.replace(source, seed=seed).minibatches(0, 1))
        minibatch[TRAIN]["label"][::4] = -1
        minibatch[TRAIN]["stop"] = np.zeros(source.sizes[TRAIN], bool)
        found.append(minibatch)
    return found


def run(name: str, mesh, steps: int = 3, minibatch: int = MINIBATCH, **changes):
    """Random state, then `steps` updates: (states as numpy arrays, the first one before any; metrics)."""
    numpy = functools.partial(jax.tree.map, np.array)
    with jax.set_mesh(mesh):
        step, source = make(name, mesh, minibatch, **changes)
        # Without optimisation, because compiling is most of it.
        update = step.update.lower(*step.arguments).compile({"xla_backend_optimization_level": 0})
        state = random_state(step)
        constants = sharding.to_every_device((source.constants, step.keys), mesh)
        states, metrics = [numpy(state)], []
        for one in minibatches(source, steps):
            state, found = update(state, sharding.to_device(one, mesh), *constants)
            states.append(numpy(state))
            metrics.append(numpy(found))
        shares = jax.tree.map(lambda x: x.addressable_shards[0].data.size / x.size, state.params)
    return states, metrics, shares
