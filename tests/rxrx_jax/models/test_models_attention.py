"""Attention in plain operations against numpy, and the fused kernels against that: which one where, and how well."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu

from rxrx_jax.base import sharding
from rxrx_jax.models import attention as module
from rxrx_jax.models.attention import attention, unfused


def draw(b=2, n=5, m=7, heads=3, size=4, dtype=np.float32, seed=0):
    random = np.random.default_rng(seed)
    return [random.normal(size=(b, length, heads, size)).astype(dtype) for length in (n, m, m)]


def numpy_attention(q, k, v):
    """In float64."""
    q, k, v = (x.astype(np.float64).transpose(0, 2, 1, 3) for x in (q, k, v))
    scores = q @ k.transpose(0, 1, 3, 2) / np.sqrt(q.shape[-1])
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return (weights / weights.sum(-1, keepdims=True) @ v).transpose(0, 2, 1, 3)


@pytest.fixture
def on(monkeypatch):
    """Makes it believe in another platform."""
    return lambda name: monkeypatch.setattr(sharding, "platform", lambda: name)


@pytest.fixture
def called(monkeypatch):
    """Which kernels were asked for."""
    names = []
    plain = jax.nn.dot_product_attention

    def spy(*arrays, implementation=None, **lengths):
        names.append(implementation or "plain")
        return plain(*arrays, **lengths)

    def flash(*arrays):
        names.append("flash")
        return plain(*arrays)

    monkeypatch.setattr(jax.nn, "dot_product_attention", spy)

    def by_head(*arrays):
        names.append("by head")
        return plain(*arrays)

    monkeypatch.setattr(module, "_flash", flash)
    monkeypatch.setattr(module, "_by_head", by_head)
    return names


def values_and_gradients(kernel, arrays):
    weights = np.random.default_rng(1).normal(size=arrays[0].shape)
    gradient = jax.grad(lambda *a: (kernel(*a).astype(jnp.float32) * weights).sum(), (0, 1, 2))
    return [np.asarray(x, np.float64) for x in (kernel(*arrays), *gradient(*arrays))]


@pytest.mark.parametrize("platform", ["any", "cpu"])
def test_attention_is_the_formula(on, platform):
    on(platform)
    arrays = draw()
    np.testing.assert_allclose(attention(*arrays), numpy_attention(*arrays), rtol=1e-5, atol=1e-6)
    found, expected = (values_and_gradients(kernel, arrays) for kernel in (attention, jax.nn.dot_product_attention))
    for got, right in zip(found, expected):
        np.testing.assert_allclose(got, right, rtol=1e-4, atol=1e-5)
    half = [jnp.asarray(x, jnp.bfloat16) for x in arrays]
    assert attention(*half).dtype == jnp.bfloat16
    for got, right in zip(values_and_gradients(attention, half), expected):
        np.testing.assert_allclose(got, right, atol=0.03 * np.abs(right).max())


@pytest.mark.parametrize(
    "platform, dtype, keys, expected",
    [
        ("cpu", "bfloat16", 640, "by head"),
        ("gpu", "bfloat16", 5, "cudnn"),
        ("cuda", "float16", 5, "cudnn"),
        ("gpu", "float32", 640, "plain"),
        ("tpu", "bfloat16", 511, "plain"),
        ("tpu", "bfloat16", 512, "flash"),
        ("tpu", "float32", 640, "flash"),
    ],
)
def test_every_platform_has_its_kernel(on, called, platform, dtype, keys, expected):
    on(platform)
    arrays = [jnp.asarray(x, dtype) for x in draw(1, 3, keys, 1, 4)]
    attention(*arrays)
    with unfused():
        attention(*arrays)
    attention(*arrays)
    assert called == [expected, "plain", expected]


@pytest.mark.parametrize("n, m", [(128, 128), (65, 140)])
def test_the_tpu_kernel_and_its_gradients_are_the_formulas(n, m):
    """Lengths that its blocks do not divide are padded; what pads is never attended to."""
    arrays = [jnp.asarray(x) for x in draw(1, n, m, 2, 8)]
    with pltpu.force_tpu_interpret_mode():
        found = values_and_gradients(module._flash, arrays)
    np.testing.assert_allclose(found[0], numpy_attention(*map(np.asarray, arrays)), rtol=1e-4, atol=1e-5)
    for got, right in zip(found, values_and_gradients(jax.nn.dot_product_attention, arrays)):
        np.testing.assert_allclose(got, right, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("n, m", [(64, 64), (65, 65), (64, 65), (65, 64)])
def test_rows_that_make_an_even_number_change_nothing(n, m):
    """What cuDNN is given for odd numbers of rows, through the implementation that needs no GPU."""
    arrays = [jnp.asarray(x) for x in draw(2, n, m, 3, 8)]
    found = values_and_gradients(lambda *a: module.even_rows(*a, "xla"), arrays)
    np.testing.assert_allclose(found[0], numpy_attention(*map(np.asarray, arrays)), rtol=1e-4, atol=1e-5)
    for got, right in zip(found, values_and_gradients(jax.nn.dot_product_attention, arrays)):
        np.testing.assert_allclose(got, right, rtol=1e-4, atol=1e-5)


def test_cudnn_never_gets_an_odd_number_of_rows(on, monkeypatch):
    on("gpu")
    seen = []

    def kernel(q, k, v, **more):
        seen.append((q.shape[1], k.shape[1], v.shape[1], more["implementation"]))
        return jnp.zeros_like(q)

    monkeypatch.setattr(jax.nn, "dot_product_attention", kernel)
    for n, m in ((65, 65), (64, 257), (4, 6)):
        assert attention(*(jnp.asarray(x, jnp.bfloat16) for x in draw(1, n, m, 1, 8))).shape == (1, n, 1, 8)
    assert seen == [(66, 66, 66, "cudnn"), (64, 258, 258, "cudnn"), (4, 6, 6, "cudnn")]


@pytest.mark.skipif(jax.default_backend() != "gpu", reason="no GPU")
@pytest.mark.parametrize("n, m", [(64, 64), (65, 140), (1025, 1025)])
def test_the_gpu_kernel_and_its_gradients_are_the_formulas(n, m):
    arrays = [jnp.asarray(x, jnp.bfloat16) for x in draw(2, n, m, 4, 64)]
    exact = numpy_attention(*(np.asarray(x, np.float32) for x in arrays))
    np.testing.assert_allclose(np.asarray(attention(*arrays), np.float32), exact, atol=0.02)

    def gradients():
        loss = lambda *a: (attention(*a).astype(jnp.float32) ** 2).sum()  # noqa: E731
        return jax.jit(jax.grad(loss, (0, 1, 2)))(*arrays)

    found = gradients()
    with unfused():
        expected = gradients()
    for name, got, right in zip("qkv", found, expected):
        got, right = np.asarray(got, np.float32), np.asarray(right, np.float32)
        assert np.abs(got - right).max() < 0.03 * np.abs(right).max(), name
