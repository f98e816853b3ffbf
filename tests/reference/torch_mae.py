"""A masked autoencoder in plain PyTorch, written from the papers and not from rxrx_jax, to compare with.

He et al. 2022 (arXiv 2111.06377), section 3 and appendix A; the blocks are those of Dosovitskiy et al. 2021
(arXiv 2010.11929). Images are [B, C, H, W], as PyTorch has them; a patch goes pixel row by pixel row, the
channel last. No class token; the position code of a patch is that of its row, then that of its column.
"""

import math

import torch
from torch import nn


class Block(nn.Module):
    def __init__(self, width, mlp, heads):
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.fc1 = nn.Linear(width, mlp)
        self.fc2 = nn.Linear(mlp, width)

    def attention(self, x):
        found = []
        for q, k, v in zip(*(part.chunk(self.heads, dim=-1) for part in self.qkv(x).chunk(3, dim=-1))):
            weights = torch.softmax(q @ k.transpose(1, 2) / math.sqrt(q.shape[-1]), dim=-1)
            found.append(weights @ v)
        return self.proj(torch.cat(found, dim=-1))

    def forward(self, x):
        x = x + self.attention(self.norm1(x))
        h = self.fc1(self.norm2(x))
        h = h * 0.5 * (1 + torch.erf(h / math.sqrt(2)))  # the exact GELU
        return x + self.fc2(h)


class Transformer(nn.Module):
    """Blocks and a last LayerNorm."""

    def __init__(self, width, depth, mlp, heads):
        super().__init__()
        self.width = width
        self.blocks = nn.ModuleList(Block(width, mlp, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


def positions(rows, columns, width):
    """[rows*columns, width]: sines then cosines of the row, then sines and cosines of the column."""
    table = torch.zeros(rows * columns, width, dtype=torch.float64)
    quarter = width // 4
    for n in range(rows * columns):
        for half, place in enumerate((n // columns, n % columns)):
            for i in range(quarter):
                angle = place / 10_000 ** (i / quarter)
                table[n, half * 2 * quarter + i] = math.sin(angle)
                table[n, half * 2 * quarter + quarter + i] = math.cos(angle)
    return table


def patches(images, patch):
    """[B, C, H, W] -> [B, N, patch*patch*C]."""
    b, _, h, w = images.shape
    cut = [
        images[:, :, y : y + patch, x : x + patch].permute(0, 2, 3, 1).reshape(b, -1)
        for y in range(0, h, patch)
        for x in range(0, w, patch)
    ]
    return torch.stack(cut, dim=1)


class MaskedAutoencoder(nn.Module):
    """encoder and decoder are (width, depth, mlp, heads)."""

    def __init__(self, encoder, decoder, patch, channels, ratio):
        super().__init__()
        self.patch, self.ratio = patch, ratio
        self.patch_embed = nn.Conv2d(channels, encoder[0], patch, patch)
        self.encoder = Transformer(*encoder)
        self.decoder_embed = nn.Linear(encoder[0], decoder[0])
        self.mask_token = nn.Parameter(torch.zeros(decoder[0]))
        self.decoder = Transformer(*decoder)
        self.decoder_pred = nn.Linear(decoder[0], patch * patch * channels)

    def tokens(self, images):
        x = self.patch_embed(images)
        rows, columns = x.shape[2:]
        return x.flatten(2).transpose(1, 2) + positions(rows, columns, x.shape[1]).to(x.dtype)

    def encode(self, images):
        """All patches: (tokens [B, N, D], embedding [B, D])."""
        x = self.encoder(self.tokens(images))
        return x, x.mean(dim=1)

    def forward(self, images, noise):
        """(prediction [B, N, P], mask [B, N], embedding of the visible tokens [B, D])."""
        tokens = self.tokens(images)
        b, n, _ = tokens.shape
        visible = [torch.argsort(noise[i])[: int(n * (1 - self.ratio))] for i in range(b)]
        encoded = self.encoder(torch.stack([tokens[i, visible[i]] for i in range(b)]))
        small = self.decoder_embed(encoded)
        mask, full = torch.ones(b, n, dtype=images.dtype), []
        for i in range(b):
            mask[i, visible[i]] = 0
            full.append(self.mask_token.expand(n, -1).index_copy(0, visible[i], small[i]))
        rows, columns = images.shape[2] // self.patch, images.shape[3] // self.patch
        x = torch.stack(full) + positions(rows, columns, small.shape[-1]).to(images.dtype)
        return self.decoder_pred(self.decoder(x)), mask, encoded.mean(dim=1)

    def loss(self, images, prediction, mask, normalise_target):
        """[B]: mean squared error of the masked patches of each image."""
        target = patches(images, self.patch)
        if normalise_target:
            variance, mean = torch.var_mean(target, dim=-1, unbiased=True, keepdim=True)
            target = (target - mean) / (variance + 1e-6) ** 0.5
        error = ((prediction - target) ** 2).mean(dim=-1)
        return (error * mask).sum(dim=1) / mask.sum(dim=1)
