"""EfficientNet-Lite0 (Tan & Le 2019, arXiv 1905.11946; "Lite" without squeeze-and-excitation, with ReLU6, Liu 2020).

Layers, padding (TensorFlow's "same": what is uneven comes at the end) and the epsilon of BatchNorm are those of
TensorFlow's model, whose published weights `rxrx_jax/weights/efficientnet.py` reads. Its momentum is .99, for long
training.
"""

import flax.linen as nn
import jax.numpy as jnp

from rxrx_jax.base.sharding import constrain_tokens
from rxrx_jax.models.resnet import KAIMING_FAN_OUT, batch_norm

# Blocks, side of the depthwise convolution, stride of the first block, expansion, channels of each stage.
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
EPSILON = 1e-3
# Of each channel by itself, so that what it has going in is what it has going out.
KAIMING_DEPTHWISE = nn.initializers.variance_scaling(2.0, "fan_in", "normal")


class InvertedResidual(nn.Module):
    """1x1 to `expand` times the channels, depthwise side x side, 1x1 to `width`; added to x where shapes agree."""

    width: int
    side: int
    stride: int
    expand: int
    momentum: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x, train, mask):
        norm = batch_norm(train, mask, self.momentum, self.dtype, EPSILON)
        hidden, y = x.shape[-1] * self.expand, x
        if self.expand != 1:
            y = nn.relu6(norm(same(hidden, 1, 1, "expand_conv", self.dtype)(y), "expand_norm"))
        y = same(hidden, self.side, self.stride, "depthwise_conv", self.dtype, groups=hidden)(y)
        y = nn.relu6(norm(y, "depthwise_norm"))
        y = norm(same(self.width, 1, 1, "project_conv", self.dtype)(y), "project_norm")
        return constrain_tokens(x + y if x.shape == y.shape else y)


class EfficientNet(nn.Module):
    """Stem of stride 2, then stages of InvertedResidual blocks, then a 1x1 convolution to `head` channels.

    `__call__(images [B, H, W, C] float, train, mask [B] or None)` -> (features [B, h, w, D], {"embedding": [B, D]
    float32, the mean over positions, "stem" and "stage1", "stage2", ...: the output of each, [B, h, w, D]}), with h
    about H/32 and D 1280 for EfficientNet-Lite0. `resnet.batch_norm` says what `train` and `mask` do; after_stem(x
    [B, h, w, D]) -> the same, if given, changes the output of the stem.
    """

    stages: tuple[tuple[int, int, int, int, int], ...] = STAGES
    width: int = 32  # of the stem
    head: int = 1280
    momentum: float = 0.9
    dtype: jnp.dtype = jnp.float32

    @property
    def depths(self) -> tuple[int, ...]:
        """Blocks of each stage."""
        return tuple(depth for depth, *_ in self.stages)

    @nn.compact
    def __call__(self, images, train: bool, mask=None, after_stem=None):
        norm = batch_norm(train, mask, self.momentum, self.dtype, EPSILON)
        x = nn.relu6(norm(same(self.width, 3, 2, "stem_conv", self.dtype)(images), "stem_norm"))
        x = after_stem(x) if after_stem else x
        found = {"stem": x}
        for stage, (depth, side, stride, expand, width) in enumerate(self.stages, 1):
            for i in range(1, depth + 1):
                shape = width, side, stride if i == 1 else 1, expand
                block = InvertedResidual(*shape, self.momentum, self.dtype, name=f"stage{stage}_block{i}")
                x = block(x, train, mask)
            found[f"stage{stage}"] = x
        x = nn.relu6(norm(same(self.head, 1, 1, "head_conv", self.dtype)(x), "head_norm"))
        return x, found | {"embedding": x.mean(axis=(1, 2)).astype(jnp.float32)}


def same(width: int, side: int, stride: int, name: str, dtype, groups: int = 1) -> nn.Conv:
    """A square convolution without bias; an image of n pixels becomes one of ceil(n / stride)."""
    init = KAIMING_FAN_OUT if groups == 1 else KAIMING_DEPTHWISE
    options = dict(feature_group_count=groups, use_bias=False, kernel_init=init, dtype=dtype, name=name)
    return nn.Conv(width, (side, side), (stride, stride), "SAME", **options)
