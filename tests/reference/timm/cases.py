"""The encoders that are compared with timm, their random parameters and images. Needs neither timm nor PyTorch."""

import hashlib

import jax
import jax.numpy as jnp
import numpy as np
from parameters import random_variables

from rxrx_jax.models.vit import Encoder, Size, Style
from rxrx_jax.weights import to_timm

SIZE, PATCH, CROP, CHANNELS = Size(12, 2, 24, 2), 4, 12, 3
STYLES = {
    "plain": Style(),
    "class": Style(class_token=True, pool="class", positions="learned", qkv_bias=False),
    "scaled": Style(qk_norm=True, layer_scale=0.1, class_token=True, final_norm=False),
}
ABOUT = {"crop": CROP, "channels": CHANNELS, "normalisation": "image"}


def encoder(name: str) -> Encoder:
    return Encoder(SIZE, PATCH, STYLES[name])


def parameters(name: str) -> dict:
    """Numpy arrays, as weights.to_timm takes them."""
    found = random_variables(encoder(name).init, jnp.zeros((1, CROP, CROP, CHANNELS)))["params"]
    return jax.tree.map(np.asarray, found)


def digest(name: str) -> str:
    """SHA-256 of the tensors that timm was given, so that what it made of them holds for those that are written now."""
    tensors = to_timm.tensors(encoder(name), parameters(name), CROP)
    content = b"".join(key.encode() + tensors[key].tobytes() for key in sorted(tensors))
    return hashlib.sha256(content).hexdigest()


def images() -> np.ndarray:
    """[2, H, W, C] float32."""
    return np.random.default_rng(0).normal(size=(2, CROP, CROP, CHANNELS)).astype(np.float32)
