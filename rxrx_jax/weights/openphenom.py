"""Published masked autoencoders of microscopy images (Kraus et al. 2024, arXiv 2404.10242) and their ViT encoders.

The channel-agnostic one is what the file of OpenPhenom-S/16 holds; the others have one patch embedding for all
channels. Every size is read from the tensors; a config beside the file is ignored. What no tensor determines is as
published: LayerNorms have epsilon 1e-6, the channel-agnostic decoder has 16 heads in its blocks and 8 across channels.
Later code of the same authors has 1e-5 in the decoder, which changes predictions a little and embeddings not at all.
"""

import numpy as np

from rxrx_jax.base.errors import UserError
from rxrx_jax.models.vit import Encoder, Size, Style, sincos_positions
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
from rxrx_jax.weights.timm import serial_block

MARK, BACKBONE = "blocks.0.in_proj.weight", "encoder.vit_backbone."  # only these files have the first
DECODER_HEADS, CROSS_HEADS = 16, 8


def convert(path, tensors: dict[str, np.ndarray]) -> Imported:
    """The tensors of such a file as an encoder and, if it is channel agnostic and has one, a decoder.

    Args: tensors, by their names in a whole masked autoencoder (BACKBONE and MARK) or in an encoder alone.
    Raises UserError naming a tensor that is missing, of another shape or left over.
    """
    prefix = BACKBONE if f"{BACKBONE}{MARK}" in tensors else ""
    source = Tensors(path, tensors)
    embed, channels, patch = source.patch_embedding(f"{prefix}patch_embed.proj")
    width = len(embed["bias"])
    agnostic = channels == 1

    blocks, mlp, head, details = _blocks(source, prefix, width)
    size = Size(width=width, depth=len(blocks), mlp=mlp, heads=heads_of(path, width, head))
    params = {"embed": embed, "blocks": {"block": stack(source.path, blocks)}}
    class_token = f"{prefix}cls_token" in source
    if class_token:
        params["class_token"] = source.take(f"{prefix}cls_token", 1, 1, width)
    tolerance = tolerance_of(tensors.get(f"{prefix}pos_embed", np.zeros(0)))
    table = source.take(f"{prefix}pos_embed", 1, None, width)
    if agnostic:
        table = _of_one_channel(path, table, class_token, tolerance)
    positions, found, side = read_positions(path, table, class_token, tolerance)
    params |= found
    notes = [] if positions == "sincos" else ["the stored positions are not the sine-cosine code: kept as learned ones"]

    final_norm = f"{prefix}norm.weight" in source
    if final_norm:
        params["blocks"]["norm"] = source.norm(f"{prefix}norm", width)
    if source.drop(f"{prefix}fc_norm."):
        notes.append("fc_norm is left out: the published embedding is the mean of the patch tokens as they are")
    style = Style(
        block="parallel",
        class_token=class_token,
        pool="class" if final_norm and class_token else "mean",
        positions=positions,
        final_norm=final_norm,
        channel_agnostic=agnostic,
        **details,
    )
    imported = Imported(Encoder(size, patch, style), {"encoder": params}, None if agnostic else channels, patch * side)
    return _with_decoder(imported, source, notes)


def _blocks(source: Tensors, prefix: str, width: int) -> tuple[list[dict], int, int, dict]:
    """(parameters of each block, hidden width of the MLP, width of a head, the fields of Style that they determine)."""
    first = f"{prefix}blocks.0."
    qkv_bias, scaled = f"{first}in_proj.bias" in source, f"{first}ls.gamma" in source
    if f"{first}q_norm.weight" not in source:
        raise UserError(f"{source.path} has no tensor '{first}q_norm.weight', which alone sets the number of heads")
    head = len(source.left[f"{first}q_norm.weight"])
    heads = heads_of(source.path, width, head)
    blocks, mlp = [], 0
    for i in range(source.count(f"{prefix}blocks")):
        name = f"{prefix}blocks.{i}"
        mlp2 = source.linear(f"{name}.mlp_out_proj", width, mlp or None)
        mlp = len(mlp2["kernel"])
        fused = source.take(f"{name}.in_proj.weight", mlp + 3 * width, width).T  # columns [mlp | q | k | v]
        mlp1, qkv = {"kernel": fused[:, :mlp]}, {"kernel": by_head(fused[:, mlp:], heads)}
        if qkv_bias:
            bias = source.take(f"{name}.in_proj.bias", mlp + 3 * width)
            mlp1["bias"], qkv["bias"] = bias[:mlp], by_head(bias[mlp:], heads)
        else:
            mlp1["bias"] = source.take(f"{name}.mlp_bias", mlp)
        block = {
            "norm1": source.norm(f"{name}.in_norm", width),
            "qkv": qkv,
            "q_norm": source.norm(f"{name}.q_norm", head),
            "k_norm": source.norm(f"{name}.k_norm", head),
            "out": source.linear(f"{name}.attn_out_proj", width, width),
            "mlp1": mlp1,
            "mlp2": mlp2,
        }
        if scaled:
            block["layer_scale1"] = {"scale": source.take(f"{name}.ls.gamma", width)}
        blocks.append(block)
    return blocks, mlp, head, dict(qkv_bias=qkv_bias, qk_norm=True, layer_scale=1e-4 if scaled else 0.0)


