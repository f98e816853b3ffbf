"""On device, inside the jitted step: crop, flips, quarter turns, normalisation, intensity jitter.

Images come as uint8 [B, H, W, C] and leave as float32 [B, S, S, C].
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from rxrx_jax.errors import UserError

NORMALISATIONS = ("dataset", "image", "experiment", "plate")
TRANSDUCTIVE_NORMALISATIONS = ("experiment", "plate")  # their statistics come from unlabelled held-out images too
EPSILON = 1e-3  # of a standard deviation in pixel units: a black channel stays zero


@dataclasses.dataclass(frozen=True)
class Augment:
    """normalisation: one of NORMALISATIONS; crop: side in pixels; jitter: standard deviation of the random gain and
    offset that each channel of each training image gets after normalisation; mean, std: statistics by name, float32
    [G, C] in pixel units with G = 1 (dataset), experiments or plates."""

    normalisation: str
    crop: int
    flips: bool
    quarter_turns: bool
    jitter: float
    mean: dict[str, np.ndarray]
    std: dict[str, np.ndarray]

    def __post_init__(self):
        if self.normalisation not in NORMALISATIONS:
            raise UserError(f"normalisation={self.normalisation!r}: expected one of {', '.join(NORMALISATIONS)}")

    def train(self, minibatch: dict, key: jax.Array) -> jax.Array:
        """Random view of `minibatch["image"]`; example i of the minibatch depends on (key, i) alone."""
        images = minibatch["image"]
        b, h, w, c = images.shape
        keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(b))
        bits = jax.vmap(lambda k: jax.random.bits(k, (6,), jnp.uint32))(keys)  # [B, 6]
        if self.crop < min(h, w):
            top, left = bits[:, 0] % (h - self.crop + 1), bits[:, 1] % (w - self.crop + 1)
            images = jax.vmap(lambda x, t, l: jax.lax.dynamic_slice(x, (t, l, 0), (self.crop, self.crop, c)))(
                images, top.astype(jnp.int32), left.astype(jnp.int32)
            )
        pick = lambda i: (bits[:, i] & 1).astype(bool)[:, None, None, None]  # noqa: E731
        if self.quarter_turns:  # a turn is a transpose and a flip; half turns are two flips
            images = jnp.where(pick(2), images.transpose(0, 2, 1, 3)[:, ::-1], images)
            images = jnp.where(pick(3), images[:, ::-1, ::-1], images)
        if self.flips:
            images = jnp.where(pick(4), images[:, ::-1], images)
            images = jnp.where(pick(5), images[:, :, ::-1], images)
        x = self._normalise(images, minibatch)
        if self.jitter:
            # Uniform with that deviation; XLA would draw normal noise again for every pixel of its channel (10 x the cost).
            draw = lambda k: jax.random.uniform(jax.random.fold_in(k, 1), (2, 1, 1, c), minval=-1.0)  # noqa: E731
            noise = jax.vmap(draw)(keys) * (3**0.5 * self.jitter)  # [B, 2, 1, 1, C]
            x = x * (1 + noise[:, 0]) + noise[:, 1]
        return x

    def evaluation(self, minibatch: dict) -> jax.Array:
        """The centre crop, normalised; deterministic."""
        images = minibatch["image"]
        _, h, w, _ = images.shape
        top, left = (h - self.crop) // 2, (w - self.crop) // 2
        return self._normalise(images[:, top : top + self.crop, left : left + self.crop], minibatch)

    def _normalise(self, images, minibatch):
        x = images.astype(jnp.float32)
        if self.normalisation == "image":
            mean = x.mean((1, 2), keepdims=True)
            std = x.std((1, 2), keepdims=True)
        else:
            group = jnp.zeros(len(x), jnp.int32) if self.normalisation == "dataset" else minibatch[self.normalisation]
            mean = jnp.asarray(self.mean[self.normalisation])[group][:, None, None, :]  # [B, 1, 1, C]
            std = jnp.asarray(self.std[self.normalisation])[group][:, None, None, :]
        return (x - mean) / (std + EPSILON)
