"""LISA, selective augmentation: images of one perturbation in two experiments are mixed, so that what they share
is the perturbation (Yao et al. 2022, arXiv 2201.00299, intra-label LISA with CutMix, its choice for image data)."""

import dataclasses

import jax
import jax.numpy as jnp

from rxrx_jax.adapt.method import Method, Needs


@dataclasses.dataclass(frozen=True)
class Lisa(Method):
    """Each image gets a rectangle of its pair's other image (CutMix, Yun et al. 2019, arXiv 1905.04899), of a share of
    the area 1 - lambda with lambda ~ Beta(alpha, alpha). Both have one label, so targets stay. Images of a minibatch
    lie in pairs, 2i and 2i+1, whose two images share their lambda and rectangle."""

    alpha: float = 2.0

    @property
    def needs(self):
        return Needs(pairs="perturbation")

    def mix(self, key, images, targets, domains):
        pairs, (h, w) = len(images) // 2, images.shape[1:3]
        of_lambda, of_place = jax.random.split(key)
        lam = jax.random.beta(of_lambda, self.alpha, self.alpha, (pairs,))
        middle = jax.random.uniform(of_place, (2, pairs))
        inside = jnp.repeat(rectangle(lam, middle, h, w), 2, axis=0)[..., None]
        other = images.reshape(pairs, 2, *images.shape[1:])[:, ::-1].reshape(images.shape)
        return jnp.where(inside, other, images), targets


def rectangle(lam: jax.Array, middle: jax.Array, height: int, width: int) -> jax.Array:
    """CutMix's rectangles: bool [n, height, width]. Args: lam [n], the share of the area outside; middle [2, n], its
    middle as a share of height and width; where it crosses the border it is cut."""
    side = jnp.sqrt(1 - lam)

    def along(size, place):
        low = jnp.floor(place * size) - jnp.floor(side * size) // 2
        at = jnp.arange(size)
        return (at >= low[:, None]) & (at < (low + jnp.floor(side * size))[:, None])

    return along(height, middle[0])[:, :, None] & along(width, middle[1])[:, None, :]
