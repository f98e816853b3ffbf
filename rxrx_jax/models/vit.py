"""Vision transformers: serial blocks (Dosovitskiy et al. 2021, arXiv 2010.11929) or parallel ones (Dehghani et al.
2023, arXiv 2302.05442), for images whose channels share a token or, channel agnostic, have tokens of their own.

Every module returns `(out, intermediates)`; `intermediates` names everything a probe may use.
Shapes: B minibatch, H W C image, N patch tokens, K kept ones, N' = N or K and 1 more with a class token, D width.
"""

import dataclasses
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

from rxrx_jax.base.errors import UserError
from rxrx_jax.base.sharding import constrain_tokens, platform
from rxrx_jax.models.attention import attention, split


@dataclasses.dataclass(frozen=True)
class Size:
    width: int
    depth: int
    mlp: int
    heads: int


@dataclasses.dataclass(frozen=True)
class Style:
    """How blocks and tokens are made. The defaults are a plain pre-norm ViT.

    block: "serial", attention then MLP, or "parallel", x + attention + MLP of one norm (arXiv 2302.05442, section 2).
    qk_norm: LayerNorm over each head's queries and keys, one scale and bias for all heads (same paper).
    layer_scale: first value of a learnt factor per feature of every branch, 0 = none (Touvron et al. 2021, arXiv
        2103.17239). drop_path: rate of stochastic depth in the last block, rising linearly from 0 in the first (Huang
        et al. 2016, arXiv 1603.09382); one draw per image and branch.
    pool: "embedding" is the "mean" of the patch tokens or the "class" token.
    positions: "sincos", fixed, nothing for the class token, or "learned". final_norm: LayerNorm after the last block.
    channel_agnostic: one patch embedding for single channels, tokens channel by channel, [C*h*w], positions the same
        in every channel (Kraus et al. 2024, arXiv 2404.10242): any 1 to 11 channels, in any order.
    epsilon: of every LayerNorm.
    """

    block: str = "serial"
    qkv_bias: bool = True
    qk_norm: bool = False
    layer_scale: float = 0.0
    drop_path: float = 0.0
    class_token: bool = False
    pool: str = "mean"
    positions: str = "sincos"
    final_norm: bool = True
    channel_agnostic: bool = False
    epsilon: float = 1e-6


PRODUCT = "product"  # the name by which rematerialisation knows matrix products with weights
MAX_CHANNELS = 11  # of a channel-agnostic encoder, as published

SIZES = {
    "XXS": Size(96, 4, 384, 4),  # for laptops and tests, not from a paper
    "Ti": Size(192, 12, 768, 3),
    "S": Size(384, 12, 1536, 6),
    "B": Size(768, 12, 3072, 12),
    "L": Size(1024, 24, 4096, 16),
    "H": Size(1280, 32, 5120, 16),
    "g": Size(1408, 40, 6144, 16),
    "G": Size(1664, 48, 8192, 16),
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


def patchify(images: jax.Array, patch: int, by_channel: bool = False) -> jax.Array:
    """[B, H, W, C] -> [B, h*w, patch*patch*C], patches row by row, pixels row by row, channel last; `by_channel`
    -> [B, C*h*w, patch*patch], the patches of the first channel, then those of the second."""
    b, h, w, c = images.shape
    if h % patch or w % patch:
        raise UserError(f"image {h}x{w} is not a multiple of the patch side {patch}; change augment.crop")
    x = images.reshape(b, h // patch, patch, w // patch, patch, c)
    if by_channel:
        return x.transpose(0, 5, 1, 3, 2, 4).reshape(b, -1, patch * patch)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, -1, patch * patch * c)


def unpatchify(patches: jax.Array, patch: int, height: int, width: int, by_channel: bool = False) -> jax.Array:
    """The inverse of `patchify`: -> [B, height, width, C]."""
    h, w = height // patch, width // patch
    if by_channel:
        x = patches.reshape(len(patches), -1, h, w, patch, patch).transpose(0, 2, 4, 3, 5, 1)
    else:
        x = patches.reshape(len(patches), h, w, patch, patch, -1).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(len(patches), height, width, -1)


@jax.custom_vjp
def product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """x [..., D] times kernel [D, E] in x's dtype -> [..., E]; the kernel's gradient is summed, over tokens, images and
    devices, in the kernel's dtype, so that float32 parameters get float32 gradients from bfloat16 activations.

    Rows are flattened first: XLA's CPU compiler turns the weight gradient of a 3-D product into a slow doubly
    transposed dot (benchmarks/kernels.py has the ratio).
    """
    y = x.reshape(-1, x.shape[-1]) @ kernel.astype(x.dtype)
    return y.reshape(*x.shape[:-1], kernel.shape[1])


def _product_forward(x, kernel):
    return product(x, kernel), (x, kernel)


def _product_backward(saved, gradient):
    x, kernel = saved
    rows, gradient_rows = x.reshape(-1, x.shape[-1]), gradient.reshape(-1, gradient.shape[-1])
    dx = gradient_rows @ kernel.astype(x.dtype).T
    dkernel = jax.lax.dot_general(rows, gradient_rows, (((0,), (0,)), ((), ())), preferred_element_type=kernel.dtype)
    return dx.reshape(x.shape), dkernel


product.defvjp(_product_forward, _product_backward)


class Dense(nn.Module):
    """The linear layer of the transformers here: Glorot-uniform kernel (as in the published MAE), zero bias; float32
    parameters and gradients, products in `dtype`. [..., D] -> [..., features]."""

    features: int
    use_bias: bool = True
    dtype: jnp.dtype = jnp.float32
    kernel_init: Callable = nn.initializers.xavier_uniform()

    @nn.compact
    def __call__(self, x):
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features))
        y = checkpoint_name(product(x.astype(self.dtype), kernel), PRODUCT)
        if self.use_bias:
            y = (y + self.param("bias", nn.initializers.zeros, (self.features,))).astype(self.dtype)
        return y


