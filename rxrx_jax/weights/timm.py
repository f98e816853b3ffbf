"""Vision transformers of the timm library (Wightman 2019, https://github.com/huggingface/pytorch-image-models): serial
blocks, with or without biases of q, k and v, their norms, LayerScale and a class token.

What no tensor determines is as in timm: LayerNorms have epsilon 1e-6; the embedding is the class token if there is one
and a final `norm`, else the mean of the patch tokens.
"""

import jax
import numpy as np

from rxrx_jax.base.errors import UserError
from rxrx_jax.models.vit import SIZES, Encoder, Size, Style
from rxrx_jax.weights import wrappers
from rxrx_jax.weights.layout import (
    Imported,
    Tensors,
    by_head,
    heads_of,
    read_positions,
    square_side,
    stack,
    tolerance_of,
)

MARK = "blocks.0.attn.qkv.weight"
MEANS_HEAD = "head."  # the classifier of another task


def convert(path, tensors: dict[str, np.ndarray], channels: int | None, side: int | None) -> Imported:
    """The tensors of such a file as an encoder.

    Args:
      channels: if the file has another number, its patch embedding is adapted (`adapt_channels`); None = as it is.
      side: patches along a side of the images that it will see; learned positions for others are interpolated
        (`resize_positions`); None = as it is.

    Raises UserError naming a tensor that is missing, of another shape, or that no model here has (register tokens, a
    distillation token, SwiGLU); and when no tensor and no size in SIZES determines the number of heads.
    """
    source, notes = Tensors(path, tensors), []
    embed, stored, patch = source.patch_embedding("patch_embed.proj")
    width, depth = len(embed["bias"]), source.count("blocks")
    hidden = len(source.left.get("blocks.0.mlp.fc1.weight", ()))
    heads, note = _heads(source, width, depth, hidden)
    notes += note
    blocks = [serial_block(source, f"blocks.{i}.", width, heads) for i in range(depth)]
    params = {"embed": embed, "blocks": {"block": stack(source.path, blocks)}}
    if channels not in (None, stored):
        embed["kernel"] = adapt_channels(embed["kernel"], stored, channels)
        notes.append(f"the patch embedding is adapted from {stored} to {channels} channels: their mean, rescaled")

    class_token = "cls_token" in source
    if class_token:
        params["class_token"] = source.take("cls_token", 1, 1, width)
    tolerance = tolerance_of(tensors.get("pos_embed", np.zeros(0)))
    table = source.take("pos_embed", 1, None, width)
    if class_token and table.shape[1] == round(table.shape[1] ** 0.5) ** 2:  # positions of the patches alone
        table = np.pad(table, ((0, 0), (1, 0), (0, 0)))
    positions, found, there = read_positions(path, table, class_token, tolerance)
    if side not in (None, there):
        found = {name: resize_positions(table, class_token, side) for name, table in found.items()}
        notes += [f"positions are interpolated from {there}x{there} to {side}x{side} patches"] if found else []
    params |= found

    final_norm = "norm.weight" in source
    if class_token and final_norm:
        notes.append("no tensor determines the pooling: by the class token, timm's default; or pool=mean")
    if final_norm:
        params["blocks"]["norm"] = source.norm("norm", width)
    if source.drop("fc_norm."):
        notes.append("fc_norm, timm's norm of the pooled embedding, is left out: the embedding is the mean before it")
    if source.drop(MEANS_HEAD):
        notes.append("the classifier (head) is left out")
    notes += wrappers.drop_pretraining(source.left)
    source.check_all_taken()
    first = blocks[0]
    style = Style(
        qkv_bias="bias" in first["qkv"],
        qk_norm="q_norm" in first,
        layer_scale=1e-5 if "layer_scale1" in first else 0.0,
        class_token=class_token,
        pool="class" if class_token and final_norm else "mean",
        positions=positions,
        final_norm=final_norm,
    )
    encoder = Encoder(Size(width, depth, hidden, heads), patch, style)
    crop = patch * (there if side is None else side)
    return Imported(encoder, {"encoder": params}, channels or stored, crop, notes=tuple(notes))


def serial_block(source: Tensors, prefix: str, width: int, heads: int) -> dict:
    """The parameters of one block, norm1, attn, norm2 and mlp under `prefix`."""
    qkv = source.take(f"{prefix}attn.qkv.weight", 3 * width, width).T  # columns [q | k | v]
    block = {"norm1": source.norm(f"{prefix}norm1", width), "qkv": {"kernel": by_head(qkv, heads)}}
    if f"{prefix}attn.qkv.bias" in source:
        block["qkv"]["bias"] = by_head(source.take(f"{prefix}attn.qkv.bias", 3 * width), heads)
    if f"{prefix}attn.q_norm.weight" in source:
        block |= {name: source.norm(f"{prefix}attn.{name}", width // heads) for name in ("q_norm", "k_norm")}
    mlp1 = source.linear(f"{prefix}mlp.fc1", None, width)
    block |= {
        "out": source.linear(f"{prefix}attn.proj", width, width),
        "norm2": source.norm(f"{prefix}norm2", width),
        "mlp1": mlp1,
        "mlp2": source.linear(f"{prefix}mlp.fc2", width, len(mlp1["bias"])),
    }
    if f"{prefix}ls1.gamma" in source:
        block |= {f"layer_scale{i}": {"scale": source.take(f"{prefix}ls{i}.gamma", width)} for i in (1, 2)}
    return block


def _heads(source: Tensors, width: int, depth: int, hidden: int) -> tuple[int, list[str]]:
    """The number of heads, and a note if it comes from SIZES."""
    if "blocks.0.attn.q_norm.weight" in source:
        return heads_of(source.path, width, len(source.left["blocks.0.attn.q_norm.weight"])), []
    for name, size in SIZES.items():
        if (size.width, size.depth, size.mlp) == (width, depth, hidden):
            return size.heads, [f"no tensor determines the number of heads: {size.heads}, as size {name} has"]
    raise UserError(
        f"{source.path}: no tensor determines the number of heads, and none of the sizes {', '.join(SIZES)} has width "
        f"{width}, depth {depth} and MLP {hidden}"
    )


def adapt_channels(kernel: np.ndarray, stored: int, channels: int) -> np.ndarray:
    """[p*p*stored, D] -> [p*p*channels, D]: every new channel gets the mean over the stored ones times stored/channels.

    The mean is the cross-modality initialisation of Wang et al. 2016 (arXiv 1608.00859, section 3.3); with the factor,
    an image whose channels are all the same gives the same tokens as before.
    """
    mean = kernel.reshape(-1, stored, kernel.shape[1]).mean(1, keepdims=True) * (stored / channels)
    return np.repeat(mean, channels, axis=1).reshape(-1, kernel.shape[1]).astype(np.float32)


def resize_positions(table: np.ndarray, class_token: bool, side: int) -> np.ndarray:
    """Learned positions [1, (1+)N, D] of a square of patches for one of `side`x`side`: bicubic (Keys, a = -0.5) with
    antialiasing, as timm does it; that of the class token stays."""
    first = int(class_token)
    there = square_side("positions", table.shape[1] - first)
    grid = table[0, first:].reshape(there, there, -1)
    grid = jax.image.resize(grid, (side, side, grid.shape[2]), "cubic", antialias=True)
    return np.concatenate([table[:, :first], np.asarray(grid).reshape(1, side * side, -1)], axis=1)
