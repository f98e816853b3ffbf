"""CutMix: a rectangle of another image, and its share of the label (Yun et al. 2019, arXiv 1905.04899, equation 1)."""

import dataclasses

import jax
import jax.numpy as jnp

from rxrx_jax.adapt.method import Method, number
from rxrx_jax.adapt.mixing.mixup import has_label, partners


@dataclasses.dataclass(frozen=True)
class CutMix(Method):
    """Every labelled image gets a rectangle of another labelled one of the minibatch, of whichever domain, of a share
    1 - lambda of the area with lambda ~ Beta(alpha, alpha), and its target as much of the other's as the rectangle,
    cut at the border, covers. alpha 1 is the paper's and the RxRx1 competition's first place's. The paper's code has
    one lambda and rectangle for a whole minibatch; here each image has its own. Unlabelled images stay."""

    alpha: float = number(1.0, 0.01, 100)

    def mix(self, key, images, targets, domains):
        of_lambda, of_place, of_other = jax.random.split(key, 3)
        lam = jax.random.beta(of_lambda, self.alpha, self.alpha, (len(images),))
        middle = jax.random.uniform(of_place, (2, len(images)))
        inside = rectangle(lam, middle, *images.shape[1:3])
        other = partners(of_other, has_label(targets))
        share = inside.mean((1, 2))[:, None]  # of the other's
        mixed = jnp.where(inside[..., None], images[other], images)
        return mixed, targets + share * (targets[other] - targets)


def rectangle(lam: jax.Array, middle: jax.Array, height: int, width: int) -> jax.Array:
    """CutMix's rectangles: bool [n, height, width]. Args: lam [n], the share of the area outside; middle [2, n], its
    middle as a share of height and width; where it crosses the border it is cut."""
    side = jnp.sqrt(1 - lam)

    def along(size, place):
        low = jnp.floor(place * size) - jnp.floor(side * size) // 2
        at = jnp.arange(size)
        return (at >= low[:, None]) & (at < (low + jnp.floor(side * size))[:, None])

    return along(height, middle[0])[:, :, None] & along(width, middle[1])[:, None, :]
