"""Tensors of `torch_convnets` as numpy arrays (a state_dict) <-> variables of rxrx_jax.models.resnet and .densenet."""

import flax
import numpy as np

COLLECTIONS = {"kernel": "params", "scale": "params", "bias": "params", "mean": "batch_stats", "var": "batch_stats"}
NAMES = {"bias": "bias", "running_mean": "mean", "running_var": "var"}


def to_jax(weights: dict) -> dict:
    """state_dict -> {"params": .., "batch_stats": ..}, each where it has anything."""
    tree = {}
    for name, value in weights.items():
        *layer, last = name.split(".")
        leaf = NAMES.get(last) or ("kernel" if value.ndim == 4 else "scale")
        tree[(COLLECTIONS[leaf], *layer, leaf)] = value.transpose(2, 3, 1, 0) if leaf == "kernel" else value
    return flax.traverse_util.unflatten_dict(tree)


def from_jax(variables: dict) -> dict:
    """The inverse of `to_jax`."""
    back = {ours: theirs for theirs, ours in NAMES.items()}
    weights = {}
    for (_, *layer, leaf), value in flax.traverse_util.flatten_dict(variables).items():
        value = np.asarray(value).transpose(3, 2, 0, 1) if leaf == "kernel" else np.asarray(value)
        weights[".".join([*layer, back.get(leaf, "weight")])] = value
    return weights
