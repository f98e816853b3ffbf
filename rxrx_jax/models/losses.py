"""Losses of masked autoencoders, over masked patches only.

Shapes: B minibatch, N patches (channel agnostic: of all channels), P = patch*patch*C values of a patch in the order
(row, column, channel). Each returns [B] float32, one loss per image.
"""

import jax
import jax.numpy as jnp
import numpy as np


def normalise_patches(patches: jax.Array) -> jax.Array:
    """Each patch without its mean and divided by its deviation (unbiased variance + 1e-6, as published: He et al.
    2022, arXiv 2111.06377, section 3). [B, N, P] -> [B, N, P]."""
    mean = patches.mean(-1, keepdims=True)
    return (patches - mean) / jnp.sqrt(patches.var(-1, keepdims=True, ddof=1) + 1e-6)


def masked_pixel_loss(prediction: jax.Array, target: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean squared error. Args: prediction and target [B, N, P]; mask [B, N], 1 = masked."""
    error = jnp.square(prediction.astype(jnp.float32) - target).mean(-1)  # [B, N]
    return (error * mask).sum(1) / mask.sum(1)


def masked_fourier_loss(prediction: jax.Array, target: jax.Array, mask: jax.Array, patch: int) -> jax.Array:
    """Mean absolute error of the amplitudes |FFT2| of every channel of every patch (Kraus et al. 2024, arXiv
    2404.10242, section 3; FFT2 without a normalising factor). Args as of `masked_pixel_loss`."""
    # Amplitudes of (u, v) and (-u, -v) are equal: only the first half of v is there, and counts twice but for its ends.
    v = np.arange(patch // 2 + 1)
    times = np.where((v == 0) | (2 * v == patch), 1, 2).astype(np.float32)[:, None]
    error = times * jnp.abs(amplitudes(prediction, patch) - amplitudes(target, patch))
    error = error.sum((2, 3, 4)) / prediction.shape[-1]  # [B, N]
    return (error * mask).sum(1) / mask.sum(1)


def amplitudes(patches: jax.Array, patch: int) -> jax.Array:
    """|FFT2| of patches [B, N, P] -> [B, N, C, v, u], of column frequencies v in 0..patch/2 and all row frequencies u.

    By products with cosines and sines: as exact as an FFT of this length and no slower, and, unlike the FFT, split over
    devices without gathering the minibatch. The gradient at amplitude 0 is 0.
    """
    b, n, _ = patches.shape
    x = patches.astype(jnp.float32).reshape(b, n, patch, patch, -1).transpose(0, 1, 4, 2, 3)  # [B, N, C, row, column]
    half = patch // 2 + 1
    angle = 2 * np.pi / patch * (np.outer(np.arange(patch), np.arange(patch)) % patch)
    cos, sin = np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)
    x = jnp.matmul(x, np.concatenate([cos[:, :half], sin[:, :half]], 1), precision="highest")
    x = jnp.matmul(x.swapaxes(-1, -2), np.concatenate([cos, sin], 1), precision="highest")
    x = x.reshape(*x.shape[:3], 2, half, 2, patch)  # [B, N, C, (cos, sin), v, (cos, sin), u]
    real, imaginary = x[..., 0, :, 0, :] - x[..., 1, :, 1, :], x[..., 0, :, 1, :] + x[..., 1, :, 0, :]
    power = real**2 + imaginary**2
    return jnp.where(power > 0, jnp.sqrt(jnp.where(power > 0, power, 1)), 0)
