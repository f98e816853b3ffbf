"""IB-ERM: features that vary no more than the classes need (Ahuja et al. 2021, arXiv 2106.06607)."""

import dataclasses

from rxrx_jax.adapt.penalty import LatePenalty, by_domain


@dataclasses.dataclass(frozen=True)
class IbErm(LatePenalty):
    """The penalty is the unbiased variance of each feature within a domain of the minibatch, averaged over features and
    domains, as DomainBed's IB_ERM has it (Gulrajani & Lopez-Paz 2020, arXiv 2007.01434), with its weight, 100 after 500
    steps."""

    weight: float = 100.0

    def _penalty(self, carry, out):
        return by_domain(out, out.features, self.groups).var(axis=1, ddof=1).mean(), carry