def gelu(x: jax.Array) -> jax.Array:
    """x times the normal distribution function of x (Hendrycks & Gimpel 2016, arXiv 1606.08415), in float32, by erf as
    in PyTorch; jax.nn.gelu's erfc is two polynomials, a quotient and an exponential more."""
    y = x.astype(jnp.float32)
    return (0.5 * y * (1 + jax.lax.erf(y * 0.5**0.5))).astype(x.dtype)


def dense(features: int, name: str, dtype=jnp.float32, use_bias: bool = True) -> Dense:
    return Dense(features, use_bias, dtype, name=name)


def layer_norm(style: Style, name: str, dtype=jnp.float32) -> nn.LayerNorm:
    """Statistics in float32 whatever `dtype` is."""
    return nn.LayerNorm(epsilon=style.epsilon, dtype=dtype, name=name)


def token(module: nn.Module, name: str, shape: tuple[int, ...]) -> jax.Array:
    """A learnt token or table of positions, parameter `name` of a module."""
    return module.param(name, nn.initializers.normal(0.02), shape)


def pool(tokens: jax.Array, style: Style, more: int = 0) -> jax.Array:
    """[B, N', D] -> [B, D] float32: the class token, or the mean of the patch tokens, which are not the `more` last."""
    if style.pool == "class":
        return tokens[:, 0].astype(jnp.float32)
    return tokens[:, int(style.class_token) : tokens.shape[1] - more].mean(axis=1, dtype=jnp.float32)


class LayerScale(nn.Module):
    """A learnt factor per feature, `value` at first. [B, N, D] -> [B, N, D]."""

    value: float

    @nn.compact
    def __call__(self, x):
        scale = self.param("scale", nn.initializers.constant(self.value), (x.shape[-1],))
        return (x * scale).astype(x.dtype)


class Block(nn.Module):
    """[B, N, D] -> [B, N, D]. `rate` is this block's probability to drop a branch; None draws nothing.

    The columns of qkv go head by head, [head, (q, k, v), D/heads], so that a tensor axis cuts between heads.
    """

    size: Size
    style: Style = Style()
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x, rate=None):
        y = layer_norm(self.style, "norm1", self.dtype)(x)
        if self.style.block == "parallel":
            return constrain_tokens(self.add(x, self.attention(y) + self.mlp(y), "layer_scale1", rate))
        x = self.add(x, self.attention(y), "layer_scale1", rate)
        y = layer_norm(self.style, "norm2", self.dtype)(x)
        return constrain_tokens(self.add(x, self.mlp(y), "layer_scale2", rate))

    def attention(self, x):
        b, n, d = x.shape
        qkv = dense(3 * d, "qkv", self.dtype, self.style.qkv_bias)(x).reshape(b, n, self.size.heads, 3, -1)
        q, k, v = split(qkv)  # each [B, N, heads, D/heads]
        if self.style.qk_norm:
            q = layer_norm(self.style, "q_norm", self.dtype)(q)
            k = layer_norm(self.style, "k_norm", self.dtype)(k)
        return dense(d, "out", self.dtype)(attention(q, k, v).reshape(b, n, d))

    def mlp(self, x):
        hidden = gelu(dense(self.size.mlp, "mlp1", self.dtype)(x))
        return dense(x.shape[-1], "mlp2", self.dtype)(hidden)

    def add(self, x, branch, name, rate):
        if self.style.layer_scale:
            branch = LayerScale(self.style.layer_scale, name=name)(branch)
        if rate is not None:
            keep = jax.random.bernoulli(self.make_rng("drop_path"), 1 - rate, (len(x), 1, 1))
            branch = jnp.where(keep, branch / (1 - rate), 0).astype(x.dtype)
        return x + branch


