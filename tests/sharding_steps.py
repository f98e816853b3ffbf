"""Three updates of two tasks over all devices: `python sharding_steps.py OUT.npz FSDP TENSOR`."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
from parameters import random_variables

from rxrx_jax import optim, sharding
from rxrx_jax.adapt.dann import Dann
from rxrx_jax.config import Config
from rxrx_jax.models.convnet import ConvNet
from rxrx_jax.models.heads import Head
from rxrx_jax.models.mae import MaskedAutoencoder
from rxrx_jax.models.vit import Encoder, Size
from rxrx_jax.state import TrainState
from rxrx_jax.tasks.classify import Classify
from rxrx_jax.tasks.mae import Mae

SIZE, MINIBATCH = Size(16, 2, 32, 2), 16
TASKS = {
    "mae": Mae(MaskedAutoencoder(SIZE, Size(8, 1, 16, 2), 4, 0.5), Encoder(SIZE, 4), normalise_target=True),
    "classify": Classify(ConvNet((4, 6)), Head(4), Dann("plate", 3, weight=0.5, hidden=6), label_smoothing=0.1),
}
# Not Adam, which makes full steps of rounding errors where gradients are zero (those of the keys' bias).
OPTIM = dict(name="sgd", lr=0.1, momentum=0.9, weight_decay=0.01, clip_norm=1.0)


def train(name: str, mesh, steps: int = 3) -> dict[str, np.ndarray]:
    """Parameters and metrics after `steps` updates, and the share of each parameter that one device holds."""
    task, random = TASKS[name], np.random.default_rng(0)
    images = random.normal(size=(steps, MINIBATCH, 8, 8, 2)).astype(np.float32)
    labels, plates = random.integers(-1, 4, (steps, MINIBATCH)), random.integers(0, 3, (steps, MINIBATCH))

    variables = random_variables(task.init, images[0, :1])
    params = variables["params"]
    optimiser = optim.make_optimiser(Config(OPTIM), lambda step: OPTIM["lr"], params, None)
    state = TrainState(jnp.int32(0), params, variables["batch_stats"], optimiser.init(params))
    placement = sharding.state_shardings(state, mesh)

    def update(state, images, minibatch):
        key = jax.random.fold_in(jax.random.key(1), state.step)
        stats, progress = state.batch_stats, state.step / steps
        loss = lambda p: task.loss(p, stats, images, minibatch, key, progress)  # noqa: E731
        (value, (stats, metrics)), gradient = jax.value_and_grad(loss, has_aux=True)(state.params)
        updates, opt_state = optimiser.update(gradient, state.opt_state, state.params)
        params = jax.tree.map(jnp.add, state.params, updates)
        return TrainState(state.step + 1, params, stats, opt_state), metrics | {"loss": value}

    found = {}
    with jax.set_mesh(mesh):
        state = jax.device_put(state, placement)
        update = jax.jit(update, out_shardings=(placement, sharding.replicated(mesh)))
        for step in range(steps):
            minibatch = {"images": images[step], "label": labels[step], "plate": plates[step]}
            minibatch = sharding.to_device(minibatch, mesh)
            state, metrics = update(state, minibatch.pop("images"), minibatch)
            found |= {f"{name}/step{step}/{key}": np.asarray(value) for key, value in metrics.items()}
        for path, leaf in jax.tree_util.tree_leaves_with_path((state.params, state.batch_stats)):
            found[f"{name}/{sharding.path_name(path)}"] = np.asarray(leaf)
            if leaf.ndim > 1:
                share = leaf.addressable_shards[0].data.size / leaf.size
                found[f"shares/{name}/{sharding.path_name(path)}"] = np.array(share)
    return found


if __name__ == "__main__":
    fsdp, tensor = map(int, sys.argv[2:])
    results = train("mae", sharding.make_mesh(fsdp, tensor)) | train("classify", sharding.make_mesh(fsdp))
    np.savez(sys.argv[1], devices=jax.device_count(), **results)
