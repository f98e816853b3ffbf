"""MixStyle: the style of an image, moments of its feature maps, mixed with another's (Zhou et al. 2021, arXiv
2104.02008, equations 4 to 6, "random shuffle")."""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from rxrx_jax.adapt.method import Method, Needs, number


@dataclasses.dataclass(frozen=True)
class MixStyle(Method):
    """With probability p, drawn once for a minibatch as in the paper's code, the mean and the standard deviation over
    positions of every image and channel after the stem become lambda times its own plus 1 - lambda times those of
    another image of the minibatch, lambda ~ Beta(alpha, alpha) for each image; no gradient flows through them.
    Training only. p .5 and alpha .1 are the paper's, which mixes after the first one to three residual stages.
    Unlabelled images of held-out experiments, where there are any, give and get styles too."""

    p: float = number(0.5, 0, 1)
    alpha: float = number(0.1, 0.01, 100)

    @property
    def needs(self):
        return Needs(stem=True)

    def forward(self, encode, images, batch):
        changed = functools.partial(mixed_styles, key=batch.key, alpha=self.alpha)
        return encode(images, after_stem=functools.partial(sometimes, changed, batch.key, self.p)), {}


def mixed_styles(x: jax.Array, key: jax.Array, alpha: float) -> jax.Array:
    """x [B, h, w, D] with moments partly those of another of the B."""
    of_lambda, of_other = jax.random.split(key)
    lam = jax.random.beta(of_lambda, alpha, alpha, (len(x), 1, 1, 1))
    other = jax.random.permutation(of_other, len(x))
    mean, std = jax.lax.stop_gradient(moments(x))
    mixed = lambda m: lam * m + (1 - lam) * m[other]  # noqa: E731
    return (x - mean) / std * mixed(std) + mixed(mean)


def moments(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and standard deviation over positions: of [B, h, w, D] two of [B, 1, 1, D]. 1e-6 is added to the biased
    variance, as in the code of MixStyle and DSU, which has the unbiased one (the papers have not)."""
    return x.mean((1, 2), keepdims=True), jnp.sqrt(x.var((1, 2), keepdims=True) + 1e-6)


def sometimes(function, key: jax.Array, p: float, x: jax.Array) -> jax.Array:
    """function(x), in float32, with probability p, else x."""
    applied = jax.random.bernoulli(jax.random.fold_in(key, 2), p)
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return jnp.where(applied, function(wide).astype(x.dtype), x)
