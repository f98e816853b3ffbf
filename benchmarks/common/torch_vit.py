"""The PyTorch side of step.py: a pre-norm ViT classifier and masked autoencoder with PyTorch's fused attention."""

import torch
import torch.nn.functional as F
from torch import nn


class Block(nn.Module):
    def __init__(self, width, heads, mlp):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width, 1e-6), nn.LayerNorm(width, 1e-6)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp1, self.mlp2 = nn.Linear(width, mlp), nn.Linear(mlp, width)

    def forward(self, x):
        b, n, d = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, d))
        return x + self.mlp2(F.gelu(self.mlp1(self.norm2(x))))


class Encoder(nn.Module):
    def __init__(self, size, patch, side, channels):
        super().__init__()
        self.embed = nn.Conv2d(channels, size.width, patch, patch)
        self.register_buffer("positions", torch.randn(1, (side // patch) ** 2, size.width))
        self.blocks = nn.ModuleList(Block(size.width, size.heads, size.mlp) for _ in range(size.depth))
        self.norm = nn.LayerNorm(size.width, 1e-6)

    def forward(self, images, keep=None):
        x = self.embed(images).flatten(2).transpose(1, 2) + self.positions
        if keep is not None:
            x = torch.gather(x, 1, keep[:, :, None].expand(-1, -1, x.shape[2]))
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class Supervised(nn.Module):
    """(images [B, C, S, S], labels [B]) -> mean cross entropy."""

    def __init__(self, size, patch, side, channels, classes):
        super().__init__()
        self.encoder, self.head = Encoder(size, patch, side, channels), nn.Linear(size.width, classes)

    def forward(self, images, labels):
        return F.cross_entropy(self.head(self.encoder(images).mean(1)), labels, label_smoothing=0.1)


class MaskedAutoencoder(nn.Module):
    """(images [B, C, S, S], anything) -> mean squared error over masked patches."""

    def __init__(self, size, patch, side, channels, ratio, decoder):
        super().__init__()
        width, depth, heads = decoder
        self.patch, self.ratio = patch, ratio
        self.encoder = Encoder(size, patch, side, channels)
        self.embed, self.mask_token = nn.Linear(size.width, width), nn.Parameter(torch.zeros(1, 1, width))
        self.register_buffer("positions", torch.randn(1, (side // patch) ** 2, width))
        self.blocks = nn.ModuleList(Block(width, heads, 4 * width) for _ in range(depth))
        self.norm, self.pixels = nn.LayerNorm(width, 1e-6), nn.Linear(width, patch**2 * channels)

    def forward(self, images, _):
        b, n = len(images), self.positions.shape[1]
        shuffle = torch.rand(b, n, device=images.device).argsort(1)
        restore, kept = shuffle.argsort(1), int(n * (1 - self.ratio))
        x = self.embed(self.encoder(images, shuffle[:, :kept]))
        x = torch.cat([x, self.mask_token.expand(b, n - kept, -1).to(x.dtype)], 1)
        x = torch.gather(x, 1, restore[:, :, None].expand(-1, -1, x.shape[2])) + self.positions
        for block in self.blocks:
            x = block(x)
        error = (self.pixels(self.norm(x)) - self.patchify(images)).square().mean(2)
        mask = (restore >= kept).float()
        return ((error * mask).sum(1) / mask.sum(1)).mean()

    def patchify(self, images):
        b, c, h, w = images.shape
        p = self.patch
        x = images.reshape(b, c, h // p, p, w // p, p).permute(0, 2, 4, 3, 5, 1)
        return x.reshape(b, (h // p) * (w // p), p * p * c)
