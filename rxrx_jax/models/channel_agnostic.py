"""The decoder of the channel-agnostic masked autoencoder (Kraus et al. 2024, arXiv 2404.10242, section 3).

Shapes: B minibatch, C channels, N patches of a channel, D width.
"""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp

from rxrx_jax.base.errors import UserError
from rxrx_jax.base.sharding import constrain_tokens
from rxrx_jax.models.attention import attention
from rxrx_jax.models.vit import Blocks, Size, Style, dense, gelu, layer_norm, token

CROSS_HEADS = 8  # of the cross attention, as published, whatever the blocks have


class ChannelDecoder(nn.Module):
    """Every channel's tokens read those of all channels, then go through blocks of their own.

    `__call__(x [B, C*N, D], channels C, train)` -> [B, C*N, D]; x has its positions already. Adds each channel's token;
    then z = cross attention (queries: the channel's tokens, context: all tokens, each after a norm), without a residual
    path; z = z + MLP(norm(z)); then `size.depth` blocks, without a final norm. Norms, cross attention and MLP are the
    same for all channels, the blocks are not. The parameters fix the number of channels.
    """

    size: Size
    style: Style = Style()
    remat: str = "none"
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x, channels: int, train=False):
        b, n, d = x.shape
        if not self.is_initializing() and (there := len(self.get_variable("params", "channel_tokens"))) != channels:
            raise UserError(f"images have {channels} channels; the decoder is for {there}")
        tokens = token(self, "channel_tokens", (channels, 1, d))
        x = (x.reshape(b, channels, -1, d) + tokens).astype(self.dtype).reshape(b, n, d)
        # Queries of one channel do not see those of another: all channels can ask at once.
        z = self.cross_attention(self.norm("query_norm", x), self.norm("context_norm", x))
        z = constrain_tokens(z + self.mlp(self.norm("out_norm", z)))
        blocks = nn.vmap(
            Blocks,
            in_axes=(1, None),
            out_axes=1,
            variable_axes={"params": 0},
            split_rngs={"params": True, "drop_path": True},
        )
        style = dataclasses.replace(self.style, final_norm=False)
        blocks = blocks(self.size, style, self.remat, self.dtype, name="blocks")
        z, _ = blocks(z.reshape(b, channels, -1, d), train)
        return z.reshape(b, n, d)

    def norm(self, name, x):
        return layer_norm(self.style, name, self.dtype)(x)

    def cross_attention(self, queries, context):
        b, n, d = queries.shape
        q = dense(d, "cross_q", self.dtype, use_bias=False)(queries).reshape(b, n, CROSS_HEADS, -1)
        kv = dense(2 * d, "cross_kv", self.dtype, use_bias=False)(context).reshape(b, n, CROSS_HEADS, 2, -1)
        z = attention(q, kv[..., 0, :], kv[..., 1, :])
        return dense(d, "cross_out", self.dtype)(z.reshape(b, n, d))

    def mlp(self, x):
        hidden = gelu(dense(self.size.mlp, "mlp1", self.dtype)(x))
        return dense(x.shape[-1], "mlp2", self.dtype)(hidden)
