"""Group DRO: the worst domain's risk, by weights that grow with each domain's loss (Sagawa et al. 2020,
arXiv 1911.08731, algorithm 1; the constant of WILDS, Koh et al. 2021, arXiv 2012.07421)."""

import dataclasses

import jax
import jax.numpy as jnp

from rxrx_jax.adapt.method import Method, Needs, mean_by_domain


@dataclasses.dataclass(frozen=True)
class GroupDRO(Method):
    """The loss is sum_g q_g * (mean loss of domain g in the minibatch), with q_g <- q_g exp(rate * that mean),
    normalised; q starts uniform over the training domains. A domain absent from a minibatch has loss 0 there."""

    rate: float = 0.01

    @property
    def needs(self):
        return Needs(domains=2, whole_minibatch=True)

    def init(self, key, features):
        trained = jnp.array(self.shares) > 0
        return {}, {"q": trained / trained.sum()}

    def loss(self, params, carry, out, progress, key):
        risks = mean_by_domain(out.losses, out.domains, out.labelled, len(self.shares))
        q = carry["q"] * jnp.exp(self.rate * jax.lax.stop_gradient(risks))
        q = q / q.sum()
        return q @ risks, {"q": q}, {"largest_weight": q.max()}
