"""The masked autoencoders that are compared with PyTorch: settings of `torch_mae`, the same in rxrx_jax, and its
weights as parameters. Needs no PyTorch."""

import numpy as np

from rxrx_jax.models.mae import MaskedAutoencoder
from rxrx_jax.models.vit import Size, Style

# Depths, widths, heads and sides all differ, so that no two can be swapped unseen.
BASE = dict(encoder=(16, 2, 24, 2), decoder=(12, 1, 20, 3), patch=4, grid=(3, 4), channels=2, ratio=0.7)
PLAIN = dict(block="plain", class_token=False, pool="mean", learned=False, final_norm=True, by_channel=False, eps=1e-6)
CLASS = PLAIN | dict(class_token=True)
CASES = {
    "plain": BASE | dict(style=PLAIN),
    "serial": BASE | dict(style=CLASS | dict(block="serial", pool="class", learned=True, eps=1e-3)),
    "parallel": BASE | dict(style=CLASS | dict(block="parallel", final_norm=False)),
    "channel_agnostic": BASE
    | dict(decoder=(16, 2, 8, 4), channels=3, grid=(2, 2))
    | dict(style=CLASS | dict(block="parallel", final_norm=False, by_channel=True)),
}


def module(case: str, **changes) -> MaskedAutoencoder:
    """The same autoencoder in rxrx_jax."""
    s = CASES[case]
    of = s["style"]
    style = Style(
        block="parallel" if of["block"] == "parallel" else "serial",
        qkv_bias=of["block"] != "parallel",
        qk_norm=of["block"] != "plain",
        layer_scale=0.0 if of["block"] == "plain" else 0.1,
        class_token=of["class_token"],
        pool=of["pool"],
        positions="learned" if of["learned"] else "sincos",
        final_norm=of["final_norm"],
        channel_agnostic=of["by_channel"],
        epsilon=of["eps"],
    )
    return MaskedAutoencoder(Size(*s["encoder"]), Size(*s["decoder"]), s["patch"], s["ratio"], style, **changes)


def to_jax(weights: dict, case: str) -> dict:
    """state_dict of `torch_mae.MaskedAutoencoder`, or gradients by the same names -> parameters of rxrx_jax."""
    settings = CASES[case]
    w = weights
    kernel = w["vit.patch_embed.weight"]  # [D, C, patch, patch]
    encoder = {
        "embed": {
            "kernel": kernel.transpose(2, 3, 1, 0).reshape(-1, len(kernel)),
            "bias": w["vit.patch_embed.bias"],
        },
        "blocks": {"block": blocks(w, "vit.blocks", settings["encoder"])},
    }
    for theirs, ours in (("vit.cls_token", "class_token"), ("vit.pos_embed", "positions")):
        encoder |= {ours: w[theirs]} if theirs in w else {}
    encoder["blocks"] |= norm(w, "vit.norm", "norm") if "vit.norm.weight" in w else {}
    return {
        "encoder": encoder,
        **linear(w, "decoder_embed", "embed"),
        "mask_token": w["mask_token"].reshape(1, 1, -1),
        "decoder": (channel_decoder if settings["style"]["by_channel"] else decoder)(w, settings),
        **linear(w, "decoder_pred", "pixels"),
    }


def decoder(w, settings):
    return {"block": blocks(w, "decoder.blocks", settings["decoder"]), **norm(w, "decoder.norm", "norm")}


def channel_decoder(w, settings):
    found = {}
    for name in ("query_norm", "context_norm", "out_norm"):
        found |= norm(w, f"decoder.{name}", name)
    for theirs, ours in {"q": "cross_q", "kv": "cross_kv", "proj": "cross_out", "fc1": "mlp1", "fc2": "mlp2"}.items():
        found |= linear(w, f"decoder.{theirs}", ours)
    found["cross_kv"] = {"kernel": by_head(found["cross_kv"]["kernel"], 2, 8)}
    channels = range(settings["channels"])
    found["channel_tokens"] = np.concatenate([w[f"decoder.modality_tokens.{c}"] for c in channels])
    found["blocks"] = {"block": stack([blocks(w, f"decoder.decoders.{c}", settings["decoder"]) for c in channels])}
    return found


def blocks(w, name, size):
    """The stacked parameters of `size`'s depth blocks."""
    _, depth, mlp, heads = size
    return stack([block(w, f"{name}.{i}", mlp, heads) for i in range(depth)])


def block(w, name, mlp, heads):
    if f"{name}.in_proj.weight" in w:
        kernel = w[f"{name}.in_proj.weight"].T  # [D, mlp + 3 D]
        found = {
            "mlp1": {"kernel": kernel[:, :mlp], "bias": w[f"{name}.mlp_bias"]},
            "qkv": {"kernel": by_head(kernel[:, mlp:], 3, heads)},
        }
        names = {"in_norm": "norm1", "attn_out_proj": "out", "mlp_out_proj": "mlp2"}
    else:
        found = linear(w, f"{name}.qkv", "qkv")
        found["qkv"] = {key: by_head(value, 3, heads) for key, value in found["qkv"].items()}
        names = {"norm1": "norm1", "proj": "out", "norm2": "norm2", "fc1": "mlp1", "fc2": "mlp2"}
    for theirs, ours in (names | {"q_norm": "q_norm", "k_norm": "k_norm"}).items():
        if f"{name}.{theirs}.weight" in w:
            found |= (norm if "norm" in ours else linear)(w, f"{name}.{theirs}", ours)
    for theirs, ours in {"ls": "layer_scale1", "ls1": "layer_scale1", "ls2": "layer_scale2"}.items():
        if f"{name}.{theirs}.gamma" in w:
            found[ours] = {"scale": w[f"{name}.{theirs}.gamma"]}
    return found


def by_head(x, parts, heads):
    """Columns in the order [part, head, D/heads] -> [head, part, D/heads]."""
    return x.reshape(*x.shape[:-1], parts, heads, -1).swapaxes(-3, -2).reshape(x.shape)


def linear(w, theirs, ours):
    bias = {"bias": w[f"{theirs}.bias"]} if f"{theirs}.bias" in w else {}
    return {ours: {"kernel": w[f"{theirs}.weight"].T} | bias}


def norm(w, theirs, ours):
    return {ours: {"scale": w[f"{theirs}.weight"], "bias": w[f"{theirs}.bias"]}}


def stack(trees):
    if isinstance(trees[0], dict):
        return {key: stack([tree[key] for tree in trees]) for key in trees[0]}
    return np.stack(trees)
