"""DSU: the style of an image, moments of its feature maps, drawn again with the minibatch's spread of them (Li et al.
2022, arXiv 2202.03958, equations 2 to 8)."""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from rxrx_jax.adapt.method import Method, Needs, number
from rxrx_jax.adapt.mixing.mixstyle import moments, sometimes


@dataclasses.dataclass(frozen=True)
class DSU(Method):
    """With probability p, drawn once for a minibatch as in the paper's code, the mean and the standard deviation over
    positions of every image and channel after the stem get normal noise, of the standard deviation that they have over
    the images of the minibatch; gradients flow through all of it. Training only. p .5 is the paper's, which does so
    after every stage too. Unlabelled images of held-out experiments, where there are any, take part."""

    p: float = number(0.5, 0, 1)

    @property
    def needs(self):
        return Needs(stem=True)

    def forward(self, encode, images, batch):
        changed = functools.partial(drawn_styles, key=batch.key)
        return encode(images, after_stem=functools.partial(sometimes, changed, batch.key, self.p)), {}


def drawn_styles(x: jax.Array, key: jax.Array) -> jax.Array:
    """x [B, h, w, D] with moments drawn around its own."""
    mean, std = moments(x)

    def drawn(key, m):
        spread = jnp.sqrt(m.var(0, keepdims=True) + 1e-6)  # 1e-6 as in the paper's code
        return m + spread * jax.random.normal(key, m.shape, m.dtype)

    of_mean, of_std = jax.random.split(key)
    return (x - mean) / std * drawn(of_std, std) + drawn(of_mean, mean)
