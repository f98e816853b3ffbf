"""V-REx: equal risks in every domain (Krueger et al. 2021, arXiv 2003.00688)."""

import dataclasses

import jax.numpy as jnp

from rxrx_jax.adapt.penalty import LatePenalty, by_domain, mean_labelled


@dataclasses.dataclass(frozen=True)
class Vrex(LatePenalty):
    """The penalty is the biased variance of the domains' mean losses, over those with labels in the minibatch.

    Weight 10 after 500 steps are DomainBed's (Gulrajani & Lopez-Paz 2020, arXiv 2007.01434), which has weight 1, not 0,
    before them.
    """

    weight: float = 10.0

    def _penalty(self, carry, out):
        labelled = by_domain(out, out.labelled, self.groups)
        risks, known = mean_labelled(by_domain(out, out.losses, self.groups), labelled), labelled.any(-1)
        return jnp.square(risks - mean_labelled(risks, known)).sum(where=known) / jnp.maximum(known.sum(), 1), carry
