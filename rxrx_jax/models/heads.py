"""What sits on an encoder's embedding: a classifier, a domain discriminator."""

import flax.linen as nn
import jax
import jax.numpy as jnp


class Head(nn.Module):
    """Linear classifier [B, D] -> [B, classes]. With `normalise` a BatchNorm without scale and bias comes first, as in
    the linear probes of He et al. 2022 (arXiv 2111.06377, appendix A); its statistics are of the whole minibatch."""

    classes: int
    normalise: bool = False

    @nn.compact
    def __call__(self, x, train: bool, mask=None):
        if self.normalise:
            norm = nn.BatchNorm(not train, momentum=0.9, use_scale=False, use_bias=False, name="norm")
            x = norm(x, mask=None if mask is None else jnp.broadcast_to(mask[:, None].astype(bool), x.shape))
        return nn.Dense(self.classes, kernel_init=nn.initializers.normal(0.01), name="linear")(x)


class Discriminator(nn.Module):
    """Two hidden layers with ReLU and LayerNorm, [B, D] -> [B, domains] logits."""

    domains: int
    hidden: int = 128

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for i in range(2):
            x = nn.relu(nn.LayerNorm(name=f"norm{i}")(nn.Dense(self.hidden, name=f"hidden{i}")(x)))
        return nn.Dense(self.domains, name="domains")(x)
