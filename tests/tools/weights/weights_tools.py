"""Finished runs without training: random parameters where `train.run` would have left its own. And files of weights."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
import tiny
from parameters import random_variables
from paths import REFERENCE

from rxrx_jax import embed, models
from rxrx_jax.base import command, seen
from rxrx_jax.base.config import Config
from rxrx_jax.base.sharding import parameters_sha256
from rxrx_jax.training.checkpoint import LAYOUT, Checkpoints
from rxrx_jax.training.state import TrainState

OPENPHENOM, TIMM = REFERENCE / "weights" / "weights_openphenom.bin", REFERENCE / "weights" / "weights_timm.safetensors"
STEPS = 2
CHANNELS = 6
FINAL = {"final": True, "reconstruction/in_batch/loss": 0.8125, "leakage/accuracy": 0.25}


def make_run(
    workdir: pathlib.Path, folder: pathlib.Path, crop: int = 16, seed: int = 0, parts=False, unknown=(), **changes
) -> dict:
    """A workdir as a finished pretraining on the tiny screen in `folder` leaves it; changes are dotted config keys.
    `unknown` names weights of other projects that it began with. With `parts` the state also holds a moving average, 2
    times the parameters. Returns the parameters."""
    values = tiny.values("mae_vit.py", folder, **{"augment.crop": crop, "model.variant": "XXS/8"} | changes)
    transductive = values["normalisation"] in ("experiment", "plate")
    encoder, channels = models.make_encoder(Config(values["model"])), len(values["data"]["channels"]) or CHANNELS
    params = {
        "encoder": random_variables(encoder.init, jnp.zeros((1, crop, crop, channels)), seed=seed)["params"],
        "pixels": {"kernel": jnp.arange(12.0).reshape(3, 4), "bias": jnp.ones(4)},
    }
    clock = {"train_seconds": 3600.0, "cpu_seconds": 5400.0}
    with Checkpoints(workdir / "checkpoints", 1) as checkpoints:
        averages = {"params": times(2, params), "batch_stats": {}} if parts else {}
        collections = {"batch_stats": {}, "carry": {}, "averages": averages}
        checkpoints.save(TrainState(jnp.int32(STEPS), times(1, params), collections, {}), clock)
    resolved = values | {"resolved": {"total_steps": STEPS, "transductive": transductive, "layout": LAYOUT}}
    (workdir / "config.json").write_text(json.dumps(resolved))
    seen.write(workdir / seen.NAME, seen.Seen(unknown=unknown))
    lines = (
        {"images_per_second": 100.0, "images_per_second_per_chip": 50.0, "loss": 1.0},
        FINAL,
        {"done": True, "parameters_sha256": parameters_sha256(params), "transductive": transductive} | clock,
    )
    (workdir / "metrics.jsonl").write_text("".join(json.dumps({"step": STEPS} | line) + "\n" for line in lines))
    return params


def times(factor: int, tree):
    return jax.tree.map(lambda x: factor * jnp.asarray(x), tree)


def embed_into(checkpoint, dataset, out, *more):
    """The exit status of the command."""
    return command.run(
        embed.main, [f"--checkpoint={checkpoint}", f"--data={dataset}", f"--out={out}", "--minibatch=16", *more]
    )


def save(path, tensors):
    """Writes a safetensors file, named as published ones are."""
    safetensors.numpy.save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, path)
    return path


def without(tensors, *starts):
    return {name: value for name, value in tensors.items() if not name.startswith(starts)}


def apply(imported, images):
    """(tokens, intermediates) of the imported encoder."""
    run = jax.jit(lambda params, x: imported.encoder.apply({"params": params}, x))
    return run(imported.params["encoder"], images)


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
