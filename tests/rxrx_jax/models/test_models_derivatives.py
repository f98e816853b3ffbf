"""Operations that are written as they are for what XLA makes of their derivatives: the values, and that form."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rxrx_jax.models.attention import split
from rxrx_jax.models.vit import Block, Size, gelu


@pytest.mark.parametrize("dtype, tolerance", [(jnp.float32, 1e-6), (jnp.bfloat16, 1e-2)])
def test_gelu_and_its_gradient_are_the_formula(dtype, tolerance):
    x = np.asarray(jnp.linspace(-8, 8, 999).astype(dtype)).astype(np.float64)
    below = np.array([0.5 * (1 + math.erf(value / math.sqrt(2))) for value in x])
    slope = below + x * np.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)
    given = jnp.asarray(x, dtype)
    found, gradient = gelu(given), jax.grad(lambda x: gelu(x).astype(jnp.float32).sum())(given)
    assert found.dtype == gradient.dtype == dtype
    np.testing.assert_allclose(np.asarray(found, np.float64), x * below, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(np.asarray(gradient, np.float64), slope, rtol=tolerance, atol=4 * tolerance)


def test_queries_keys_and_values_are_every_third_row_and_so_are_their_gradients():
    qkv, w = np.random.default_rng(0).normal(size=(2, 2, 3, 4, 3, 5)).astype(np.float32)
    q, k, v = split(qkv)
    np.testing.assert_array_equal(np.stack([q, k, v], 3), qkv)
    gradient = jax.grad(lambda x: sum((part * w[:, :, :, i] * i).sum() for i, part in enumerate(split(x))))(qkv)
    np.testing.assert_array_equal(gradient, w * np.arange(3)[:, None])


def test_a_block_s_step_has_neither_erfc_nor_arrays_that_are_padded_with_zeros():
    block, x = Block(Size(16, 1, 32, 2)), jnp.ones((2, 4, 16))
    params = block.init(jax.random.key(0), x)
    step = str(jax.make_jaxpr(jax.grad(lambda p: block.apply(p, x).sum()))(params))
    assert " erf " in step and "erfc" not in step and " pad[" not in step
