"""Domain-adversarial training by gradient reversal (Ganin et al. 2016, arXiv 1505.07818)."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import optax

from rxrx_jax.models.heads import Discriminator


@jax.custom_vjp
def reverse_gradient(x: jax.Array, scale: jax.Array) -> jax.Array:
    """The identity whose gradient with respect to x is -scale times the incoming one (equation 18)."""
    del scale
    return x


def _forward(x, scale):
    return x, scale


def _backward(scale, gradient):
    return -scale * gradient, jnp.zeros_like(scale)


reverse_gradient.defvjp(_forward, _backward)


def ramp(progress: jax.Array) -> jax.Array:
    """2 / (1 + exp(-10 p)) - 1: from 0 at the start of the run to almost 1 (the paper's schedule, section 5.2.2)."""
    return 2 / (1 + jnp.exp(-10 * progress)) - 1


@dataclasses.dataclass(frozen=True)
class Dann:
    """A discriminator reads the domain from the features; its reversed gradient, times weight * ramp(progress), teaches
    the encoder to hide it. `weight=0` is the control: the same minibatches and discriminator, no reversal.

    domain: "experiment" or "plate"; domains: their number; hidden: the discriminator's width.
    """

    domain: str
    domains: int
    weight: float
    hidden: int

    @functools.cached_property
    def discriminator(self) -> Discriminator:
        return Discriminator(self.domains, self.hidden)

    def init(self, key: jax.Array, features: jax.Array):
        return self.discriminator.init(key, features)["params"]

    def __call__(self, params, features, logits, labels, domains, masks, progress):
        del logits, labels, masks  # every image has a domain, labelled or not
        scale = self.weight * ramp(progress)
        predicted = self.discriminator.apply({"params": params}, reverse_gradient(features, scale))
        loss = optax.softmax_cross_entropy_with_integer_labels(predicted, domains).mean()
        accuracy = (predicted.argmax(-1) == domains).mean()
        return loss, {"domain_loss": loss, "domain_accuracy": accuracy, "reversal": scale}
