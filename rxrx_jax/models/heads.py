"""Heads on an encoder's embedding: a classifier, a domain discriminator, a projection."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp


class Head(nn.Module):
    """Linear classifier [B, D] -> [B, classes]. With `normalise` a BatchNorm without scale and bias comes first, as in
    the linear probes of He et al. 2022 (arXiv 2111.06377, appendix A); its statistics are of the whole minibatch. Given
    a context [B, d], the classifier is linear in (x, context)."""

    classes: int
    normalise: bool = False

    @nn.compact
    def __call__(self, x, train: bool, mask=None, context=None):
        if self.normalise:
            norm = nn.BatchNorm(not train, momentum=0.9, use_scale=False, use_bias=False, name="norm")
            x = norm(x, mask=None if mask is None else jnp.broadcast_to(mask[:, None].astype(bool), x.shape))
        dense = functools.partial(nn.Dense, self.classes, kernel_init=nn.initializers.normal(0.01))
        logits = dense(name="linear")(x)
        return logits if context is None else logits + dense(use_bias=False, name="context")(context)


class Discriminator(nn.Module):
    """Two hidden layers with ReLU and LayerNorm, [B, D] -> [B, domains] logits."""

    domains: int
    hidden: int = 128

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for i in range(2):
            x = nn.relu(nn.LayerNorm(name=f"norm{i}")(nn.Dense(self.hidden, name=f"hidden{i}")(x)))
        return nn.Dense(self.domains, name="domains")(x)


class Projection(nn.Module):
    """The head of DINO (Caron et al. 2021, arXiv 2104.14294, section 3.2 and appendix C): [B, D] -> [B, prototypes]
    float32, cosines in [-1, 1].

    A three-layer MLP with GELU, L2 normalisation of its output, and a last layer without bias whose weights are
    normalised for each prototype, with their length held at 1 (`norm_last_layer` there).
    """

    hidden: int
    bottleneck: int
    prototypes: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        init = nn.initializers.truncated_normal(0.02)
        for i in range(2):
            x = nn.gelu(nn.Dense(self.hidden, kernel_init=init, name=f"hidden{i}")(x), approximate=False)
        x = unit(nn.Dense(self.bottleneck, kernel_init=init, name="bottleneck")(x), axis=1)
        init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")  # PyTorch's for a linear layer
        return x @ unit(self.param("kernel", init, (self.bottleneck, self.prototypes)), axis=0)


def unit(x: jax.Array, axis: int) -> jax.Array:
    """x with vectors of length 1 along `axis`; a zero vector stays zero and its gradient finite."""
    return x * jax.lax.rsqrt(jnp.maximum((x**2).sum(axis, keepdims=True), 1e-24))
