"""The PyTorch side of convolutional steps: the networks that the parity tests compare with, and a loss."""

import pathlib
import sys

import torch
import torch.nn.functional as F
from torch import nn

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "tests"))
from reference.peers.torch_convnets import DenseNet, ResNet  # noqa: E402

MODELS = {
    "resnet50": (ResNet, dict(depths=(3, 4, 6, 3), width=64)),
    "densenet161": (DenseNet, dict(depths=(6, 12, 36, 24), growth=48, width=96)),
}


class Convolutional(nn.Module):
    """(images [B, C, S, S], labels [B]) -> mean cross entropy."""

    def __init__(self, model, channels, classes):
        super().__init__()
        made, settings = MODELS[model]
        self.body = made(channels, **settings)
        width = self.body.eval()(torch.zeros(1, channels, 32, 32))["embedding"].shape[1]
        self.body.train()
        self.head = nn.Linear(width, classes)

    def forward(self, images, labels):
        return F.cross_entropy(self.head(self.body(images)["embedding"]), labels, label_smoothing=0.1)
