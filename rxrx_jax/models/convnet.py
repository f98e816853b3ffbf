"""A small convolutional network with batch normalisation, for table rows that must finish in seconds on a laptop."""

import flax.linen as nn
import jax.numpy as jnp


class ConvNet(nn.Module):
    """3x3 convolutions of stride 2, each with BatchNorm and ReLU; mean over positions.

    `__call__(images [B, H, W, C], train, mask [B] or None)` -> (features [B, h, w, D], {"embedding": [B, D]}).
    With `train` BatchNorm uses this minibatch's statistics (of the images where mask is true, over all devices:
    under jit they are global) and updates the running ones. after_stem(x [B, h, w, D]) -> the same, if given, changes
    the feature map after the first of them.
    """

    widths: tuple[int, ...] = (32, 64, 128, 192)
    momentum: float = 0.9
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, images, train: bool, mask=None, after_stem=None):
        x = images.astype(self.dtype)
        if mask is not None:
            mask = mask[:, None, None, None].astype(bool)
        for i, width in enumerate(self.widths):
            x = nn.Conv(width, (3, 3), 2, use_bias=False, dtype=self.dtype, name=f"conv{i}")(x)
            norm = nn.BatchNorm(
                use_running_average=not train, momentum=self.momentum, dtype=self.dtype, name=f"norm{i}"
            )
            x = nn.relu(norm(x, mask=mask if mask is None else jnp.broadcast_to(mask, x.shape)))
            if i == 0 and after_stem:
                x = after_stem(x)
        return x, {"embedding": x.mean(axis=(1, 2)).astype(jnp.float32)}
