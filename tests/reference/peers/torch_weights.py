"""Models whose tensors have published names, in plain PyTorch, written from the papers and not from rxrx_jax.

`ChannelAgnostic`: the masked autoencoder of Kraus et al. 2024 (arXiv 2404.10242) with parallel blocks (Dehghani et al.
2023, arXiv 2302.05442); `Vit`: the serial ViT of Dosovitskiy et al. 2021 (arXiv 2010.11929) as timm names it.
Images are [B, C, H, W].
"""

import math

import torch
from reference.peers.torch_vit import positions
from torch import nn
from torch.nn import functional as F


def with_zero_row(table):
    return torch.cat([torch.zeros(1, table.shape[1], dtype=table.dtype), table])[None]


def heads_apart(x, heads):
    """[B, N, D] -> [B, heads, N, D/heads]"""
    return torch.stack(x.chunk(heads, dim=-1), dim=1)


def attend(q, k, v):
    """Each [B, heads, N, hd] -> [B, N, heads*hd], one softmax a head."""
    weights = torch.softmax(q @ k.transpose(2, 3) / math.sqrt(q.shape[-1]), dim=-1)
    return torch.cat(list((weights @ v).unbind(1)), dim=-1)


class Scale(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(width))

    def forward(self, x):
        return self.gamma * x


class Mlp(nn.Module):
    def __init__(self, width, hidden):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x)))


