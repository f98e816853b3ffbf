"""An encoder of serial blocks as timm's VisionTransformer (https://github.com/huggingface/pytorch-image-models): its
tensors under timm's names, and the config.json from which timm makes the model. The inverse of `timm.convert`."""

import numpy as np

from rxrx_jax.base.errors import UserError
from rxrx_jax.models.vit import Encoder, sincos_positions
from rxrx_jax.weights.layout import by_head

ARCHITECTURE = "vit_base_patch16_224"  # one that timm knows; model_args set all that differs


def check(encoder: Encoder) -> None:
    """Raises UserError for an encoder that timm has no model of."""
    style = encoder.style
    for key, value, wanted in (
        ("block", style.block, "serial"),
        ("channel_agnostic", style.channel_agnostic, False),
        ("epsilon", style.epsilon, 1e-6),
    ):
        if value != wanted:
            raise UserError(f"--format=timm: timm has no ViT with model.{key}={value}; export it without --format")


def tensors(encoder: Encoder, params: dict, crop: int) -> dict[str, np.ndarray]:
    """The parameters of an encoder under timm's names, float32.

    Args: params, those of the encoder; crop, pixels along a side of the images that positions are written for.
    """
    size, style, patch, first = encoder.size, encoder.style, encoder.patch, int(encoder.style.class_token)
    kernel = params["embed"]["kernel"].reshape(patch, patch, -1, size.width)
    side = crop // patch
    code = np.pad(sincos_positions(side, side, size.width), ((first, 0), (0, 0)))[None]
    found = {
        "patch_embed.proj.weight": kernel.transpose(3, 2, 0, 1),
        "patch_embed.proj.bias": params["embed"]["bias"],
        "pos_embed": params["positions"] if style.positions == "learned" else code,
    }
    if style.class_token:
        found["cls_token"] = params["class_token"]
    if style.final_norm:
        found |= _norm("norm", params["blocks"]["norm"])
    stacked = params["blocks"]["block"]
    for i in range(size.depth):
        block = {name: {key: value[i] for key, value in part.items()} for name, part in stacked.items()}
        prefix = f"blocks.{i}."
        in_order = {key: by_head(value, heads=3, parts=size.heads) for key, value in block["qkv"].items()}
        found |= _norm(f"{prefix}norm1", block["norm1"]) | _norm(f"{prefix}norm2", block["norm2"])
        found |= _linear(f"{prefix}attn.qkv", in_order) | _linear(f"{prefix}attn.proj", block["out"])
        found |= _linear(f"{prefix}mlp.fc1", block["mlp1"]) | _linear(f"{prefix}mlp.fc2", block["mlp2"])
        if style.qk_norm:
            found |= _norm(f"{prefix}attn.q_norm", block["q_norm"]) | _norm(f"{prefix}attn.k_norm", block["k_norm"])
        if style.layer_scale:
            found |= {f"{prefix}ls{n}.gamma": block[f"layer_scale{n}"]["scale"] for n in (1, 2)}
    return {name: np.ascontiguousarray(value, np.float32) for name, value in found.items()}


def config(encoder: Encoder, about: dict) -> dict:
    """config.json as timm reads it from a folder or the hub. Args: about, that of an export."""
    size, style, crop, channels = encoder.size, encoder.style, about["crop"], about["channels"]
    pool = "token" if style.pool == "class" else "avg"
    of_dataset = about["normalisation"] == "dataset"
    model = {
        "img_size": crop,
        "patch_size": encoder.patch,
        "in_chans": channels,
        "embed_dim": size.width,
        "depth": size.depth,
        "num_heads": size.heads,
        "mlp_ratio": size.mlp / size.width,
        "qkv_bias": style.qkv_bias,
        "qk_norm": style.qk_norm,
        "init_values": style.layer_scale or None,
        "class_token": style.class_token,
        "final_norm": style.final_norm,
        "fc_norm": False,  # the embedding is the mean of normalised tokens
        "global_pool": pool,
    }
    return {
        "architecture": ARCHITECTURE,
        "num_classes": 0,
        "num_features": size.width,
        "global_pool": pool,
        "model_args": model,
        "pretrained_cfg": {
            "input_size": [channels, crop, crop],
            "fixed_input_size": True,
            # Of images on a scale of 0 to 1; where each image or plate has its own, the card says how.
            "mean": [value / 255 for value in about["mean"]] if of_dataset else [0.0] * channels,
            "std": [(value + 1e-3) / 255 for value in about["std"]] if of_dataset else [1.0] * channels,
            "num_classes": 0,
            "pool_size": None,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        },
    }


def _linear(name: str, part: dict) -> dict[str, np.ndarray]:
    return {f"{name}.weight": part["kernel"].T} | ({f"{name}.bias": part["bias"]} if "bias" in part else {})


def _norm(name: str, part: dict) -> dict[str, np.ndarray]:
    return {f"{name}.weight": part["scale"], f"{name}.bias": part["bias"]}
