"""Densely connected network (Huang et al. 2017, arXiv 1608.06993), DenseNet-161 unless told otherwise.

Layers, padding and initialisation are torchvision's; the stem takes any number of channels.
"""

import flax.linen as nn
import jax.numpy as jnp

from rxrx_jax.base.sharding import constrain_tokens
from rxrx_jax.models.resnet import batch_norm, convolution, stem_pool

KAIMING_FAN_IN = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
BOTTLENECK = 4  # channels between a layer's two convolutions, in units of its growth


class Squeeze(nn.Module):
    """First half of a dense layer: all that the block has made so far -> BatchNorm, ReLU, 1x1 convolution."""

    width: int
    train: bool
    momentum: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, parts, mask):
        norm = batch_norm(self.train, mask, self.momentum, self.dtype)
        y = nn.relu(norm(jnp.concatenate(parts, axis=-1), "norm"))
        return convolution(self.width, 1, 1, "conv", self.dtype, KAIMING_FAN_IN)(y)


# The backward pass recomputes the concatenations: stored, they would take memory quadratic in the number of layers
# (Pleiss et al. 2017, arXiv 1707.06990).
Squeeze = nn.remat(Squeeze)


class DenseNet(nn.Module):
    """Stem of stride 4, then dense blocks, where each layer adds `growth` channels to those of all layers before it,
    with transitions between them that halve channels, height and width.

    `__call__(images [B, H, W, C] float, train, mask [B] or None)` -> (features [B, h, w, D], {"embedding": [B, D]
    float32, the mean over positions, "stem" and "stage1", "stage2", ...: the output of the stem and of each dense
    block, [B, h, w, D]}), with h about H/32 and D 2208 for DenseNet-161. `resnet.batch_norm` says what `train` and
    `mask` do; after_stem(x [B, h, w, D]) -> the same, if given, changes the output of the stem.
    """

    depths: tuple[int, ...] = (6, 12, 36, 24)  # layers of each dense block
    growth: int = 48
    width: int = 96  # of the stem
    momentum: float = 0.9
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, images, train: bool, mask=None, after_stem=None):
        norm = batch_norm(train, mask, self.momentum, self.dtype)
        conv = lambda *args: convolution(*args, self.dtype, KAIMING_FAN_IN)  # noqa: E731
        x = conv(self.width, 7, 2, "stem_conv")(images)
        x = stem_pool(nn.relu(norm(x, "stem_norm")))
        x = after_stem(x) if after_stem else x
        found = {"stem": x}
        for stage, depth in enumerate(self.depths, 1):
            if stage > 1:
                x = conv(x.shape[-1] // 2, 1, 1, f"transition{stage - 1}_conv")(
                    nn.relu(norm(x, f"transition{stage - 1}_norm"))
                )
                x = nn.avg_pool(x, (2, 2), (2, 2))
            parts = [x]
            for i in range(1, depth + 1):
                name = f"stage{stage}_layer{i}"
                squeeze = Squeeze(BOTTLENECK * self.growth, train, self.momentum, self.dtype, name=f"{name}_squeeze")
                y = nn.relu(norm(squeeze(parts, mask), f"{name}_norm"))
                parts.append(constrain_tokens(conv(self.growth, 3, 1, f"{name}_conv")(y)))
            x = found[f"stage{stage}"] = jnp.concatenate(parts, axis=-1)
        x = nn.relu(norm(x, "norm"))
        return x, found | {"embedding": x.mean(axis=(1, 2)).astype(jnp.float32)}
