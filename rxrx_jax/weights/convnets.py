"""ResNets of bottleneck blocks and DenseNets as torchvision and timm publish them, ImageNet's among them, and
EfficientNet-Lite0 (efficientnet.py).

Both libraries call their tensors alike. torchvision's file of DenseNet-161 has the names of an early version, `norm.1`
for `norm1`, which are read too.
"""

import dataclasses
import re

import flax.linen as nn
import numpy as np

from rxrx_jax.base.errors import UserError
from rxrx_jax.models.densenet import BOTTLENECK, DenseNet
from rxrx_jax.models.resnet import ResNet
from rxrx_jax.weights import efficientnet
from rxrx_jax.weights.layout import Imported, Tensors

RESNET = "layer1.0.conv1.weight"
DENSENET = ("features.denseblock1.denselayer1.conv1.weight", "features.denseblock1.denselayer1.conv.1.weight")
MARKS = (RESNET, *DENSENET, efficientnet.MARK)
CROP = 224  # pixels of the photographs that both are trained on


def convert(path, tensors: dict[str, np.ndarray], channels: int | None) -> Imported:
    """The tensors of such a file as an encoder with its statistics; the classifier is left out.

    Args: channels, of the images that it will see: if the file has another number, its stem is repeated
    (`repeat_stem`); None = as it is.

    Raises UserError naming a tensor that is missing, of another shape, or that no model here has.
    """
    tensors = {re.sub(r"(norm|conv)\.(\d)\.", r"\1\2.", name): x for name, x in tensors.items()}
    source = Tensors(path, {name: x for name, x in tensors.items() if not name.endswith("num_batches_tracked")})
    found = Layers(source)
    kinds = {RESNET: _resnet, efficientnet.MARK: efficientnet.take}
    encoder, head = next((take for mark, take in kinds.items() if mark in source), _densenet)(found)
    notes = ["the classifier is left out"] if source.drop(head) else []
    source.check_all_taken()
    kernel = found.params["stem_conv"]["kernel"]
    stored = kernel.shape[2]
    if channels not in (None, stored):
        found.params["stem_conv"]["kernel"] = repeat_stem(kernel, channels)
        how = f"channel c has the weights of channel c mod {stored}, times {stored}/{channels}"
        how = how if channels > 1 else "the sum of their weights"
        notes.append(f"the stem is repeated from {stored} to {channels} channels: {how}, as timm's adapt_input_conv")
    params, statistics = {"encoder": found.params}, {"encoder": found.statistics}
    return Imported(encoder, params, channels or stored, CROP, notes=tuple(notes), batch_stats=statistics)


def repeat_stem(kernel: np.ndarray, channels: int) -> np.ndarray:
    """[k, k, stored, D] -> [k, k, channels, D]: the stored channels again and again, times stored/channels; one channel
    gets their sum. So an image whose channels are all the same gives the same features as before, where `channels` is 1
    or a multiple of the stored ones."""
    stored = kernel.shape[2]
    if channels == 1:
        return kernel.sum(2, keepdims=True).astype(np.float32)
    return (kernel[:, :, np.arange(channels) % stored] * (stored / channels)).astype(np.float32)


@dataclasses.dataclass
class Layers:
    """Takes layers of a file and keeps them under the names that they have here."""

    source: Tensors
    params: dict = dataclasses.field(default_factory=dict)
    statistics: dict = dataclasses.field(default_factory=dict)

    def conv(self, theirs: str, *ours: str) -> tuple[int, int]:
        """(inputs, outputs) of a convolution without bias, weight [out, in, k, k]."""
        weight = self.source.take(f"{theirs}.weight", None, None, None, None)
        _into(self.params, ours, {"kernel": weight.transpose(2, 3, 1, 0)})
        return weight.shape[1], weight.shape[0]

    def norm(self, theirs: str, width: int, *ours: str) -> None:
        """A torch.nn.BatchNorm2d."""
        _into(self.params, ours, self.source.norm(theirs, width))
        running = {name: self.source.take(f"{theirs}.running_{name}", width) for name in ("mean", "var")}
        _into(self.statistics, ours, running)


def _into(tree: dict, place: tuple[str, ...], leaf: dict) -> None:
    *parents, last = place
    for name in parents:
        tree = tree.setdefault(name, {})
    tree[last] = leaf


def _resnet(found: Layers) -> tuple[nn.Module, str]:
    _, width = found.conv("conv1", "stem_conv")
    found.norm("bn1", width, "stem_norm")
    depths = []
    while depth := found.source.count(f"layer{len(depths) + 1}"):
        depths.append(depth)
        for i in range(depth):
            theirs, ours = f"layer{len(depths)}.{i}", f"stage{len(depths)}_block{i + 1}"
            for number in (1, 2, 3):
                _, outputs = found.conv(f"{theirs}.conv{number}", ours, f"conv{number}")
                found.norm(f"{theirs}.bn{number}", outputs, ours, f"norm{number}")
            if f"{theirs}.downsample.0.weight" in found.source:
                _, outputs = found.conv(f"{theirs}.downsample.0", ours, "skip_conv")
                found.norm(f"{theirs}.downsample.1", outputs, ours, "skip_norm")
    return ResNet(tuple(depths), width), "fc."


def _densenet(found: Layers) -> tuple[nn.Module, str]:
    _, width = found.conv("features.conv0", "stem_conv")
    found.norm("features.norm0", width, "stem_norm")
    depths, inputs, growth = [], width, 0
    while depth := _layers(found.source, f"features.denseblock{len(depths) + 1}."):
        stage = len(depths) + 1
        for i in range(1, depth + 1):
            theirs, ours = f"features.denseblock{stage}.denselayer{i}", f"stage{stage}_layer{i}"
            found.norm(f"{theirs}.norm1", inputs, f"{ours}_squeeze", "norm")
            _, squeezed = found.conv(f"{theirs}.conv1", f"{ours}_squeeze", "conv")
            found.norm(f"{theirs}.norm2", squeezed, f"{ours}_norm")
            _, growth = found.conv(f"{theirs}.conv2", f"{ours}_conv")
            if squeezed != BOTTLENECK * growth:
                raise UserError(f"{found.source.path}: a dense layer squeezes to {squeezed} channels, here to "
                                f"{BOTTLENECK} times its growth, {growth}")  # fmt: skip
            inputs += growth
        depths.append(depth)
        if f"features.transition{stage}.conv.weight" in found.source:
            found.norm(f"features.transition{stage}.norm", inputs, f"transition{stage}_norm")
            _, inputs = found.conv(f"features.transition{stage}.conv", f"transition{stage}_conv")
    found.norm(f"features.norm{len(depths) + 1}", inputs, "norm")
    return DenseNet(tuple(depths), growth, width), "classifier."


def _layers(source: Tensors, prefix: str) -> int:
    """How many dense layers of a block there are."""
    return len({name[len(prefix) :].split(".")[0] for name in source.left if name.startswith(prefix)})