class ParallelBlock(nn.Module):
    """One fused projection gives the MLP's hidden values, q, k and v, in this order."""

    def __init__(self, width, hidden, heads):
        super().__init__()
        self.heads, self.parts = heads, (hidden, width, width, width)
        self.mlp_bias = nn.Parameter(torch.zeros(hidden))
        self.in_norm = nn.LayerNorm(width, eps=1e-6)
        self.in_proj = nn.Linear(width, hidden + 3 * width, bias=False)
        self.q_norm = nn.LayerNorm(width // heads, eps=1e-6)
        self.k_norm = nn.LayerNorm(width // heads, eps=1e-6)
        self.attn_out_proj, self.mlp_out_proj = nn.Linear(width, width), nn.Linear(hidden, width)
        self.ls = Scale(width)

    def forward(self, x):
        hidden, q, k, v = self.in_proj(self.in_norm(x)).split(self.parts, dim=-1)
        q, k, v = (heads_apart(part, self.heads) for part in (q, k, v))
        attended = self.attn_out_proj(attend(self.q_norm(q), self.k_norm(k), v))
        return x + self.ls(attended + self.mlp_out_proj(F.gelu(hidden + self.mlp_bias)))


class Attention(nn.Module):
    def __init__(self, width, heads, qkv_bias=True, qk_norm=False):
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width, bias=qkv_bias), nn.Linear(width, width)
        if qk_norm:
            self.q_norm, self.k_norm = (nn.LayerNorm(width // heads, eps=1e-6) for _ in range(2))

    def forward(self, x):
        q, k, v = (heads_apart(part, self.heads) for part in self.qkv(x).chunk(3, dim=-1))
        if hasattr(self, "q_norm"):
            q, k = self.q_norm(q), self.k_norm(k)
        return self.proj(attend(q, k, v))


class SerialBlock(nn.Module):
    def __init__(self, width, hidden, heads, qkv_bias=True, qk_norm=False, scaled=False):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn, self.mlp = Attention(width, heads, qkv_bias, qk_norm), Mlp(width, hidden)
        self.ls1, self.ls2 = (Scale(width), Scale(width)) if scaled else (nn.Identity(), nn.Identity())

    def forward(self, x):
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


class PatchEmbed(nn.Module):
    def __init__(self, channels, width, patch):
        super().__init__()
        self.proj = nn.Conv2d(channels, width, patch, patch)

    def forward(self, images):
        return self.proj(images).flatten(2).transpose(1, 2)  # [B, h*w, D]


class ParallelVit(nn.Module):
    """`norm`: a final norm (published with class-token pooling) or, without, an unused fc_norm."""

    def __init__(self, width, depth, hidden, heads, patch, side, channels, max_channels, norm):
        super().__init__()
        self.agnostic, copies = channels == 1, max_channels if channels == 1 else 1
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        table = positions(side, side, width).float().repeat(copies, 1)
        self.pos_embed = nn.Parameter(with_zero_row(table), requires_grad=False)
        self.patch_embed = PatchEmbed(channels, width, patch)
        self.blocks = nn.ModuleList(ParallelBlock(width, hidden, heads) for _ in range(depth))
        if norm:
            self.norm = nn.LayerNorm(width, eps=1e-6)
        else:
            self.fc_norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, images):
        """All tokens, the class token first, after the final norm if there is one."""
        parts = images.split(1, dim=1) if self.agnostic else [images]
        x = torch.cat([self.patch_embed(part) for part in parts], dim=1)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)
        x = x + self.pos_embed[:, : x.shape[1]].to(x.dtype)
        for block in self.blocks:
            x = block(x)
        return self.norm(x) if hasattr(self, "norm") else x


class Encoder(nn.Module):
    def __init__(self, *args, **kwargs):
        super().__init__()
        self.vit_backbone = ParallelVit(*args, **kwargs)


class CrossAttention(nn.Module):
    def __init__(self, width, heads=8):
        super().__init__()
        self.heads = heads
        self.q, self.kv = nn.Linear(width, width, bias=False), nn.Linear(width, 2 * width, bias=False)
        self.proj = nn.Linear(width, width)

    def forward(self, x, context):
        q, k, v = (heads_apart(part, self.heads) for part in (self.q(x), *self.kv(context).chunk(2, dim=-1)))
        return self.proj(attend(q, k, v))


class Decoder(nn.Module):
    def __init__(self, width, depth, hidden, side, channels, heads=16):
        super().__init__()
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.placeholder = nn.Parameter(torch.zeros(1, 1, width), requires_grad=False)
        table = positions(side, side, width).float().repeat(channels, 1)
        self.pos_embeddings = nn.Parameter(with_zero_row(table), requires_grad=False)
        self.modality_tokens = nn.ParameterList(torch.zeros(1, 1, width) for _ in range(channels))
        self.cross_attention, self.mlp = CrossAttention(width), Mlp(width, hidden)
        self.context_norm, self.query_norm, self.out_norm = (nn.LayerNorm(width, eps=1e-6) for _ in range(3))
        self.decoders = nn.ModuleList(
            nn.ModuleList(SerialBlock(width, hidden, heads) for _ in range(depth)) for _ in range(channels)
        )

    def forward(self, x):
        """[B, C*N, D] with the mask tokens in their places -> the same shape."""
        n = x.shape[1] // len(self.modality_tokens)
        x = x + self.pos_embeddings[:, 1:].to(x.dtype)
        x = torch.cat([part + token for part, token in zip(x.split(n, dim=1), self.modality_tokens)], dim=1)
        found = []
        for part, blocks in zip(x.split(n, dim=1), self.decoders):
            z = self.cross_attention(self.query_norm(part), self.context_norm(x))
            z = z + self.mlp(self.out_norm(z))
            for block in blocks:
                z = block(z)
            found.append(z)
        return torch.cat(found, dim=1)


class ChannelAgnostic(nn.Module):
    """encoder: arguments of ParallelVit; decoder: of Decoder."""

    def __init__(self, encoder, decoder):
        super().__init__()
        self.encoder, self.decoder = Encoder(*encoder), Decoder(*decoder)
        self.encoder_decoder_proj = nn.Linear(encoder[0], decoder[0])
        self.decoder_pred = nn.Linear(decoder[0], encoder[4] ** 2)

    def forward(self, images, noise, kept):
        """Prediction [B, C*N, P] with the `kept` patches of the smallest noise [B, C*N] visible."""
        vit = self.encoder.vit_backbone
        x = torch.cat([vit.patch_embed(part) for part in images.split(1, dim=1)], dim=1)
        x = x + vit.pos_embed[:, 1 : x.shape[1] + 1].to(x.dtype)
        visible = [torch.argsort(row)[:kept] for row in noise]
        x = torch.stack([row[keep] for row, keep in zip(x, visible)])
        x = torch.cat([vit.cls_token.expand(len(x), -1, -1), x], dim=1)
        for block in vit.blocks:
            x = block(x)
        small = self.encoder_decoder_proj(x)[:, 1:]
        full = self.decoder.mask_token[0].expand(noise.shape[1], -1)
        x = torch.stack([full.index_copy(0, keep, row) for keep, row in zip(visible, small)])
        return self.decoder_pred(self.decoder(x))


class Vit(nn.Module):
    """norm: "norm", after the last block, or "fc_norm", which only its classifier uses."""

    def __init__(self, width, depth, hidden, heads, patch, side, channels, class_token=True, norm="norm", **block):
        super().__init__()
        if class_token:
            self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, side * side + class_token, width))
        self.patch_embed = PatchEmbed(channels, width, patch)
        self.blocks = nn.ModuleList(SerialBlock(width, hidden, heads, **block) for _ in range(depth))
        setattr(self, norm, nn.LayerNorm(width, eps=1e-6))
        self.head = nn.Linear(width, 3)

    def forward(self, images):
        """All tokens, after the final norm if there is one."""
        x = self.patch_embed(images)
        if hasattr(self, "cls_token"):
            x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)
        x = x + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.norm(x) if hasattr(self, "norm") else x
