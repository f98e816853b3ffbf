"""Domain-adversarial training by gradient reversal (Ganin et al. 2016, arXiv 1505.07818)."""

import dataclasses
import functools
from typing import Literal

import jax
import jax.numpy as jnp
import optax

from rxrx_jax.adapt.method import Method, Needs, Outputs, number
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
    """A discriminator reads the domain from the features; its reversed gradient, times grl_weight and what `schedule`
    says, teaches the encoder to hide it. `grl_weight=0` is the control: the same minibatches and discriminator, no
    reversal. Images of every stream have a domain: held-out ones, where there are any, make it transductive.

    hidden: the discriminator's width. schedule: "ramp", the paper's; "constant", 1 (WILDS); "alternating", 1, and every
    step updates the discriminator and then, against the new one, encoder and head (DomainBed, where every other
    minibatch is the discriminator's alone). within: "cell_type", the discriminator chooses among the domains of the
    image's cell type, so that hiding the domain is not hiding the cell type. smoothing: of the environment labels,
    1 - gamma of Zhang et al. 2023 (arXiv 2302.00194): what the other domains share; 0 is none.
    """

    grl_weight: float = 1.0
    hidden: int = 128
    schedule: Literal["ramp", "constant", "alternating"] = "ramp"
    within: Literal["", "cell_type"] = ""
    smoothing: float = number(0.0, 0, 1)
    cell_types: tuple[int, ...] = ()

    @property
    def needs(self):
        return Needs(domains=2, cell_types=bool(self.within))

    def init(self, key, features):
        return self._discriminator.init(key, features)["params"], {}

    def loss(self, params, carry, out, progress, key):
        scale = self.grl_weight * (ramp(progress) if self.schedule == "ramp" else jnp.ones_like(progress, float))
        read, weights = self._read(carry, out, reverse_gradient(out.features, scale))
        predicted = self._discriminator.apply({"params": params}, read)
        allowed = jnp.ones_like(predicted, bool)
        if self.within:
            cell_types = jnp.array(self.cell_types)
            allowed = cell_types[out.domains][:, None] == cell_types
            predicted = jnp.where(allowed, predicted, -1e9)  # not -inf, whose gradients are NaN
        if self.smoothing:
            targets = smoothed(out.domains, allowed, self.smoothing)
            losses = optax.softmax_cross_entropy(predicted, targets)
        else:
            losses = optax.softmax_cross_entropy_with_integer_labels(predicted, out.domains)
        loss = (weights * losses).mean()
        accuracy = (predicted.argmax(-1) == out.domains).mean()
        return out.risk + loss, carry, {"domain_loss": loss, "domain_accuracy": accuracy, "reversal": scale}

    def update(self, differentiate, optimiser, state, minibatch):
        if self.schedule != "alternating":
            return super().update(differentiate, optimiser, state, minibatch)
        # The discriminator's step is taken twice, the first time only to see where it leads. Both are the same, but for
        # clipping, which is by the norm of all gradients and sees those of the encoder change.
        first, *_ = differentiate(state.params, state.collections, minibatch)
        ahead = optax.apply_updates(state.params, optimiser.update(first, state.opt_state, state.params)[0])
        opposed = state.params | {"domain": ahead["domain"]}

        def both(params, collections, minibatch):
            second, *rest = differentiate(opposed, collections, minibatch)
            return second | {"domain": first["domain"]}, *rest

        return super().update(both, optimiser, state, minibatch)

    def _read(self, carry: dict, out: Outputs, features: jax.Array):
        """(what the discriminator reads [B, ...], weight of each image's loss). Args: features [B, D], reversing."""
        return features, 1.0

    @functools.cached_property
    def _discriminator(self) -> Discriminator:
        return Discriminator(len(self.shares), self.hidden)


def smoothed(domains: jax.Array, allowed: jax.Array, smoothing: float) -> jax.Array:
    """Targets [B, domains]: 1 - smoothing for the image's domain, and the rest shared by the others that are `allowed`
    [B, domains]; 1 where there are none."""
    own = jax.nn.one_hot(domains, allowed.shape[1])
    others = jnp.where(own > 0, 0.0, allowed)
    count = others.sum(-1, keepdims=True)
    return jnp.where(count > 0, (1 - smoothing) * own + smoothing * others / jnp.maximum(count, 1), own)
