"""Weights of `torch_mae.MaskedAutoencoder` as numpy arrays (its state_dict) <-> parameters of rxrx_jax's."""

import numpy as np

NAMES = {"norm1": "norm1", "qkv": "qkv", "proj": "out", "norm2": "norm2", "fc1": "mlp1", "fc2": "mlp2"}


def to_jax(weights: dict) -> dict:
    """state_dict -> {"encoder": .., "embed": .., "mask_token": .., "decoder": .., "pixels": ..}."""
    return {
        "encoder": {"embed": _embed_to_jax(weights), "blocks": _transformer_to_jax(weights, "encoder")},
        "embed": _linear_to_jax(weights, "decoder_embed"),
        "mask_token": weights["mask_token"].reshape(1, 1, -1),
        "decoder": _transformer_to_jax(weights, "decoder"),
        "pixels": _linear_to_jax(weights, "decoder_pred"),
    }


def from_jax(params: dict, patch: int) -> dict:
    """The inverse of `to_jax`."""
    embed = params["encoder"]["embed"]
    kernel = np.asarray(embed["kernel"]).reshape(patch, patch, -1, embed["kernel"].shape[1])
    weights = {
        "patch_embed.weight": kernel.transpose(3, 2, 0, 1),
        "patch_embed.bias": np.asarray(embed["bias"]),
        "mask_token": np.asarray(params["mask_token"]).reshape(-1),
    }
    weights |= _linear_from_jax(params["embed"], "decoder_embed") | _linear_from_jax(params["pixels"], "decoder_pred")
    for name, part in (("encoder", params["encoder"]["blocks"]), ("decoder", params["decoder"])):
        weights |= _norm_from_jax(part["norm"], f"{name}.norm")
        depth = part["block"]["qkv"]["kernel"].shape[0]
        for i in range(depth):
            for theirs, ours in NAMES.items():
                layer = {key: np.asarray(value)[i] for key, value in part["block"][ours].items()}
                convert = _norm_from_jax if "norm" in ours else _linear_from_jax
                weights |= convert(layer, f"{name}.blocks.{i}.{theirs}")
    return weights


def _linear_to_jax(weights, name):
    return {"kernel": weights[f"{name}.weight"].T, "bias": weights[f"{name}.bias"]}


def _norm_to_jax(weights, name):
    return {"scale": weights[f"{name}.weight"], "bias": weights[f"{name}.bias"]}


def _embed_to_jax(weights):
    kernel = weights["patch_embed.weight"]  # [D, C, patch, patch]
    return {
        "kernel": kernel.transpose(2, 3, 1, 0).reshape(-1, len(kernel)),
        "bias": weights["patch_embed.bias"],
    }


def _transformer_to_jax(weights, name):
    depth = len({key.split(".")[2] for key in weights if key.startswith(f"{name}.blocks.")})
    block = {}
    for theirs, ours in NAMES.items():
        convert = _norm_to_jax if "norm" in ours else _linear_to_jax
        layers = [convert(weights, f"{name}.blocks.{i}.{theirs}") for i in range(depth)]
        block[ours] = {key: np.stack([layer[key] for layer in layers]) for key in layers[0]}
    return {"block": block, "norm": _norm_to_jax(weights, f"{name}.norm")}


def _linear_from_jax(layer, name):
    return {f"{name}.weight": np.asarray(layer["kernel"]).T, f"{name}.bias": np.asarray(layer["bias"])}


def _norm_from_jax(layer, name):
    return {f"{name}.weight": np.asarray(layer["scale"]), f"{name}.bias": np.asarray(layer["bias"])}
