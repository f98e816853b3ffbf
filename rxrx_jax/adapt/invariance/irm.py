"""IRM: one classifier that is optimal in every domain at once (Arjovsky et al. 2019, arXiv 1907.02893, IRMv1)."""

import dataclasses

import jax
import jax.numpy as jnp

from rxrx_jax.adapt.penalty import LatePenalty, by_domain, mean_labelled


@dataclasses.dataclass(frozen=True)
class Irm(LatePenalty):
    """The penalty is the squared gradient of each domain's mean loss with respect to a scale of the logits, at 1,
    averaged over the domains; its unbiased estimate is the product of the gradients of the domain's even and odd
    images, which may be negative (appendix D there; WILDS, Koh et al. 2021, arXiv 2012.07421, and DomainBed).

    The default weight, 1, is that of WILDS on RxRx1 (100 on its other datasets and in DomainBed). Before step `warm_up`
    the penalty is off; both libraries give it weight 1 there.
    """

    def _penalty(self, carry, out):
        # d CE(s z) / ds at s = 1 is E_p[z] - target . z = CE - entropy, whatever the target.
        log_p = jax.nn.log_softmax(out.logits)
        slopes = by_domain(out, out.losses + (jnp.exp(log_p) * log_p).sum(-1), self.groups)
        labelled = by_domain(out, out.labelled, self.groups)
        even, odd = (mean_labelled(slopes[:, i::2], labelled[:, i::2]) for i in (0, 1))
        return (even * odd).mean(), carry
