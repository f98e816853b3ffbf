"""FixMatch: confident predictions on weak views of unlabelled held-out images are the labels of strong ones (Sohn et
al. 2020, arXiv 2001.07685, equation 4; weight and threshold of WILDS 2.0, Sagawa et al. 2022, arXiv 2112.05090).
Transductive."""

import dataclasses

import jax
import jax.numpy as jnp
import optax

from rxrx_jax.adapt.method import Encoded, Method, Needs, number
from rxrx_jax.adapt.mixing.cutmix import rectangle
from rxrx_jax.data.batch import HELD_OUT


@dataclasses.dataclass(frozen=True)
class FixMatch(Method):
    """The loss gains weight times the mean over the held-out images of the cross-entropy of the strong view's
    prediction with the weak view's class, where that has a probability of at least tau (the paper's is .95); else 0.
    All views go through the network as one minibatch. The weak view is the run's own; the strong one is another of
    these, whose channels get a random gain and offset up to `strength` standard deviations and which loses a square of
    half its side: for channels that are stains, in place of RandAugment's operations on photographs."""

    weight: float = 1.0
    tau: float = number(0.7, 0, 1)
    strength: float = 0.5

    @property
    def needs(self):
        return Needs(streams=(HELD_OUT,), views=2, transductive=True)

    def forward(self, encode, images, batch):
        strong = strong_views(batch.key, batch.of(HELD_OUT, batch.views[1]), self.strength)
        features, logits, stats = encode(jnp.concatenate([images, strong]))
        n = len(images)
        return Encoded(features[:n], logits[:n], stats), {"strong": logits[n:]}

    def loss(self, params, carry, out, progress, key):
        weak = jax.nn.softmax(out.batch.of(HELD_OUT, out.logits))
        confident = weak.max(-1) >= self.tau
        each = optax.softmax_cross_entropy_with_integer_labels(out.extra["strong"], weak.argmax(-1))  # no gradient
        consistency = (confident * each).mean()
        metrics = {"consistency": consistency, "confident": confident.mean()}
        return out.risk + self.weight * consistency, carry, metrics


def strong_views(key: jax.Array, views: jax.Array, strength: float) -> jax.Array:
    """Normalised images [n, S, S, C] with gains 1 + u and offsets u', u and u' uniform within `strength` for each image
    and channel, and 0, the mean, in a square of half the side anywhere, cut at the border (Cutout, DeVries & Taylor
    2017, arXiv 1708.04552)."""
    of_intensity, of_place = jax.random.split(key)
    n, *side, channels = views.shape
    gain, offset = jax.random.uniform(of_intensity, (2, n, 1, 1, channels), minval=-strength, maxval=strength)
    hole = rectangle(jnp.full(n, 0.75), jax.random.uniform(of_place, (2, n)), *side)
    return jnp.where(hole[..., None], 0, views * (1 + gain) + offset)
