"""ResNet (v1.5), DenseNet and EfficientNet-Lite in PyTorch, to compare rxrx_jax.models with.

Written for the tests from He et al. 2016 and Huang et al. 2017, with torchvision's strides, padding and layer order,
and from Tan & Le 2019 with TensorFlow's padding. Layers have the names that they have in rxrx_jax.
"""

import torch
from torch import nn
from torch.nn import functional as F


def conv(inputs, outputs, side, stride=1):
    return nn.Conv2d(inputs, outputs, side, stride, side // 2, bias=False)


class Bottleneck(nn.Module):
    def __init__(self, inputs, width, stride):
        super().__init__()
        out = 4 * width
        self.conv1, self.norm1 = conv(inputs, width, 1), nn.BatchNorm2d(width)
        self.conv2, self.norm2 = conv(width, width, 3, stride), nn.BatchNorm2d(width)
        self.conv3, self.norm3 = conv(width, out, 1), nn.BatchNorm2d(out)
        self.changes = inputs != out or stride != 1
        if self.changes:
            self.skip_conv, self.skip_norm = conv(inputs, out, 1, stride), nn.BatchNorm2d(out)

    def forward(self, x):
        y = F.relu(self.norm1(self.conv1(x)))
        y = F.relu(self.norm2(self.conv2(y)))
        y = self.norm3(self.conv3(y))
        return F.relu(y + (self.skip_norm(self.skip_conv(x)) if self.changes else x))


class ResNet(nn.Module):
    """forward(images [B, C, H, W]) -> the outputs of the stem and of each stage, by name, and "embedding"."""

    def __init__(self, channels, depths, width):
        super().__init__()
        self.depths = depths
        self.stem_conv, self.stem_norm = conv(channels, width, 7, 2), nn.BatchNorm2d(width)
        inputs = width
        for stage, depth in enumerate(depths):
            for i in range(depth):
                stride = 2 if stage > 0 and i == 0 else 1
                self.add_module(f"stage{stage + 1}_block{i + 1}", Bottleneck(inputs, width * 2**stage, stride))
                inputs = 4 * width * 2**stage

    def forward(self, images):
        x = F.max_pool2d(F.relu(self.stem_norm(self.stem_conv(images))), 3, 2, padding=1)
        found = {"stem": x}
        for stage, depth in enumerate(self.depths, 1):
            for i in range(1, depth + 1):
                x = self.get_submodule(f"stage{stage}_block{i}")(x)
            found[f"stage{stage}"] = x
        return found | {"features": x, "embedding": x.mean(dim=(2, 3))}


class Squeeze(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(inputs), conv(inputs, outputs, 1)

    def forward(self, x):
        return self.conv(F.relu(self.norm(x)))


class DenseNet(nn.Module):
    """As ResNet."""

    def __init__(self, channels, depths, growth, width):
        super().__init__()
        self.depths = depths
        self.stem_conv, self.stem_norm = conv(channels, width, 7, 2), nn.BatchNorm2d(width)
        inputs = width
        for stage, depth in enumerate(depths, 1):
            if stage > 1:
                self.add_module(f"transition{stage - 1}_norm", nn.BatchNorm2d(inputs))
                self.add_module(f"transition{stage - 1}_conv", conv(inputs, inputs // 2, 1))
                inputs //= 2
            for i in range(1, depth + 1):
                name = f"stage{stage}_layer{i}"
                self.add_module(f"{name}_squeeze", Squeeze(inputs, 4 * growth))
                self.add_module(f"{name}_norm", nn.BatchNorm2d(4 * growth))
                self.add_module(f"{name}_conv", conv(4 * growth, growth, 3))
                inputs += growth
        self.norm = nn.BatchNorm2d(inputs)

    def forward(self, images):
        layer = self.get_submodule
        x = F.max_pool2d(F.relu(self.stem_norm(self.stem_conv(images))), 3, 2, padding=1)
        found = {"stem": x}
        for stage, depth in enumerate(self.depths, 1):
            if stage > 1:
                name = f"transition{stage - 1}"
                x = F.avg_pool2d(layer(f"{name}_conv")(F.relu(layer(f"{name}_norm")(x))), 2)
            for i in range(1, depth + 1):
                name = f"stage{stage}_layer{i}"
                y = F.relu(layer(f"{name}_norm")(layer(f"{name}_squeeze")(x)))
                x = torch.cat([x, layer(f"{name}_conv")(y)], dim=1)
            found[f"stage{stage}"] = x
        x = F.relu(self.norm(x))
        return found | {"features": x, "embedding": x.mean(dim=(2, 3))}


class Same(nn.Conv2d):
    """A convolution without bias, padded as TensorFlow's "same": what is uneven comes at the end."""

    def __init__(self, inputs, outputs, side, stride=1, groups=1):
        super().__init__(inputs, outputs, side, stride, groups=groups, bias=False)

    def forward(self, x):
        (side, _), (stride, _) = self.kernel_size, self.stride
        total = [max((-(-n // stride) - 1) * stride + side - n, 0) for n in x.shape[:1:-1]]  # columns, then rows
        return super().forward(F.pad(x, [part for n in total for part in (n // 2, n - n // 2)]))


def norm(channels):
    return nn.BatchNorm2d(channels, eps=1e-3)


class InvertedResidual(nn.Module):
    def __init__(self, inputs, width, side, stride, expand):
        super().__init__()
        hidden = inputs * expand
        self.expands, self.adds = expand != 1, stride == 1 and inputs == width
        if self.expands:
            self.expand_conv, self.expand_norm = Same(inputs, hidden, 1), norm(hidden)
        self.depthwise_conv, self.depthwise_norm = Same(hidden, hidden, side, stride, hidden), norm(hidden)
        self.project_conv, self.project_norm = Same(hidden, width, 1), norm(width)

    def forward(self, x):
        y = F.relu6(self.expand_norm(self.expand_conv(x))) if self.expands else x
        y = F.relu6(self.depthwise_norm(self.depthwise_conv(y)))
        y = self.project_norm(self.project_conv(y))
        return x + y if self.adds else y


class EfficientNet(nn.Module):
    """As ResNet. stages: (blocks, side, stride, expansion, channels) of each."""

    def __init__(self, channels, stages, width, head):
        super().__init__()
        self.depths = [stage[0] for stage in stages]
        self.stem_conv, self.stem_norm = Same(channels, width, 3, 2), norm(width)
        inputs = width
        for stage, (depth, side, stride, expand, outputs) in enumerate(stages, 1):
            for i in range(1, depth + 1):
                block = InvertedResidual(inputs, outputs, side, stride if i == 1 else 1, expand)
                self.add_module(f"stage{stage}_block{i}", block)
                inputs = outputs
        self.head_conv, self.head_norm = Same(inputs, head, 1), norm(head)

    def forward(self, images):
        x = F.relu6(self.stem_norm(self.stem_conv(images)))
        found = {"stem": x}
        for stage, depth in enumerate(self.depths, 1):
            for i in range(1, depth + 1):
                x = self.get_submodule(f"stage{stage}_block{i}")(x)
            found[f"stage{stage}"] = x
        x = F.relu6(self.head_norm(self.head_conv(x)))
        return found | {"features": x, "embedding": x.mean(dim=(2, 3))}
