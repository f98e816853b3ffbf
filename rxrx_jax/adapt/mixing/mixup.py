"""Mixup: convex combinations of images and of their labels (Zhang et al. 2018, arXiv 1710.09412, equation 1)."""

import dataclasses

import jax
import jax.numpy as jnp

from rxrx_jax.adapt.method import Method, number


@dataclasses.dataclass(frozen=True)
class Mixup(Method):
    """Every labelled image becomes lambda times itself plus 1 - lambda times another labelled one of the minibatch, of
    whichever domain, and so does its target, lambda ~ Beta(alpha, alpha). alpha is DomainBed's; there the other image
    is one of another domain, and as in the paper's code one lambda serves a whole minibatch; here each image has
    its own. Unlabelled images stay."""

    alpha: float = number(0.2, 0.01, 100)

    def mix(self, key, images, targets, domains):
        of_lambda, of_other = jax.random.split(key)
        lam = jax.random.beta(of_lambda, self.alpha, self.alpha, (len(images),))
        other = partners(of_other, has_label(targets))
        blend = lambda x: x[other] + jnp.expand_dims(lam, range(1, x.ndim)) * (x - x[other])  # noqa: E731
        return blend(images), blend(targets)


def has_label(targets: jax.Array) -> jax.Array:
    """Which targets [B, K] favour a class: bool [B]; those of unlabelled images are the same for all classes."""
    return targets.max(-1) > targets.min(-1)


def partners(key: jax.Array, labelled: jax.Array) -> jax.Array:
    """For each of the `labelled` [B] the place of another, by a random permutation of them (which may leave some where
    they are); for the others their own place: int [B]."""
    shuffled = jnp.argsort(
        jnp.where(labelled, jax.random.uniform(key, labelled.shape), 2.0)
    )  # the others last, in order
    in_order = jnp.argsort(~labelled)
    return jnp.zeros_like(shuffled).at[in_order].set(shuffled)
