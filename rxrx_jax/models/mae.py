"""Masked autoencoder (He et al. 2022, arXiv 2111.06377): encode the visible patches, decode all, score the masked.

Shapes: B minibatch, N patches, K kept (visible) patches, P = patch*patch*C values of a patch. With a channel-agnostic
encoder (Kraus et al. 2024, arXiv 2404.10242) a patch is of one channel: N = C*h*w, channel by channel, P = patch*patch.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from rxrx_jax.models.channel_agnostic import ChannelDecoder
from rxrx_jax.models.vit import Blocks, Encoder, Size, Style, dense, patchify, sincos_positions, token


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
    """`__call__(images [B, H, W, C], noise [B, N], train)` -> (prediction [B, N, P] float32, intermediates with "mask"
    [B, N] and the encoder's, of the visible patches).

    `decoder_style` configures its blocks. As published, the class token, if there is one, goes through the decoder
    too, unless that is channel agnostic.
    """

    size: Size
    decoder: Size
    patch: int
    mask_ratio: float
    style: Style = Style()
    decoder_style: Style = Style()
    remat: str = "none"
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, images, noise, train=False):
        (b, height, width, channels), by_channel = images.shape, self.style.channel_agnostic
        keep, restore, mask = random_mask(noise, self.mask_ratio)
        encoder = Encoder(self.size, self.patch, self.style, self.remat, self.dtype, name="encoder")
        x, intermediates = encoder(images, train, keep=keep)  # [B, (1+)K, D]
        first = int(self.style.class_token)
        if by_channel:
            x, first = x[:, first:], 0
        x = dense(self.decoder.width, "embed", self.dtype)(x)  # [B, (1+)K, D']

        one = token(self, "mask_token", (1, 1, self.decoder.width)).astype(self.dtype)
        masked = jnp.broadcast_to(one, (b, noise.shape[1] - keep.shape[1], self.decoder.width))
        patches = jnp.concatenate([x[:, first:], masked], axis=1)  # [B, N, D'], in shuffled order
        patches = jnp.take_along_axis(patches, restore[:, :, None], axis=1)
        positions = sincos_positions(height // self.patch, width // self.patch, self.decoder.width)
        patches = (patches + np.tile(positions, (noise.shape[1] // len(positions), 1))).astype(self.dtype)
        x = jnp.concatenate([x[:, :first], patches], axis=1)

        decoder = ChannelDecoder if by_channel else Blocks
        decoder = decoder(self.decoder, self.decoder_style, self.remat, self.dtype, name="decoder")
        x = decoder(x, channels, train) if by_channel else decoder(x, train)[0][:, first:]
        x = dense(self.patch**2 * (1 if by_channel else channels), "pixels", self.dtype)(x)
        return x.astype(jnp.float32), intermediates | {"mask": mask}

    def patches(self, images):
        """What it predicts, [B, H, W, C] -> [B, N, P]."""
        return patchify(images, self.patch, self.style.channel_agnostic)
