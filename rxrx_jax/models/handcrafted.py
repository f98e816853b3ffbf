"""Handcrafted image statistics: the baseline that a learnt encoder must beat."""

import flax.linen as nn
import jax.numpy as jnp


class Handcrafted(nn.Module):
    """No parameters. [B, H, W, C] -> ([B, F], {"embedding": [B, F]}), F = 9*C + C*(C-1)/2.

    Per channel: mean, standard deviation, skewness, 10/50/90/99 % quantiles (of every second
    pixel each way: sorting is slow), mean absolute gradient at steps 1 and 4;
    per pair of channels: correlation.
    """

    @nn.compact
    def __call__(self, images, train: bool = False, mask=None):
        x = images.astype(jnp.float32)
        b, h, w, c = x.shape
        flat = x.reshape(b, h * w, c)
        mean, std = flat.mean(1), flat.std(1)
        z = (flat - mean[:, None]) / (std[:, None] + 1e-6)
        some = x[:, ::2, ::2].reshape(b, -1, c)
        features = [mean, std, (z**3).mean(1), *jnp.quantile(some, jnp.array([0.1, 0.5, 0.9, 0.99]), axis=1)]
        for step in (1, 4):
            down, right = jnp.abs(x[:, step:] - x[:, :-step]), jnp.abs(x[:, :, step:] - x[:, :, :-step])
            features.append(down.mean((1, 2)) + right.mean((1, 2)))
        upper = jnp.triu_indices(c, 1)
        features.append((jnp.einsum("bnc,bnd->bcd", z, z) / (h * w))[:, upper[0], upper[1]])
        embedding = jnp.concatenate(features, axis=1)
        return embedding, {"embedding": embedding}
