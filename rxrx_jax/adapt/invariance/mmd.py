"""MMD: equal distributions of the features in every domain, by kernels (Li et al. 2018, CVPR, "Domain generalization
with adversarial feature learning"), as DomainBed computes it (Gulrajani & Lopez-Paz 2020, arXiv 2007.01434)."""

import dataclasses

import jax
import jax.numpy as jnp

from rxrx_jax.adapt.method import Method, Needs
from rxrx_jax.adapt.penalty import features_by_domain
from rxrx_jax.data.batch import HELD_OUT

GAMMAS = (1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3)


@dataclasses.dataclass(frozen=True)
class Mmd(Method):
    """The loss is risk + weight * the mean over pairs of domains in the minibatch of their squared maximum mean
    discrepancy (biased estimate: images count with themselves), with the sum of the kernels exp(-gamma |x - y|^2),
    gamma = .001, .01 ... 1000. DomainBed's weight is 1. Held-out images, where there are any, are one domain more."""

    weight: float = 1.0

    @property
    def needs(self):
        return Needs(groups=(2, 10**6), uses=(HELD_OUT,), whole_minibatch=True)

    def loss(self, params, carry, out, progress, key):
        parts = features_by_domain(out, self.groups)
        features = jnp.concatenate(parts)
        distances = squared_distances(features)
        kernels = sum(jnp.exp(-gamma * distances) for gamma in GAMMAS)
        of = jax.scipy.linalg.block_diag(*(jnp.full((1, len(part)), 1 / len(part)) for part in parts))  # [domains, B]
        means = jnp.einsum("gi,ij,hj->gh", of, kernels, of, precision="highest")
        pairs = len(parts) * (len(parts) - 1) / 2
        penalty = (len(parts) * jnp.trace(means) - means.sum()) / pairs  # k(g, g) + k(h, h) - 2 k(g, h) of each pair
        return out.risk + self.weight * penalty, carry, {"penalty": penalty}


def squared_distances(features: jax.Array) -> jax.Array:
    """[B, D] -> [B, B], from the differences, so that close features lose no digits."""
    return jnp.square(features[:, None] - features).sum(-1)
