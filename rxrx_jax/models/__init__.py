"""Linen modules. An encoder maps images to (features, intermediates with "embedding" [B, D])."""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp

from rxrx_jax.base.config import Config
from rxrx_jax.base.errors import UserError
from rxrx_jax.models.convnet import ConvNet
from rxrx_jax.models.densenet import DenseNet
from rxrx_jax.models.efficientnet import EfficientNet
from rxrx_jax.models.handcrafted import Handcrafted
from rxrx_jax.models.resnet import ResNet
from rxrx_jax.models.vit import REMAT, Encoder, Style, parse_variant

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
# The values that fields of Style may take: one of some words, or a number in a range; the others are True or False.
WORDS = {"block": ("serial", "parallel"), "pool": ("mean", "class"), "positions": ("sincos", "learned")}
RANGES = {"layer_scale": (0, 1), "drop_path": (0, 0.9), "epsilon": (1e-12, 1e-2)}


def make_encoder(config: Config) -> nn.Module:
    """The module of `config.model`; its call is `(images, train=..., mask=...)`. Raises UserError for a bad value."""
    if config.name == "vit":
        size, patch = parse_variant(config.variant)
        remat = chosen("remat", config.get("remat", "none"), ("none", *REMAT))
        return Encoder(size, patch, make_style(config), remat, compute_dtype(config))
    if config.name == "convnet":
        return ConvNet(tuple(config.widths), dtype=compute_dtype(config))
    if config.name == "resnet50":
        return ResNet(dtype=compute_dtype(config))
    if config.name == "densenet161":
        return DenseNet(dtype=compute_dtype(config))
    if config.name == "efficientnet_lite0":
        return EfficientNet(dtype=compute_dtype(config))
    if config.name in ("handcrafted", "handcrafted_spatial"):
        return Handcrafted(spatial=config.name == "handcrafted_spatial")
    known = "vit, convnet, resnet50, densenet161, efficientnet_lite0, handcrafted or handcrafted_spatial"
    raise UserError(f"model.name={config.name!r}: expected {known}")


def make_style(config: Config) -> Style:
    """The fields of Style that `config.model` sets."""
    values = {f.name: config.get(f.name) for f in dataclasses.fields(Style) if f.name in config}
    for name, value in values.items():
        if name not in RANGES:
            chosen(name, value, WORDS.get(name, (True, False)))
        elif type(value) not in (int, float) or not RANGES[name][0] <= value <= RANGES[name][1]:
            raise UserError(f"model.{name}={value!r}: expected a number from {RANGES[name][0]} to {RANGES[name][1]}")
    style = Style(**values)
    if style.pool == "class" and not style.class_token:
        raise UserError("model.pool='class' needs model.class_token=True")
    return style


def chosen(name: str, value, values: tuple):
    """`value`, if it is one of `values`."""
    if type(value) is not type(values[0]) or value not in values:
        raise UserError(f"model.{name}={value!r}: expected {', '.join(map(str, values[:-1]))} or {values[-1]}")
    return value


def compute_dtype(config: Config):
    """The dtype of activations; parameters and losses stay float32."""
    return DTYPES[chosen("dtype", config.get("dtype", "float32"), tuple(DTYPES))]