# What a block saves for its backward pass, besides its input. "dots" keeps matrix products with weights and
# recomputes attention, norms and GELU; "full" keeps nothing.
REMAT = {
    "dots": jax.checkpoint_policies.save_only_these_names(PRODUCT),
    "full": jax.checkpoint_policies.nothing_saveable,
}


class Blocks(nn.Module):
    """`size.depth` blocks scanned over stacked parameters, then, if the style has one, the final LayerNorm.

    Returns (tokens [B, N', D], {"blocks": output of every block [depth, B, N', D], "block_embeddings": these, pooled,
    [depth, B, D] float32}), without the `more` last tokens. Under jit an unused intermediate costs nothing, in training
    or evaluation. `remat` is "none" or a key of REMAT. Stochastic depth draws from the rng stream "drop_path".
    """

    size: Size
    style: Style = Style()
    remat: str = "none"
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x, train=False, more=0):
        block = Block if self.remat == "none" else nn.remat(Block, prevent_cse=False, policy=REMAT[self.remat])
        rates = np.linspace(0, self.style.drop_path, self.size.depth, dtype=np.float32)

        def run(block, x, rate):
            x = block(x, rate)
            return x, {"blocks": x, "block_embeddings": pool(x, self.style, more)}

        scan = nn.scan(
            run,
            variable_axes={"params": 0},
            split_rngs={"params": True, "drop_path": True},
            length=self.size.depth,
            # A loop on the CPU copies the parameters that it slices and the activations that it stacks.
            unroll=self.size.depth if platform() == "cpu" and self.remat == "none" else 1,
        )
        block = block(self.size, self.style, self.dtype, name="block")
        x, intermediates = scan(block, x, rates if train and self.style.drop_path else None)
        if self.style.final_norm:
            x = layer_norm(self.style, "norm", self.dtype)(x)
        return x, intermediates


class Encoder(nn.Module):
    """Patches to tokens, positions, blocks.

    `__call__(images [B, H, W, C] float, train, keep=[B, K] int32 or None)` returns (tokens [B, N', D], intermediates).
    The class token, if there is one, comes first. `keep` selects the visible patches of a masked autoencoder before any
    block runs, so that masking saves compute; the class token always stays. `tokens`, a function of the patch tokens
    [B, N, D], gives more of them, [B, M, D], which come last and are not pooled. Intermediates: those of `Blocks`,
    "embedding" [B, D] float32, the pooled tokens, "patches" [B, D] float32, the mean of the patch tokens before any
    block, and, channel agnostic and without `keep`, "channel_embeddings" [B, C, D] float32, the mean of each channel's
    tokens. Raises UserError for images that do not fit.
    """

    size: Size
    patch: int
    style: Style = Style()
    remat: str = "none"
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, images, train=False, mask=None, keep=None, tokens=None):
        del mask  # for networks with minibatch statistics
        (b, height, width, channels), style = images.shape, self.style
        if style.channel_agnostic and channels > MAX_CHANNELS:
            raise UserError(f"images have {channels} channels; model.channel_agnostic takes 1 to {MAX_CHANNELS}")
        x = patchify(images, self.patch, style.channel_agnostic).astype(self.dtype)
        x = dense(self.size.width, "embed", self.dtype)(x)
        h, w, first = height // self.patch, width // self.patch, int(style.class_token)
        if style.positions == "learned":
            places = token(self, "positions", (1, first + h * w, self.size.width))
        else:
            places = np.pad(sincos_positions(h, w, self.size.width), ((first, 0), (0, 0)))[None]
        x = (x + jnp.tile(places[:, first:], (1, x.shape[1] // (h * w), 1))).astype(self.dtype)  # [B, N, D]
        if keep is not None:
            x = jnp.take_along_axis(x, keep[:, :, None], axis=1)  # [B, K, D]
        patches, more = x.mean(axis=1, dtype=jnp.float32), 0
        if tokens is not None:
            given = tokens(x).astype(self.dtype)
            x, more = jnp.concatenate([x, given], axis=1), given.shape[1]
        if style.class_token:
            one = token(self, "class_token", (1, 1, self.size.width)) + places[:, :1]
            x = jnp.concatenate([jnp.broadcast_to(one.astype(self.dtype), (b, *one.shape[1:])), x], axis=1)
        x, intermediates = Blocks(self.size, style, self.remat, self.dtype, name="blocks")(x, train, more)
        intermediates |= {"embedding": pool(x, style, more), "patches": patches}
        if style.channel_agnostic and keep is None:
            by_channel = x[:, first : x.shape[1] - more].reshape(b, channels, h * w, -1)
            intermediates |= {"channel_embeddings": by_channel.mean(axis=2, dtype=jnp.float32)}
        return x, intermediates
