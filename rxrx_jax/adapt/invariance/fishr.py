"""Fishr: equal variances of the head's gradients in every domain (Rame et al. 2022, arXiv 2109.02934)."""

import dataclasses

import jax
import jax.numpy as jnp

from rxrx_jax.adapt.method import number
from rxrx_jax.adapt.penalty import LatePenalty, by_domain


@dataclasses.dataclass(frozen=True)
class Fishr(LatePenalty):
    """For each parameter of the linear head, the variance over a domain's labelled images of the gradient of their
    losses; the penalty is the mean over parameters and domains of the squared difference to the domains' mean.

    As the authors' code (and DomainBed) has it: each domain's variances are v + ema_decay / (1 - ema_decay) * past,
    where `past` is their exponential moving average, whose gradient is not followed; weight 1000 after 1500 steps. The
    authors' minibatches hold every domain; here a domain's average moves when it is drawn, and the penalty is over
    the domains that are. The gradient of an image is features x (probabilities - target), so that nothing is computed
    per image; the averages need domains * (D + 1) * K floats.
    """

    weight: float = 1000.0
    warm_up: int = 1500
    ema_decay: float = number(0.95, 0, 0.9999)
    classes: int = 0

    def init(self, key, features):
        shape = len(self.shares), features.shape[-1] + 1, self.classes
        return {}, super().init(key, features)[1] | {"variances": jnp.zeros(shape)}

    def _penalty(self, carry, out):
        found = gradient_variances(*(by_domain(out, x, self.groups) for x in (
            out.features, jax.nn.softmax(out.logits) - out.targets, out.labelled
        )))  # fmt: skip
        domains = by_domain(out, out.domains, self.groups)[:, 0]
        past = carry["variances"][domains]
        average = self.ema_decay * past + (1 - self.ema_decay) * found
        new = carry["variances"].at[domains].set(jax.lax.stop_gradient(average))
        return (average / (1 - self.ema_decay)).var(axis=0).mean(), carry | {"variances": new}


def gradient_variances(features: jax.Array, errors: jax.Array, labelled: jax.Array) -> jax.Array:
    """The biased variance over a domain's labelled images of the gradients of kernel and, in the last row, bias.

    Args: features [domains, n, D]; errors [domains, n, K], of the losses with respect to the logits; labelled
    [domains, n]. Returns [domains, D + 1, K].
    """
    x = jnp.concatenate([features, jnp.ones_like(features[..., :1])], -1)
    errors = errors * labelled[..., None]
    mean = lambda x, d: jnp.einsum("gni,gnk->gik", x, d, precision="highest") / count  # noqa: E731
    count = jnp.maximum(labelled.sum(-1), 1)[:, None, None]
    return mean(x**2, errors**2) - mean(x, errors) ** 2
