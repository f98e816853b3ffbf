"""Deep CORAL: equal first and second moments of the features in every domain (Sun & Saenko 2016, arXiv 1607.01719)."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp

from rxrx_jax.adapt.method import Method, Needs
from rxrx_jax.adapt.penalty import between, features_by_domain
from rxrx_jax.data.batch import HELD_OUT


@dataclasses.dataclass(frozen=True)
class Coral(Method):
    """The loss is risk + weight * the mean over pairs of domains in the minibatch of their difference.

    form: "wilds", the mean square of the difference of means plus that of the unbiased covariances (WILDS, Koh et al.
    2021, arXiv 2012.07421, and DomainBed; WILDS' weight on RxRx1 is .1, DomainBed's 1); "sun", the paper's equation 1,
    the squared Frobenius norm of the difference of covariances / 4 D^2. Held-out images, where there are any, are one
    domain more, the paper's target domain.
    """

    weight: float = 0.1
    form: Literal["wilds", "sun"] = "wilds"

    @property
    def needs(self):
        return Needs(groups=(2, 10**6), uses=(HELD_OUT,), per_domain=2, whole_minibatch=True)

    def loss(self, params, carry, out, progress, key):
        means, covariances = zip(*(moments(part) for part in features_by_domain(out, self.groups)))
        penalty = between(jnp.stack(covariances))
        penalty = penalty / 4 if self.form == "sun" else between(jnp.stack(means)) + penalty
        return out.risk + self.weight * penalty, carry, {"penalty": penalty}


def moments(features: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(mean [D], unbiased covariance [D, D]) of features [n, D]."""
    mean = features.mean(0)
    centred = features - mean
    return mean, jnp.matmul(centred.T, centred, precision="highest") / (len(features) - 1)