def _of_one_channel(path, table: np.ndarray, class_token: bool, tolerance: float) -> np.ndarray:
    """The table [1, (1+)C*N, D] of a channel-agnostic model holds the same N rows for each channel: [1, (1+)N, D]."""
    first = int(class_token)
    rows = table[0, first:]
    for side in range(1, len(rows)):
        n = side * side
        if len(rows) % n == 0 and np.abs(rows.reshape(-1, n, rows.shape[1]) - rows[:n]).max() <= tolerance:
            return table[:, : first + n]
    raise UserError(f"{path}: pos_embed differs from channel to channel, which no model here does")


def _with_decoder(imported: Imported, source: Tensors, notes: list[str]) -> Imported:
    """Adds the decoder of a channel-agnostic file; what else is left is an error."""
    decoder, params = None, imported.params
    if imported.encoder.style.channel_agnostic and "decoder_pred.weight" in source:
        decoder, found = _decoder(imported, source)
        params = params | found
        notes.append(f"no tensor sets the decoder's heads: {DECODER_HEADS} and {CROSS_HEADS} (cross), as published")
    else:
        notes += wrappers.drop_pretraining(source.left, "encoder_decoder_proj.")
    source.check_all_taken()
    return Imported(imported.encoder, params, imported.channels, imported.crop, "image", decoder, tuple(notes))


def _decoder(imported: Imported, source: Tensors) -> tuple[tuple[int, int, int], dict]:
    """((width, depth, heads), parameters of models.mae.MaskedAutoencoder beside the encoder's)."""
    embed = source.linear("encoder_decoder_proj", None, imported.encoder.size.width)
    width, channels = len(embed["bias"]), source.count("decoder.modality_tokens")
    mask_token = source.take("decoder.mask_token", 1, 1, width)
    source.drop("decoder.placeholder")  # zeros that nothing trains
    _check_positions(imported, source, width, channels)
    mlp1 = source.linear("decoder.mlp.fc1", None, width)
    cross_kv = source.take("decoder.cross_attention.kv.weight", 2 * width, width).T  # columns [k | v]
    depth = source.count("decoder.decoders.0")
    blocks = [
        stack(
            source.path,
            [serial_block(source, f"decoder.decoders.{channel}.{i}.", width, DECODER_HEADS) for i in range(depth)],
        )
        for channel in range(channels)
    ]
    decoder = {
        "channel_tokens": np.concatenate(
            [source.take(f"decoder.modality_tokens.{i}", 1, 1, width) for i in range(channels)]
        ),
        "query_norm": source.norm("decoder.query_norm", width),
        "context_norm": source.norm("decoder.context_norm", width),
        "out_norm": source.norm("decoder.out_norm", width),
        "cross_q": source.linear("decoder.cross_attention.q", width, width, bias=False),
        "cross_kv": {"kernel": by_head(cross_kv, CROSS_HEADS, parts=2)},
        "cross_out": source.linear("decoder.cross_attention.proj", width, width),
        "mlp1": mlp1,
        "mlp2": source.linear("decoder.mlp.fc2", width, len(mlp1["bias"])),
        "blocks": {"block": stack(source.path, blocks)},
    }
    pixels = source.linear("decoder_pred", imported.encoder.patch**2, width)
    found = {"embed": embed, "mask_token": mask_token, "decoder": decoder, "pixels": pixels}
    return (width, depth, DECODER_HEADS), found


def _check_positions(imported: Imported, source: Tensors, width: int, channels: int) -> None:
    stored = source.left.get("decoder.pos_embeddings", np.zeros(0))
    table = source.take("decoder.pos_embeddings", 1, None, width)[0, 1:]
    side = square_side(source.path, len(table) // max(channels, 1))
    code = np.tile(sincos_positions(side, side, width), (channels, 1))
    if len(code) != len(table) or np.abs(table - code).max() > tolerance_of(stored):
        raise UserError(f"{source.path}: decoder.pos_embeddings is not the sine-cosine code, which decoders here have")
