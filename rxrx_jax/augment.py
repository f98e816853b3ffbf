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
    offset that each channel of each training image gets after normalisation.

    `statistics` of the methods are those of `plate_statistics`: arguments, not constants, so that one compiled step
    serves every dataset of the same shape."""

    normalisation: str
    crop: int
    flips: bool
    quarter_turns: bool
    jitter: float

    def __post_init__(self):
        if self.normalisation not in NORMALISATIONS:
            raise UserError(f"normalisation={self.normalisation!r}: expected one of {', '.join(NORMALISATIONS)}")

    def train(self, minibatch: dict, statistics: dict, key: jax.Array) -> jax.Array:
        """Random view of `minibatch["image"]`; example i of the minibatch depends on (key, i) alone."""
        images = minibatch["image"]
        b, h, w, c = images.shape
        keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(b))
        bits = jax.vmap(lambda k: jax.random.bits(k, (6,), jnp.uint32))(keys)  # [B, 6]
        if self.crop < max(h, w):
            top, left = bits[:, 0] % (h - self.crop + 1), bits[:, 1] % (w - self.crop + 1)
            images = jax.vmap(lambda x, at: jax.lax.dynamic_slice(x, (at[0], at[1], 0), (self.crop, self.crop, c)))(
                images, jnp.stack([top, left], 1).astype(jnp.int32)
            )
        pick = lambda i: (bits[:, i] & 1).astype(bool)[:, None, None, None]  # noqa: E731
        if self.quarter_turns:  # a turn is a transpose and a flip; half turns are two flips
            images = jnp.where(pick(2), images.transpose(0, 2, 1, 3)[:, ::-1], images)
            images = jnp.where(pick(3), images[:, ::-1, ::-1], images)
        if self.flips:
            images = jnp.where(pick(4), images[:, ::-1], images)
            images = jnp.where(pick(5), images[:, :, ::-1], images)
        x = self._normalise(images, minibatch, statistics)
        if self.jitter:
            # Uniform with that deviation: XLA draws normal noise again for every pixel (benchmarks/kernels.py).
            draw = lambda k: jax.random.uniform(jax.random.fold_in(k, 1), (2, 1, 1, c), minval=-1.0)  # noqa: E731
            noise = jax.vmap(draw)(keys) * (3**0.5 * self.jitter)  # [B, 2, 1, 1, C]
            x = x * (1 + noise[:, 0]) + noise[:, 1]
        return x

    def evaluation(self, minibatch: dict, statistics: dict) -> jax.Array:
        """The centre crop, normalised; deterministic."""
        images = minibatch["image"]
        _, h, w, _ = images.shape
        top, left = (h - self.crop) // 2, (w - self.crop) // 2
        return self._normalise(images[:, top : top + self.crop, left : left + self.crop], minibatch, statistics)

    def _normalise(self, images, minibatch, statistics):
        x = images.astype(jnp.float32)
        if self.normalisation == "image":
            mean = x.mean((1, 2), keepdims=True)
            std = x.std((1, 2), keepdims=True)
        else:
            mean = statistics["mean"][minibatch["plate"]][:, None, None, :]  # [B, 1, 1, C]
            std = statistics["std"][minibatch["plate"]][:, None, None, :]
        return (x - mean) / (std + EPSILON)


def plate_statistics(dataset, normalisation: str) -> dict[str, np.ndarray]:
    """What to normalise each plate's images with: {"mean", "std"}, float32 [plates, C] in pixel units, which are the
    plate's own, its experiment's or the dataset's (of the train split)."""
    sites = dataset.sites
    _, first = np.unique(sites.plate, return_index=True)  # one site of each plate
    group = {
        "dataset": np.zeros_like(sites.plate),
        "image": np.zeros_like(sites.plate),  # not used: each image has its own
        "experiment": sites.experiment,
        "plate": sites.plate,
    }[normalisation][first]
    source = "dataset" if normalisation == "image" else normalisation
    found = {"mean": dataset.mean[source][group], "std": dataset.std[source][group]}
    if normalisation != "image" and not np.isfinite(found["mean"]).all():
        raise UserError(f"normalisation={normalisation!r}: {dataset.folder} has no training site to take it from")
    return found
