"""Vision transformers in plain PyTorch, written from the papers and not from rxrx_jax, to compare with.

Serial blocks: Dosovitskiy et al. 2021 (arXiv 2010.11929). Parallel blocks, with norms of queries and keys: Dehghani et
al. 2023 (arXiv 2302.05442), one input projection whose outputs are [mlp | q | k | v]. Images are [B, C, H, W], as
PyTorch has them. The position code of a patch is that of its row, then that of its column.
"""

import math

import torch
from torch import nn


def attention(q, k, v, heads):
    """[B, N, D], [B, M, D], [B, M, D] -> [B, N, D], one head after the other."""
    found = []
    for q_i, k_i, v_i in zip(*(x.chunk(heads, dim=-1) for x in (q, k, v))):
        weights = torch.softmax(q_i @ k_i.transpose(-2, -1) / math.sqrt(q_i.shape[-1]), dim=-1)
        found.append(weights @ v_i)
    return torch.cat(found, dim=-1)


def gelu(x):
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))  # the exact one


class HeadNorm(nn.LayerNorm):
    """A LayerNorm of each head alone, with the same weights."""

    def __init__(self, width, heads, eps):
        super().__init__(width // heads, eps=eps)
        self.heads = heads

    def forward(self, x):
        return torch.cat([super(HeadNorm, self).forward(part) for part in x.chunk(self.heads, dim=-1)], dim=-1)


class Scale(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return self.gamma * x


class SerialBlock(nn.Module):
    def __init__(self, width, mlp, heads, eps, plain):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=eps), nn.LayerNorm(width, eps=eps)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, mlp), nn.Linear(mlp, width)
        if plain:
            self.q_norm = self.k_norm = self.ls1 = self.ls2 = nn.Identity()
        else:
            self.q_norm, self.k_norm = HeadNorm(width, heads, eps), HeadNorm(width, heads, eps)
            self.ls1, self.ls2 = Scale(width), Scale(width)

    def forward(self, x):
        q, k, v = self.qkv(self.norm1(x)).chunk(3, dim=-1)
        x = x + self.ls1(self.proj(attention(self.q_norm(q), self.k_norm(k), v, self.heads)))
        return x + self.ls2(self.fc2(gelu(self.fc1(self.norm2(x)))))


class ParallelBlock(nn.Module):
    def __init__(self, width, mlp, heads, eps):
        super().__init__()
        self.heads, self.sizes = heads, (mlp, width, width, width)
        self.in_norm = nn.LayerNorm(width, eps=eps)
        self.in_proj = nn.Linear(width, mlp + 3 * width, bias=False)
        self.mlp_bias = nn.Parameter(torch.zeros(mlp))
        self.q_norm, self.k_norm = HeadNorm(width, heads, eps), HeadNorm(width, heads, eps)
        self.attn_out_proj, self.mlp_out_proj = nn.Linear(width, width), nn.Linear(mlp, width)
        self.ls = Scale(width)

    def forward(self, x):
        hidden, q, k, v = self.in_proj(self.in_norm(x)).split(self.sizes, dim=-1)
        a = self.attn_out_proj(attention(self.q_norm(q), self.k_norm(k), v, self.heads))
        return x + self.ls(a + self.mlp_out_proj(gelu(hidden + self.mlp_bias)))


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


class Vit(nn.Module):
    """size is (width, depth, mlp, heads); grid the rows and columns of patches."""

    def __init__(self, size, patch, grid, channels, block, class_token, pool, learned, final_norm, by_channel, eps):
        super().__init__()
        width, depth, mlp, heads = size
        self.grid, self.by_channel, self.pool_class = grid, by_channel, pool == "class"
        self.patch_embed = nn.Conv2d(1 if by_channel else channels, width, patch, patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width)) if class_token else None
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + grid[0] * grid[1], width)) if learned else None
        make = {
            "plain": lambda: SerialBlock(width, mlp, heads, eps, plain=True),
            "serial": lambda: SerialBlock(width, mlp, heads, eps, plain=False),
            "parallel": lambda: ParallelBlock(width, mlp, heads, eps),
        }[block]
        self.blocks = nn.ModuleList(make() for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=eps) if final_norm else nn.Identity()

    def tokens(self, images):
        """Patch tokens with their positions, those of the first channel first: [B, N, D]."""
        parts = images.split(1, dim=1) if self.by_channel else [images]
        found = []
        for part in parts:
            x = self.patch_embed(part).flatten(2).transpose(1, 2)
            if self.pos_embed is None:
                x = x + positions(*self.grid, x.shape[-1]).to(x.dtype)
            else:
                x = x + self.pos_embed[:, 1:]
            found.append(x)
        return torch.cat(found, dim=1)

    def run(self, x):
        """Patch tokens [B, N, D] -> (all tokens after the norm, outputs of the blocks)."""
        if self.cls_token is not None:
            one = self.cls_token if self.pos_embed is None else self.cls_token + self.pos_embed[:, :1]
            x = torch.cat([one.expand(len(x), -1, -1), x], dim=1)
        outputs = []
        for block in self.blocks:
            x = block(x)
            outputs.append(x)
        return self.norm(x), torch.stack(outputs)

    def pool(self, tokens):
        if self.pool_class:
            return tokens[..., 0, :]
        return tokens[..., 0 if self.cls_token is None else 1 :, :].mean(dim=-2)
