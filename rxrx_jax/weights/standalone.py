"""Embeds images with the encoder of this folder. Needs numpy and jax and nothing else; copy it anywhere.

from embed import load
embed = load("FOLDER")           # model.safetensors and config.json
vectors = embed(images)          # uint8 [B, H, W, C] -> float32 [B, D]
"""

import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": jnp.bfloat16,
    "I64": np.int64,
    "I32": np.int32,
}


def read_safetensors(path, prefix=""):
    """Tensors whose names start with `prefix`: 8 bytes of length, a JSON header, raw little-endian bytes."""
    with open(path, "rb") as file:
        start = 8 + int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(start - 8))
        found = {}
        for name, about in header.items():
            if name == "__metadata__" or not name.startswith(prefix):
                continue
            begin, end = about["data_offsets"]
            file.seek(start + begin)
            array = np.frombuffer(file.read(end - begin), DTYPES[about["dtype"]])
            found[name.removeprefix(prefix)] = array.reshape(about["shape"])
    return found


def load(folder):
    """Returns `embed(images, mean=None, std=None)`.

    images: uint8 [B, H, W, C], of the model's channels or of all those that it was trained on some of ("data_channels"
    in config.json), sides a multiple of the patch's, best those of `crop` in config.json. mean, std: float
    [C] or [B, C] in pixel units, to normalise with where the model was trained with statistics of each experiment or
    plate; otherwise they are in config.json or, as "image" and "image_unbiased" say, each image's own. Returns float32
    [B, D].
    """
    folder = pathlib.Path(folder)
    config = json.loads((folder / "config.json").read_text())
    params = read_safetensors(folder / "model.safetensors", "encoder/")
    params = {name: jnp.asarray(value, jnp.float32) for name, value in params.items()}
    run = jax.jit(functools.partial(encode, config["encoder"]))

    def embed(images, mean=None, std=None):
        images = np.asarray(images)
        if images.dtype != np.uint8 or images.ndim != 4:
            raise ValueError(f"images are {images.dtype} {images.shape}, expected uint8 [B, H, W, C]")
        chosen = config.get("data_channels")
        if chosen and images.shape[3] > max(chosen):
            images = images[..., chosen]
        if config["channels"] not in (None, images.shape[3]):
            raise ValueError(f"images have {images.shape[3]} channels, the model takes {config['channels']}")
        return np.asarray(run(params, normalise(images, config, mean, std)))

    return embed


def normalise(images, config, mean, std):
    """uint8 -> float32, as the model was trained."""
    x = jnp.asarray(images, jnp.float32)
    if config["normalisation"] == "image":
        x = x / 255
        return (x - x.mean((1, 2), keepdims=True)) / jnp.sqrt(x.var((1, 2), keepdims=True) + 1e-5)
    if config["normalisation"] == "image_unbiased":
        constant = x.min((1, 2), keepdims=True) == x.max((1, 2), keepdims=True)
        std = jnp.where(constant, 1, x.std((1, 2), keepdims=True, ddof=1))
        return (x - x.mean((1, 2), keepdims=True)) / std
    mean, std = config.get("mean") if mean is None else mean, config.get("std") if std is None else std
    if mean is None or std is None:
        raise ValueError(f"the model was trained with statistics of each {config['normalisation']}: pass mean and std")
    mean, std = (np.asarray(value, np.float32).reshape(-1, 1, 1, x.shape[3]) for value in (mean, std))
    return (x - mean) / (std + 1e-3)


def encode(about, params, images):
    """Normalised images float32 [B, H, W, C] -> embeddings [B, D]. about: "encoder" of config.json."""
    p, (b, height, width, channels) = about["patch"], images.shape
    h, w, first = height // p, width // p, int(about["class_token"])
    x = images.reshape(b, h, p, w, p, channels)
    if about["channel_agnostic"]:  # tokens of one channel each, channel by channel
        x = x.transpose(0, 5, 1, 3, 2, 4).reshape(b, channels * h * w, p * p)
    else:
        x = x.transpose(0, 1, 3, 2, 4, 5).reshape(b, h * w, p * p * channels)
    x = x @ params["embed/kernel"] + params["embed/bias"]
    table = params["positions"] if about["positions"] == "learned" else positions(h, w, x.shape[2], first)
    x = x + jnp.tile(table[:, first:], (1, x.shape[1] // (h * w), 1))
    if first:
        token = jnp.broadcast_to(params["class_token"] + table[:, :1], (b, 1, x.shape[2]))
        x = jnp.concatenate([token, x], axis=1)
    prefix = "blocks/block/"
    stacked = {name.removeprefix(prefix): value for name, value in params.items() if name.startswith(prefix)}
    x, _ = jax.lax.scan(lambda x, layer: (block(about, layer, x), None), x, stacked)
    if about["final_norm"]:
        x = norm(about, params, "blocks/norm", x)
    return x[:, 0] if about["pool"] == "class" else x[:, first:].mean(axis=1)


def block(about, layer, x):
    """One transformer block, serial or parallel. [B, N, D] -> [B, N, D]."""
    y = norm(about, layer, "norm1", x)
    if about["block"] == "parallel":
        return x + scaled(layer, "layer_scale1", attention(about, layer, y) + mlp(layer, y))
    x = x + scaled(layer, "layer_scale1", attention(about, layer, y))
    return x + scaled(layer, "layer_scale2", mlp(layer, norm(about, layer, "norm2", x)))


def attention(about, layer, x):
    b, n, d = x.shape
    qkv = linear(layer, "qkv", x).reshape(b, n, about["heads"], 3, d // about["heads"])
    q, k, v = jnp.moveaxis(qkv, 3, 0)  # each [B, N, heads, D/heads]
    if about["qk_norm"]:
        q, k = norm(about, layer, "q_norm", q), norm(about, layer, "k_norm", k)
    return linear(layer, "out", jax.nn.dot_product_attention(q, k, v).reshape(b, n, d))


def mlp(layer, x):
    return linear(layer, "mlp2", jax.nn.gelu(linear(layer, "mlp1", x), approximate=False))


def linear(layer, name, x):
    y = x @ layer[f"{name}/kernel"]
    return y + layer[f"{name}/bias"] if f"{name}/bias" in layer else y


def scaled(layer, name, x):
    return x * layer[f"{name}/scale"] if f"{name}/scale" in layer else x


def norm(about, params, name, x):
    x = (x - x.mean(-1, keepdims=True)) * jax.lax.rsqrt(x.var(-1, keepdims=True) + about["epsilon"])
    return x * params[f"{name}/scale"] + params[f"{name}/bias"]


def positions(h, w, width, first):
    """The fixed sine-cosine table [1, first + h*w, D]: half of D for the row, half for the column."""
    frequency = 1.0 / 10_000 ** (np.arange(width // 4) / (width // 4))
    places = np.meshgrid(np.arange(h), np.arange(w), indexing="ij")
    angles = [place.reshape(-1, 1) * frequency for place in places]
    table = np.concatenate([wave(angle) for angle in angles for wave in (np.sin, np.cos)], axis=1)
    return np.pad(table, ((first, 0), (0, 0)))[None].astype(np.float32)
