"""Domain-adversarial training by gradient reversal (Ganin et al. 2016, arXiv 1505.07818)."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import optax

from rxrx_jax.adapt.method import Method
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
class Dann(Method):
    """A discriminator reads the domain from the features; its reversed gradient, times grl_weight * ramp(progress),
    teaches the encoder to hide it. `grl_weight=0` is the control: the same minibatches and discriminator, no reversal.
    Images of every stream have a domain: held-out ones, where there are any, make it transductive.

    hidden: the discriminator's width.
    """

    grl_weight: float = 1.0
    hidden: int = 128

    def init(self, key, features):
        return self._discriminator.init(key, features)["params"], {}

    def loss(self, params, carry, out, progress, key):
        scale = self.grl_weight * ramp(progress)
        predicted = self._discriminator.apply({"params": params}, reverse_gradient(out.features, scale))
        loss = optax.softmax_cross_entropy_with_integer_labels(predicted, out.domains).mean()
        accuracy = (predicted.argmax(-1) == out.domains).mean()
        return out.risk + loss, carry, {"domain_loss": loss, "domain_accuracy": accuracy, "reversal": scale}

    @functools.cached_property
    def _discriminator(self) -> Discriminator:
        return Discriminator(len(self.shares), self.hidden)
