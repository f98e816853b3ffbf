"""Losses of masked autoencoders against formulas in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rxrx_jax.models.losses import amplitudes, masked_fourier_loss, masked_pixel_loss, normalise_patches
from rxrx_jax.models.vit import patchify

MASK = np.array([[1, 0, 1, 0, 1, 1], [0, 0, 0, 1, 0, 0]], np.float32)


def test_the_pixel_loss_counts_masked_patches_only():
    target = np.random.default_rng(0).normal(size=(2, 4, 16)).astype(np.float32)
    mask = np.array([[1, 0, 1, 0], [0, 0, 0, 1]], np.float32)
    prediction = target + np.array([1.0, 50, 3, 50], np.float32)[:, None]
    np.testing.assert_allclose(masked_pixel_loss(prediction, target, mask), [(1 + 9) / 2, 2500], rtol=1e-5)


def test_normalised_patches_have_mean_0_and_deviation_1_and_flat_ones_are_0():
    patches = np.random.default_rng(0).normal(size=(2, 3, 16)).astype(np.float32) * 5 + 2
    patches[0, 1] = 3.0
    found = np.asarray(normalise_patches(patches), np.float64)
    np.testing.assert_allclose(found.mean(-1), 0, atol=1e-6)
    np.testing.assert_allclose(found.std(-1, ddof=1), [[1, 0, 1], [1, 1, 1]], atol=1e-5)


def by_numpy(prediction, target, mask, patch, by_channel):
    """The Fourier loss in float64 from whole images [B, H, W, C], patch by patch and channel by channel."""
    b, h, w, channels = target.shape
    errors = np.zeros((b, channels, h // patch, w // patch))
    for index in np.ndindex(errors.shape):
        i, c, row, column = index
        cut = np.s_[i, row * patch : (row + 1) * patch, column * patch : (column + 1) * patch, c]
        both = [np.abs(np.fft.fft2(x[cut].astype(np.float64))) for x in (prediction, target)]
        errors[index] = np.abs(both[0] - both[1]).mean()
    errors = errors.reshape(b, -1) if by_channel else errors.mean(1).reshape(b, -1)
    return (errors * mask).sum(1) / mask.sum(1)


@pytest.mark.parametrize("patch", [1, 2, 4, 5, 16])
@pytest.mark.parametrize("by_channel", [False, True])
def test_the_fourier_loss_is_that_of_an_fft_of_every_channel_of_every_masked_patch(patch, by_channel):
    random = np.random.default_rng(patch)
    channels = 3 if not by_channel else 2
    shape = (2, patch * (2 if not by_channel else 3), patch * (3 if not by_channel else 1), channels)
    prediction, target = random.normal(size=(2, *shape)).astype(np.float32)
    parts = [patchify(x, patch, by_channel) for x in (prediction, target)]
    assert parts[0].shape[:2] == MASK.shape
    found = masked_fourier_loss(*parts, MASK, patch)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, by_numpy(prediction, target, MASK, patch, by_channel), rtol=1e-5)


def test_the_fourier_loss_has_a_finite_gradient_where_amplitudes_are_zero():
    flat = jnp.zeros((1, 2, 16)).at[0, 1].set(2.0)
    value, gradient = jax.value_and_grad(lambda x: masked_fourier_loss(x, flat, jnp.ones((1, 2)), 4).sum())(flat)
    assert value == 0 and np.isfinite(gradient).all()
    target = np.random.default_rng(0).normal(size=(1, 2, 16)).astype(np.float32)
    gradient = jax.grad(lambda x: masked_fourier_loss(x, target, jnp.ones((1, 2)), 4).sum())(flat)
    assert np.isfinite(gradient).all() and np.abs(gradient[0, 1]).max() > 0


def test_the_gradient_of_the_fourier_loss_by_finite_differences():
    random = np.random.default_rng(3)
    x, target = random.normal(size=(2, 1, 2, 4 * 4 * 2))
    mask = np.array([[1.0, 0.0]])
    with jax.enable_x64():  # the constants stay float32: 1e-7 of the value
        gradient = jax.grad(lambda x: masked_fourier_loss(x, target, mask, 4).sum())(jnp.asarray(x, jnp.float32))
    whole = lambda x: by_numpy(*(square(v) for v in (x, target)), mask, 4, False).sum()  # noqa: E731
    for i in range(0, 32, 5):
        step = np.zeros_like(x)
        step[0, 0, i] = 1e-6
        np.testing.assert_allclose(gradient[0, 0, i], (whole(x + step) - whole(x - step)) / 2e-6, rtol=1e-3, atol=1e-5)
    assert not np.any(gradient[0, 1])


def square(patches):
    """Two patches of 4x4 pixels and 2 channels -> an image [1, 4, 8, 2]."""
    return patches.reshape(1, 2, 4, 4, 2).transpose(0, 2, 1, 3, 4).reshape(1, 4, 8, 2)


def test_amplitudes_are_exact_products_of_half_the_frequencies():
    patches = np.random.default_rng(0).normal(size=(1, 2, 8 * 8 * 3)).astype(np.float32)
    found = amplitudes(patches, 8)
    assert found.shape == (1, 2, 3, 5, 8)
    whole = np.abs(np.fft.fft2(patches.reshape(1, 2, 8, 8, 3).astype(np.float64), axes=(2, 3)))  # [1, 2, u, v, C]
    np.testing.assert_allclose(found, whole.transpose(0, 1, 4, 3, 2)[..., :5, :], rtol=1e-5, atol=1e-5)
    products = str(jax.make_jaxpr(lambda x: amplitudes(x, 8))(patches)).split("dot_general[")[1:]
    assert len(products) == 2 and all("HIGHEST" in text for text in products)  # a TPU's default is bfloat16
    assert amplitudes(patches.astype(jnp.bfloat16), 8).dtype == jnp.float32
