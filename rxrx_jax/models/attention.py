"""Scaled dot-product attention, in the backend's fused kernel where it has one."""

import contextlib
import contextvars
import math

import jax
import jax.numpy as jnp

from rxrx_jax.base import sharding

HALF = (jnp.bfloat16, jnp.float16)
FLASH = 512  # keys from which the TPU kernel is used: below, scores are small and XLA's own fusion does
LANES = 128  # TPU blocks of queries and keys are multiples of it
_fused = contextvars.ContextVar("fused", default=True)


@contextlib.contextmanager
def unfused():
    """Within it attention consists of plain operations, so that they can be counted."""
    token = _fused.set(False)
    try:
        yield
    finally:
        _fused.reset(token)


def fused() -> bool:
    """Whether kernels of the platform are used whose operations cannot be counted."""
    return sharding.platform() in ("gpu", "cuda", "tpu")


def attention(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """softmax(q k^T / sqrt(hd)) v of every head: q [B, N, heads, hd], k and v [B, M, heads, hd] -> [B, N, heads, hd].

    GPU: cuDNN's fused kernel for half precision. TPU: Pallas' flash attention for at least FLASH keys. Elsewhere, and
    for float32 on a GPU, matrix products and a softmax in float32, on a CPU with a backward pass written out.
    """
    platform = sharding.platform() if _fused.get() else "any"
    if platform in ("gpu", "cuda") and q.dtype in HALF:
        return even_rows(q, k, v, "cudnn")
    if platform == "tpu" and k.shape[1] >= FLASH:
        return sharding.over_heads(_flash, q, k, v)
    if platform == "cpu":
        return _by_head(q, k, v)
    return jax.nn.dot_product_attention(q, k, v)


@jax.custom_vjp
def split(qkv: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """[B, N, heads, 3, hd] -> queries, keys and values, each [B, N, heads, hd].

    Their gradients are stacked. The derivative of three slices would be three arrays of the whole size, each of them
    zero but for a third, and their sum.
    """
    return qkv[..., 0, :], qkv[..., 1, :], qkv[..., 2, :]


split.defvjp(lambda qkv: (split(qkv), None), lambda _, gradients: (jnp.stack(gradients, -2),))


def even_rows(q, k, v, implementation: str) -> jax.Array:
    """jax.nn.dot_product_attention by an implementation ("cudnn") that cannot train on an odd number of rows, as a
    class token makes them: those get one more, which is masked."""
    if q.shape[1] % 2 == k.shape[1] % 2 == 0:
        return jax.nn.dot_product_attention(q, k, v, implementation=implementation)
    even = lambda x: jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, 0), (0, 0)))  # noqa: E731
    rows = lambda x: jnp.full(len(x), x.shape[1], jnp.int32)  # noqa: E731
    lengths = {"query_seq_lengths": rows(q), "key_value_seq_lengths": rows(k)}
    out = jax.nn.dot_product_attention(even(q), even(k), even(v), implementation=implementation, **lengths)
    return out[:, : q.shape[1]]


@jax.custom_vjp
def _by_head(q, k, v):
    """Attention for XLA's CPU compiler, whose derivative of softmax is slow (benchmarks/kernels.py has the ratio): the
    division by the sum moves behind the product with v, and its derivative into rowwise terms of [B, heads, N]."""
    return _by_head_forward(q, k, v)[0]


def _by_head_forward(q, k, v):
    q, k, v = _heads(q * q.shape[-1] ** -0.5), _heads(k), _heads(v)  # [B, heads, N or M, hd]
    scores = jnp.einsum("bhnd,bhmd->bhnm", q, k, preferred_element_type=jnp.float32)
    weights = jnp.exp(scores - scores.max(-1, keepdims=True))
    inverse = 1 / weights.sum(-1, keepdims=True)
    weights = weights.astype(v.dtype)
    out = jnp.einsum("bhnm,bhmd->bhnd", weights, v, preferred_element_type=jnp.float32) * inverse
    return _heads(out).astype(v.dtype), (q, k, v, weights, inverse, out)


def _by_head_backward(saved, gradient):
    q, k, v, weights, inverse, out = saved
    gradient = _heads(gradient) * inverse  # float32
    towards = (gradient * out).sum(-1, keepdims=True)
    gradient = gradient.astype(v.dtype)
    dv = jnp.einsum("bhnm,bhnd->bhmd", weights, gradient)
    dweights = jnp.einsum("bhnd,bhmd->bhnm", gradient, v, preferred_element_type=jnp.float32)
    dscores = (weights * (dweights - towards)).astype(q.dtype)
    dq = jnp.einsum("bhnm,bhmd->bhnd", dscores, k) * q.shape[-1] ** -0.5
    dk = jnp.einsum("bhnm,bhnd->bhmd", dscores, q)
    return _heads(dq), _heads(dk), _heads(dv)


def _heads(x):
    """[B, N, heads, hd] <-> [B, heads, N, hd]."""
    return x.transpose(0, 2, 1, 3)


_by_head.defvjp(_by_head_forward, _by_head_backward)


def _flash(q, k, v):
    """Pallas' kernel on one device's images and heads. What pads rows to its blocks is a segment of its own."""
    from jax.experimental.pallas.ops.tpu.flash_attention import SegmentIds, flash_attention

    rows = lambda x: jnp.pad(x, ((0, 0), (0, -x.shape[1] % LANES), (0, 0), (0, 0))).transpose(0, 2, 1, 3)  # noqa: E731
    real = lambda x: jnp.pad(jnp.ones(x.shape[:2], jnp.int32), ((0, 0), (0, -x.shape[1] % LANES)))  # noqa: E731
    padded = q.shape[1] % LANES or k.shape[1] % LANES
    ids = SegmentIds(real(q), real(k)) if padded else None
    out = flash_attention(rows(q), rows(k), rows(v), segment_ids=ids, sm_scale=1 / math.sqrt(q.shape[-1]))
    return out.transpose(0, 2, 1, 3)[:, : q.shape[1]]
