"""LISA, selective augmentation: images of one perturbation in two experiments are mixed, so that what they share
is the perturbation (Yao et al. 2022, arXiv 2201.00299, intra-label LISA with CutMix, its choice for image data)."""

import dataclasses

import jax
import jax.numpy as jnp

from rxrx_jax.adapt.method import Method, Needs, number
from rxrx_jax.adapt.mixing.cutmix import rectangle
from rxrx_jax.adapt.mixing.mixup import has_label


@dataclasses.dataclass(frozen=True)
class Lisa(Method):
    """Each image gets a rectangle of its pair's other image (CutMix, Yun et al. 2019, arXiv 1905.04899), of a share of
    the area 1 - lambda with lambda ~ Beta(alpha, alpha). Both have one label, so targets stay. Images of a minibatch
    lie in pairs, 2i and 2i+1, of one perturbation and cell type in two experiments, whose two images share their
    lambda and rectangle (in the authors' code all of a minibatch do). Unlabelled images are in no pair and stay."""

    alpha: float = number(2.0, 0.01, 100)

    @property
    def needs(self):
        return Needs(pairs="perturbation")

    def mix(self, key, images, targets, domains):
        pairs, (h, w) = len(images) // 2, images.shape[1:3]
        of_lambda, of_place = jax.random.split(key)
        lam = jax.random.beta(of_lambda, self.alpha, self.alpha, (pairs,))
        middle = jax.random.uniform(of_place, (2, pairs))
        inside = jnp.repeat(rectangle(lam, middle, h, w), 2, axis=0) & has_label(targets)[:, None, None]
        other = images.reshape(pairs, 2, *images.shape[1:])[:, ::-1].reshape(images.shape)
        return jnp.where(inside[..., None], other, images), targets
