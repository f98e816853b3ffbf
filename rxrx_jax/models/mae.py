"""Masked autoencoder (He et al. 2022, arXiv 2111.06377): encode the visible patches, decode all, score the masked.

Shapes: B minibatch, N patches, K kept (visible) patches, P = patch*patch*C values of a patch.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from rxrx_jax.models.vit import Blocks, Encoder, Size, dense, patchify, sincos_positions


def random_mask(noise: jax.Array, ratio: float) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Which patches stay visible: those with the smallest noise.

    Args: noise [B, N] float; ratio in (0, 1), the share that is masked.
    Returns: keep [B, K] indices of the visible patches, restore [B, N] that undoes the shuffle, mask [B, N] float
    with 1 where a patch is masked. K = int(N * (1 - ratio)) as published, at least 1 and at most N - 1.
    """
    n = noise.shape[1]
    kept = min(max(1, int(n * (1 - ratio))), n - 1)
    shuffle = jnp.argsort(noise, axis=1)
    restore = jnp.argsort(shuffle, axis=1)
    mask = (restore >= kept).astype(jnp.float32)
    return shuffle[:, :kept], restore, mask


class MaskedAutoencoder(nn.Module):
    """`__call__(images [B, H, W, C], noise [B, N])` -> (prediction [B, N, P], intermediates with "mask" [B, N] and the
    encoder's)."""

    size: Size
    decoder: Size
    patch: int
    mask_ratio: float
    remat: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, images, noise):
        keep, restore, mask = random_mask(noise, self.mask_ratio)
        encoder = Encoder(self.size, self.patch, self.remat, self.dtype, name="encoder")
        x, intermediates = encoder(images, keep=keep)  # [B, K, D]
        x = dense(self.decoder.width, "embed", self.dtype)(x)
        token = self.param("mask_token", nn.initializers.normal(0.02), (1, 1, self.decoder.width)).astype(self.dtype)
        masked = jnp.broadcast_to(token, (x.shape[0], restore.shape[1] - x.shape[1], x.shape[2]))
        x = jnp.concatenate([x, masked], axis=1)  # [B, N, D'], shuffled order
        x = jnp.take_along_axis(x, restore[:, :, None], axis=1)
        h, w = images.shape[1] // self.patch, images.shape[2] // self.patch
        x = x + sincos_positions(h, w, self.decoder.width).astype(self.dtype)
        x, _ = Blocks(self.decoder, self.remat, self.dtype, name="decoder")(x)
        x = dense(self.patch**2 * images.shape[3], "pixels", self.dtype)(x)
        return x.astype(jnp.float32), intermediates | {"mask": mask}


def masked_pixel_loss(prediction, images, mask, patch: int, normalise_target: bool) -> jax.Array:
    """Mean squared error over the masked patches only (He et al. 2022, section 3).

    Args: prediction [B, N, P]; images [B, H, W, C]; mask [B, N], 1 = masked. With `normalise_target` each target
    patch has its own mean removed and is divided by its standard deviation (unbiased variance + 1e-6, as published).
    Returns: [B] one loss an image.
    """
    target = patchify(images, patch)
    if normalise_target:
        mean = target.mean(-1, keepdims=True)
        target = (target - mean) / jnp.sqrt(target.var(-1, keepdims=True, ddof=1) + 1e-6)
    error = jnp.square(prediction - target).mean(-1)  # [B, N]
    return (error * mask).sum(1) / mask.sum(1)
