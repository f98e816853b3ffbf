"""Residual network of bottleneck blocks (He et al. 2016, arXiv 1512.03385), ResNet-50 unless told otherwise, and the
BatchNorm over true images that it shares with densenet.py and efficientnet.py.

Layers, padding and initialisation are those of torchvision's "v1.5", which strides in the 3x3 convolution. Its weights
are not: the stem takes any number of channels.
"""

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp

from rxrx_jax.base.sharding import constrain_tokens

KAIMING_FAN_OUT = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def convolution(width: int, side: int, stride: int, name: str, dtype, init=KAIMING_FAN_OUT) -> nn.Conv:
    """A square convolution without bias, padded as in PyTorch: equally on both sides, whatever the stride."""
    pad = [(side // 2, side // 2)] * 2
    return nn.Conv(width, (side, side), (stride, stride), pad, use_bias=False, kernel_init=init, dtype=dtype, name=name)


def stem_pool(x):
    """Maximum over 3x3 positions, stride 2, as PyTorch pads: [B, H, W, D] -> [B, ceil(H/2), ceil(W/2), D]."""
    return nn.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))


def batch_norm(train: bool, mask, momentum: float, dtype, epsilon: float = 1e-5) -> Callable:
    """norm(x [B, H, W, D], name): BatchNorm over the images where mask [B] is true (None: over all).

    With `train` it uses this minibatch's statistics, over all devices because under jit they are global, and moves the
    running ones to momentum * running + (1 - momentum) * minibatch. PyTorch calls 1 - momentum its momentum, and moves
    the running variance by the UNBIASED variance of the minibatch, n / (n - 1) times ours with n = B * H * W.
    """
    if mask is not None:
        mask = mask[:, None, None, None].astype(bool)

    def norm(x, name):
        module = nn.BatchNorm(not train, momentum=momentum, epsilon=epsilon, dtype=dtype, name=name)
        return module(x, mask=mask if mask is None else jnp.broadcast_to(mask, x.shape))

    return norm


class Bottleneck(nn.Module):
    """x + (1x1, 3x3, 1x1 convolutions to 4 * width channels); where shapes change, x goes through a 1x1 too."""

    width: int
    stride: int
    momentum: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x, train, mask):
        norm = batch_norm(train, mask, self.momentum, self.dtype)
        out = 4 * self.width
        y = nn.relu(norm(convolution(self.width, 1, 1, "conv1", self.dtype)(x), "norm1"))
        y = nn.relu(norm(convolution(self.width, 3, self.stride, "conv2", self.dtype)(y), "norm2"))
        y = norm(convolution(out, 1, 1, "conv3", self.dtype)(y), "norm3")
        if x.shape[-1] != out or self.stride != 1:
            x = norm(convolution(out, 1, self.stride, "skip_conv", self.dtype)(x), "skip_norm")
        return constrain_tokens(nn.relu(x + y))


class ResNet(nn.Module):
    """Stem of stride 4, then stages of Bottleneck blocks, each after the first of half the size and twice the width.

    `__call__(images [B, H, W, C] float, train, mask [B] or None)` -> (features [B, h, w, D], {"embedding": [B, D]
    float32, the mean over positions, "stem" and "stage1", "stage2", ...: the output of each, [B, h, w, D]}), with h
    about H/32 and D 2048 for ResNet-50. `batch_norm` says what `train` and `mask` do; after_stem(x [B, h, w, D]) -> the
    same, if given, changes the output of the stem.
    """

    depths: tuple[int, ...] = (3, 4, 6, 3)  # blocks of each stage
    width: int = 64  # of the stem
    momentum: float = 0.9
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, images, train: bool, mask=None, after_stem=None):
        norm = batch_norm(train, mask, self.momentum, self.dtype)
        x = convolution(self.width, 7, 2, "stem_conv", self.dtype)(images)
        x = stem_pool(nn.relu(norm(x, "stem_norm")))
        x = after_stem(x) if after_stem else x
        found = {"stem": x}
        for stage, depth in enumerate(self.depths):
            for i in range(depth):
                stride = 2 if stage > 0 and i == 0 else 1
                width, name = self.width * 2**stage, f"stage{stage + 1}_block{i + 1}"
                x = Bottleneck(width, stride, self.momentum, self.dtype, name=name)(x, train, mask)
            found[f"stage{stage + 1}"] = x
        return x, found | {"embedding": x.mean(axis=(1, 2)).astype(jnp.float32)}
