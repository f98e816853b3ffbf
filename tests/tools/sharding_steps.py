"""Three updates of several tasks over all devices: `python sharding_steps.py OUT.npz FSDP TENSOR [NAME ...]`."""

import sys

import jax
import numpy as np
import step_tools

from rxrx_jax.base import sharding

ADAMW = dict(name="adamw", lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, clip_norm=1.0, warmup_steps=1)
LION = ADAMW | dict(name="lion", lr=1e-4)
FISHR = dict(name="fishr", domain="experiment", weight=1.0, warm_up=1, ema_decay=0.9)
RUNS = {  # name: (task, changes)
    "mae in parts": ("mae", {"accumulate": 2}),
    "mae adamw": ("mae", {"optim": ADAMW | {"ema_decay": 0.9}}),
    "channel-agnostic mae lion": ("channel-agnostic mae", {"optim": LION}),
    "distill": ("distill", {}),
    "classify": ("classify", {}),
    "resnet": ("resnet", {}),
    "cs_bn": ("cs_bn", {}),
    "arm_bn with controls": ("arm_bn with controls", {}),
    "context token": ("context token", {}),
    "fishr": ("classify", {"adapt": FISHR, "data.groups_per_minibatch": 4}),
}


def train(name: str, mesh) -> dict[str, np.ndarray]:
    """Parameters and metrics of a run, and the share of each parameter that one device holds."""
    task, changes = RUNS[name]
    states, metrics, shares = step_tools.run(task, mesh, minibatch=2 * step_tools.MINIBATCH, **changes)
    found = {f"{name}/step{i}/{key}": value for i, values in enumerate(metrics) for key, value in values.items()}
    last = {"params": states[-1].params, **states[-1].collections}
    leaves = jax.tree_util.tree_leaves_with_path(last)
    found |= {f"{name}/{sharding.path_name(path)}": leaf for path, leaf in leaves}
    leaves = jax.tree_util.tree_leaves_with_path(shares)
    return found | {f"shares/{name}/{sharding.path_name(path)}": np.array(share) for path, share in leaves}


def over_heads(mesh) -> dict[str, np.ndarray]:
    """A function of one device's images and heads, here a cumulative sum, also under vmap; and its share of them."""
    found = {}
    for batch, heads in ((16, 4), (16, 3), (6, 4)):
        x, seen = np.random.default_rng(0).normal(size=(batch, 5, heads, 2)).astype(np.float32), []

        def one(x, y, seen=seen):
            seen.append(x.size)
            return (x * y).cumsum(axis=1)

        with jax.set_mesh(mesh):
            name = f"over_heads/{batch}x{heads}"
            found[name] = np.asarray(jax.jit(lambda x: sharding.over_heads(one, x, x + 1))(x))
            of_two = jax.vmap(lambda x: sharding.over_heads(one, x, x + 1), 1, 1)
            found[f"{name}/vmap"] = np.asarray(jax.jit(of_two)(np.stack([x, -x], 1)))
        found[f"shares/{name}"] = np.array(seen[0] / x.size)
    return found


if __name__ == "__main__":
    (fsdp, tensor), names = map(int, sys.argv[2:4]), sys.argv[4:] or RUNS
    whole, without_tensor = sharding.make_mesh(fsdp, tensor), sharding.make_mesh(fsdp)
    results = over_heads(whole)
    for name in names:
        results |= train(name, without_tensor if "vit" not in step_tools.CONFIGS[RUNS[name][0]][0] else whole)
    np.savez(sys.argv[1], devices=jax.device_count(), **results)
