"""Handcrafted image statistics: the baselines that a learnt encoder must beat."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

LAGS = (1, 2, 4, 8, 16)  # pixels


class Handcrafted(nn.Module):
    """No parameters. [B, H, W, C] -> ([B, F], {"embedding": [B, F]}), F = 9*C + C*(C-1)/2.

    Per channel: mean, standard deviation, skewness, 10/50/90/99 % quantiles (of every second
    pixel each way: sorting is slow), mean absolute gradient at steps 1 and 4;
    per pair of channels: correlation.

    With `spatial` these are followed by how each channel is arranged and how channels lie to each other: `spectra`,
    and `lagged` of every lag of LAGS that is shorter than the image.
    """

    spatial: bool = False

    @staticmethod
    def plain(channels: int) -> int:
        """How many features there are without the spatial ones, which come after them."""
        return 9 * channels + channels * (channels - 1) // 2

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
        if self.spatial:
            z = z.reshape(x.shape)
            features += [spectra(z), *(lagged(z, lag) for lag in LAGS if lag < min(h, w))]
        embedding = jnp.concatenate(features, axis=1)
        return embedding, {"embedding": embedding}


def spectra(z: jax.Array) -> jax.Array:
    """The radial power spectra of standardised images [B, H, W, C]: the natural log of the mean power of a channel in
    each half octave of spatial frequency below 0.5 cycles per pixel, down to one cycle per image, highest first, under
    a Hann window: [B, bands * C]. Directions are averaged, and the mean of the image does not count."""
    b, h, w, c = z.shape
    window = np.outer(np.hanning(h), np.hanning(w))[..., None].astype(np.float32)
    power = jnp.abs(jnp.fft.fft2(z * (window / np.sqrt((window**2).mean())), axes=(1, 2))) ** 2 / (h * w)
    radius = np.hypot(np.fft.fftfreq(h)[:, None], np.fft.fftfreq(w))
    edges = (0.5 + 1e-6) / 2.0 ** (np.arange(2 * np.log2(min(h, w) / 2) + 1) / 2)  # no frequency lies on one
    bands = [(radius > low) & (radius <= high) for high, low in zip(edges, edges[1:])]
    shares = np.stack([band / band.sum() for band in bands if band.any()]).astype(np.float32)
    return jnp.log(jnp.einsum("bhwc,khw->bkc", power, shares) + 1e-6).reshape(b, -1)


def lagged(z: jax.Array, lag: int) -> jax.Array:
    """The correlation of each channel with itself, and with each other, `lag` pixels away, of standardised images
    [B, H, W, C]: the mean product over the four directions, [B, C*(C+1)/2]."""
    upper = np.triu_indices(z.shape[3])
    pairs = ((z[:, lag:], z[:, :-lag]), (z[:, :, lag:], z[:, :, :-lag]))
    found = sum(jnp.einsum("bhwc,bhwd->bcd", one, other) / (one.shape[1] * one.shape[2]) for one, other in pairs)
    return ((found + found.swapaxes(1, 2)) / 4)[:, upper[0], upper[1]]
