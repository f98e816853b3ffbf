"""Vision transformer (Dosovitskiy et al. 2021, arXiv 2010.11929): pre-norm blocks, fixed sine-cosine positions.

Every module returns `(out, intermediates)`; `intermediates` names everything a probe may want.
Shapes: B minibatch, H W C image, N tokens, D width, K kept tokens.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from rxrx_jax.errors import UserError
from rxrx_jax.sharding import constrain_tokens


@dataclasses.dataclass(frozen=True)
class Size:
    width: int
    depth: int
    mlp: int
    heads: int


SIZES = {
    "XXS": Size(96, 4, 384, 4),  # for laptops and tests, not from a paper
    "Ti": Size(192, 12, 768, 3),
    "S": Size(384, 12, 1536, 6),
    "B": Size(768, 12, 3072, 12),
    "L": Size(1024, 24, 4096, 16),
}


def parse_variant(variant: str) -> tuple[Size, int]:
    """`"S/16"` -> (Size of S, patch side 16). Raises UserError naming the variant."""
    size, _, patch = variant.partition("/")
    if size not in SIZES or not patch.isdigit() or int(patch) < 1:
        raise UserError(f"model.variant={variant!r}: expected SIZE/PATCH with SIZE one of {', '.join(SIZES)}")
    return SIZES[size], int(patch)


def sincos_positions(height: int, width: int, dim: int) -> np.ndarray:
    """Fixed 2-D sine-cosine table [height*width, dim] float32: first half of dim for the row, second for the column (He
    et al. 2022, arXiv 2111.06377, appendix A; temperature 10,000)."""
    if dim % 4:
        raise UserError(f"width {dim} must be a multiple of 4 for sine-cosine positions")
    frequency = 1.0 / 10_000 ** (np.arange(dim // 4) / (dim // 4))
    rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")

    def code(position):
        angle = position.reshape(-1, 1) * frequency  # [N, dim/4]
        return np.concatenate([np.sin(angle), np.cos(angle)], axis=1)

    return np.concatenate([code(rows), code(columns)], axis=1).astype(np.float32)


def patchify(images: jax.Array, patch: int) -> jax.Array:
    """[B, H, W, C] -> [B, N, patch*patch*C], patches row by row, pixels row by row, channel last."""
    b, h, w, c = images.shape
    if h % patch or w % patch:
        raise UserError(f"image {h}x{w} is not a multiple of the patch side {patch}; change augment.crop")
    x = images.reshape(b, h // patch, patch, w // patch, patch, c)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, (h // patch) * (w // patch), patch * patch * c)


def unpatchify(patches: jax.Array, patch: int, height: int, width: int) -> jax.Array:
    """The inverse of `patchify`: [B, N, patch*patch*C] -> [B, height, width, C]."""
    b, _, d = patches.shape
    x = patches.reshape(b, height // patch, width // patch, patch, patch, d // patch**2)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, height, width, d // patch**2)


def dot_over_rows(x, kernel, dimension_numbers, **kwargs):
    """`lax.dot_general` for `nn.Dense` that flattens [B, N, D] to [B*N, D] first. XLA's CPU compiler turns the weight
    gradient of the 3-D product into a slow doubly transposed dot (benchmarks/kernels.py has the ratio)."""
    del dimension_numbers  # Dense always contracts the last axis of x with the first of the kernel
    y = jax.lax.dot_general(x.reshape(-1, x.shape[-1]), kernel, (((1,), (0,)), ((), ())), **kwargs)
    return y.reshape(*x.shape[:-1], kernel.shape[1])


def dense(features: int, name: str, dtype=jnp.float32) -> nn.Dense:
    """The linear layer of the transformers here: Glorot-uniform kernel, zero bias (as in the published MAE)."""
    init = nn.initializers.xavier_uniform()
    return nn.Dense(features, kernel_init=init, dtype=dtype, dot_general=dot_over_rows, name=name)


class Block(nn.Module):
    """Pre-norm transformer block: x + attention(norm(x)), then x + mlp(norm(x)). [B, N, D] -> [B, N, D]."""

    size: Size
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x):
        b, n, d = x.shape
        y = nn.LayerNorm(epsilon=1e-6, dtype=self.dtype, name="norm1")(x)
        qkv = dense(3 * d, "qkv", self.dtype)(y).reshape(b, n, 3, self.size.heads, -1)
        q, k, v = jnp.moveaxis(qkv, 2, 0)  # each [B, N, heads, D/heads]
        y = jax.nn.dot_product_attention(q, k, v).reshape(b, n, d)
        x = x + dense(d, "out", self.dtype)(y)
        y = nn.LayerNorm(epsilon=1e-6, dtype=self.dtype, name="norm2")(x)
        y = nn.gelu(dense(self.size.mlp, "mlp1", self.dtype)(y), approximate=False)
        x = x + dense(d, "mlp2", self.dtype)(y)
        return constrain_tokens(x)


class Blocks(nn.Module):
    """`size.depth` blocks scanned over stacked parameters, then a LayerNorm.

    Returns (tokens [B, N, D], {"blocks": output of every block [depth, B, N, D]}).
    `remat` recomputes activations in the backward pass and keeps only matrix products without a minibatch
    dimension, which is what large models need and small ones pay for.
    """

    size: Size
    remat: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x):
        block = Block
        if self.remat:
            policy = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
            block = nn.remat(Block, prevent_cse=False, policy=policy)
        scan = nn.scan(
            lambda module, carry, _: (module(carry),) * 2,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=self.size.depth,
        )
        x, blocks = scan(block(self.size, self.dtype, name="block"), x, None)
        return nn.LayerNorm(epsilon=1e-6, dtype=self.dtype, name="norm")(x), {"blocks": blocks}


class Encoder(nn.Module):
    """Patches to tokens, positions, blocks.

    `__call__(images [B, H, W, C] float, keep=[B, K] int32 or None)` returns (tokens [B, N or K, D], intermediates
    with "blocks" and "embedding" [B, D], the mean over tokens). `keep` selects the visible patches of a masked
    autoencoder before any block runs, so that masking saves what it promises.
    """

    size: Size
    patch: int
    remat: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, images, train=False, mask=None, keep=None):
        del train, mask  # for networks with minibatch statistics
        x = patchify(images, self.patch).astype(self.dtype)
        x = dense(self.size.width, "embed", self.dtype)(x)
        h, w = images.shape[1] // self.patch, images.shape[2] // self.patch
        x = x + sincos_positions(h, w, self.size.width).astype(self.dtype)  # [B, N, D]
        if keep is not None:
            x = jnp.take_along_axis(x, keep[:, :, None], axis=1)  # [B, K, D]
        x, intermediates = Blocks(self.size, self.remat, self.dtype, name="blocks")(x)
        return x, intermediates | {"embedding": x.mean(axis=1).astype(jnp.float32)}
