"""Masked autoencoders in plain PyTorch, written from the papers and not from rxrx_jax, to compare with.

He et al. 2022 (arXiv 2111.06377), section 3 and appendix A; the channel-agnostic one and the loss in Fourier space:
Kraus et al. 2024 (arXiv 2404.10242), section 3. A patch goes pixel row by pixel row, the channel last.
"""

import torch
from reference.peers.torch_vit import SerialBlock, Vit, attention, gelu, positions
from torch import nn


def patches(images, patch, by_channel):
    """[B, C, H, W] -> [B, N, patch*patch*C], or [B, C*N, patch*patch]."""
    if by_channel:
        return torch.cat([patches(channel, patch, False) for channel in images.split(1, dim=1)], dim=1)
    b, _, h, w = images.shape
    cut = [
        images[:, :, y : y + patch, x : x + patch].permute(0, 2, 3, 1).reshape(b, -1)
        for y in range(0, h, patch)
        for x in range(0, w, patch)
    ]
    return torch.stack(cut, dim=1)


def amplitudes(patches, patch):
    """Of each channel of patches [B, N, P]: [B, N, C, patch, patch]."""
    b, n, _ = patches.shape
    return torch.fft.fft2(patches.reshape(b, n, patch, patch, -1).permute(0, 1, 4, 2, 3)).abs()


class Decoder(nn.Module):
    def __init__(self, width, depth, mlp, heads):
        super().__init__()
        self.blocks = nn.ModuleList(SerialBlock(width, mlp, heads, 1e-6, plain=True) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class ChannelDecoder(nn.Module):
    """A loop over channels: each one's tokens read those of all, then go through blocks of their own."""

    def __init__(self, width, depth, mlp, heads, channels):
        super().__init__()
        self.modality_tokens = nn.ParameterList(torch.zeros(1, 1, width) for _ in range(channels))
        self.query_norm, self.context_norm, self.out_norm = (nn.LayerNorm(width, eps=1e-6) for _ in range(3))
        self.q, self.kv = nn.Linear(width, width, bias=False), nn.Linear(width, 2 * width, bias=False)
        self.proj = nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, mlp), nn.Linear(mlp, width)
        self.decoders = nn.ModuleList(
            nn.ModuleList(SerialBlock(width, mlp, heads, 1e-6, plain=True) for _ in range(depth))
            for _ in range(channels)
        )

    def forward(self, x):
        parts = x.chunk(len(self.decoders), dim=1)
        parts = [part + token for part, token in zip(parts, self.modality_tokens)]
        k, v = self.kv(self.context_norm(torch.cat(parts, dim=1))).chunk(2, dim=-1)
        found = []
        for part, blocks in zip(parts, self.decoders):
            z = self.proj(attention(self.q(self.query_norm(part)), k, v, heads=8))
            z = z + self.fc2(gelu(self.fc1(self.out_norm(z))))
            for block in blocks:
                z = block(z)
            found.append(z)
        return torch.cat(found, dim=1)


class MaskedAutoencoder(nn.Module):
    """encoder and decoder are (width, depth, mlp, heads); style holds the further arguments of Vit."""

    def __init__(self, encoder, decoder, patch, grid, channels, ratio, style):
        super().__init__()
        self.patch, self.ratio, self.by_channel, width = patch, ratio, style["by_channel"], decoder[0]
        self.vit = Vit(encoder, patch, grid, channels, **style)
        self.decoder_embed = nn.Linear(encoder[0], width)
        self.mask_token = nn.Parameter(torch.zeros(width))
        self.decoder = ChannelDecoder(*decoder, channels) if self.by_channel else Decoder(*decoder)
        self.decoder_pred = nn.Linear(width, patch * patch * (1 if self.by_channel else channels))

    def forward(self, images, noise):
        """(prediction [B, N, P], mask [B, N], embedding of the visible tokens [B, D])."""
        tokens = self.vit.tokens(images)
        b, n, _ = tokens.shape
        visible = [torch.argsort(noise[i])[: int(n * (1 - self.ratio))] for i in range(b)]
        encoded, _ = self.vit.run(torch.stack([tokens[i, visible[i]] for i in range(b)]))
        small = self.decoder_embed(encoded)
        extra = encoded.shape[1] - len(visible[0])  # the class token
        mask, full = torch.ones(b, n, dtype=images.dtype), []
        for i in range(b):
            mask[i, visible[i]] = 0
            full.append(self.mask_token.expand(n, -1).index_copy(0, visible[i], small[i, extra:]))
        table = positions(*self.vit.grid, small.shape[-1]).to(images.dtype)
        x = torch.stack(full) + table.repeat(n // len(table), 1)
        if self.by_channel:
            x = self.decoder(x)
        else:
            x = self.decoder(torch.cat([small[:, :extra], x], dim=1))[:, extra:]
        return self.decoder_pred(x), mask, self.vit.pool(encoded)

    def losses(self, images, prediction, mask):
        """{name: [B]}: means over the masked patches of each image."""
        target = patches(images, self.patch, self.by_channel)
        variance, mean = torch.var_mean(target, dim=-1, unbiased=True, keepdim=True)
        normalised = (target - mean) / (variance + 1e-6) ** 0.5
        fourier = (amplitudes(prediction, self.patch) - amplitudes(target, self.patch)).abs().mean(dim=(2, 3, 4))
        errors = {
            "pixel": ((prediction - target) ** 2).mean(dim=-1),
            "pixel_normalised": ((prediction - normalised) ** 2).mean(dim=-1),
            "fourier": fourier,
        }
        return {name: (error * mask).sum(dim=1) / mask.sum(dim=1) for name, error in errors.items()}
