"""Linen modules. An encoder maps images to (features, intermediates with "embedding" [B, D])."""

import flax.linen as nn
import jax.numpy as jnp

from rxrx_jax.config import Config
from rxrx_jax.errors import UserError
from rxrx_jax.models.convnet import ConvNet
from rxrx_jax.models.statistics import Statistics
from rxrx_jax.models.vit import Encoder, parse_variant

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def make_encoder(config: Config) -> nn.Module:
    """The module of `config.model`; its call is `(images, train=..., mask=...)`. Raises UserError for a bad value."""
    if config.name == "vit":
        size, patch = parse_variant(config.variant)
        return Encoder(size, patch, config.get("remat", False), compute_dtype(config))
    if config.name == "convnet":
        return ConvNet(tuple(config.widths), dtype=compute_dtype(config))
    if config.name == "statistics":
        return Statistics()
    raise UserError(f"model.name={config.name!r}: expected vit, convnet or statistics")


def compute_dtype(config: Config):
    """The dtype of activations; parameters and losses stay float32."""
    name = config.get("dtype", "float32")
    if name not in DTYPES:
        raise UserError(f"model.dtype={name!r}: expected {' or '.join(DTYPES)}")
    return DTYPES[name]
