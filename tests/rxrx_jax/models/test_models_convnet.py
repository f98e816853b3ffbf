"""The convolutional network, its BatchNorm, heads and handcrafted statistics, against numpy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from parameters import random_variables

from rxrx_jax import models
from rxrx_jax.base.config import Config
from rxrx_jax.base.errors import UserError
from rxrx_jax.models.convnet import ConvNet
from rxrx_jax.models.handcrafted import Handcrafted
from rxrx_jax.models.heads import Discriminator, Head

NET = ConvNet((4, 6), momentum=0.8)


def convolve(x, kernel, stride):
    """[B, H, W, C] with [k, k, C, D]; zeros around it so that the output has H / stride rows, more after."""
    k = len(kernel)
    out = x.shape[1] // stride
    total = (out - 1) * stride + k - x.shape[1]
    pad = (total // 2, total - total // 2)
    x = np.pad(x, ((0, 0), pad, pad, (0, 0)))
    y = np.empty((len(x), out, out, kernel.shape[3]))
    for i in range(out):
        for j in range(out):
            window = x[:, i * stride : i * stride + k, j * stride : j * stride + k]
            y[:, i, j] = np.tensordot(window, kernel, 3)
    return y


def formula(variables, images, train, mask=None, momentum=0.8):
    """(positions, embedding, batch_stats) of NET in float64; `mask` says which images count."""
    params, stats = jax.tree.map(lambda a: np.asarray(a, np.float64), (variables["params"], variables["batch_stats"]))
    x, new = np.asarray(images, np.float64), {}
    for i in range(2):
        x = convolve(x, params[f"conv{i}"]["kernel"], 2)
        mean, var = stats[f"norm{i}"]["mean"], stats[f"norm{i}"]["var"]
        if train:
            counted = x if mask is None else x[mask]
            batch_mean, batch_var = counted.mean((0, 1, 2)), counted.var((0, 1, 2))
            new[f"norm{i}"] = {
                "mean": momentum * mean + (1 - momentum) * batch_mean,
                "var": momentum * var + (1 - momentum) * batch_var,
            }
            mean, var = batch_mean, batch_var
        x = (x - mean) / np.sqrt(var + 1e-5) * params[f"norm{i}"]["scale"] + params[f"norm{i}"]["bias"]
        x = np.maximum(x, 0)
    return x, x.mean((1, 2)), new


@pytest.fixture(scope="module")
def network():
    images = np.random.default_rng(1).normal(1, 2, (5, 16, 16, 3)).astype(np.float32)
    return random_variables(NET.init, images, train=True), images


@pytest.mark.parametrize("mask", [None, [True, True, False, True, False]])
def test_convnet_in_training_against_the_formula(network, mask):
    variables, images = network
    mask = None if mask is None else np.array(mask)
    run = jax.jit(lambda v, x: NET.apply(v, x, train=True, mask=mask, mutable=["batch_stats"]))
    (positions, found), new = run(variables, images)
    expected_positions, embedding, stats = formula(variables, images, True, mask)
    np.testing.assert_allclose(positions, expected_positions, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found["embedding"], embedding, rtol=1e-4, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), new["batch_stats"], stats)


def test_convnet_in_evaluation_uses_running_statistics(network):
    variables, images = network
    run = jax.jit(lambda v, x: NET.apply(v, x, train=False))
    positions, found = run(variables, images)
    expected_positions, embedding, _ = formula(variables, images, False)
    np.testing.assert_allclose(positions, expected_positions, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found["embedding"], embedding, rtol=1e-4, atol=1e-5)
    alone = run(variables, images[:1])[1]["embedding"]
    np.testing.assert_allclose(alone, embedding[:1], rtol=1e-4, atol=1e-5)


def test_head_of_the_probe_normalises_with_the_masked_minibatch():
    x = np.random.default_rng(0).normal(3, 5, (6, 4)).astype(np.float32)
    mask = np.array([1, 1, 1, 1, 0, 0], bool)
    head = Head(3, normalise=True)
    variables = random_variables(head.init, x, train=False)
    assert set(variables["params"]) == {"linear"}  # a BatchNorm without scale and bias
    logits, new = head.apply(variables, x, train=True, mask=mask, mutable=["batch_stats"])
    x64 = x.astype(np.float64)
    mean, var = x64[mask].mean(0), x64[mask].var(0)
    linear, old, new = (
        variables["params"]["linear"],
        variables["batch_stats"]["norm"],
        new["batch_stats"]["norm"],
    )
    expected = (x64 - mean) / np.sqrt(var + 1e-5) @ linear["kernel"] + linear["bias"]
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(new["mean"], 0.9 * old["mean"] + 0.1 * mean, rtol=1e-5)
    np.testing.assert_allclose(new["var"], 0.9 * old["var"] + 0.1 * var, rtol=1e-5)


def test_plain_head_and_discriminator_against_the_formula():
    x = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    variables = random_variables(Head(3).init, x, train=False)
    assert "batch_stats" not in variables
    linear = variables["params"]["linear"]
    logits = Head(3).apply(variables, x, train=True)
    np.testing.assert_allclose(logits, x @ linear["kernel"] + linear["bias"], rtol=1e-5, atol=1e-6)

    discriminator = Discriminator(5, hidden=8)
    params = random_variables(discriminator.init, x)["params"]
    y = x.astype(np.float64)
    for i in range(2):
        y = y @ np.asarray(params[f"hidden{i}"]["kernel"], np.float64) + params[f"hidden{i}"]["bias"]
        y = (y - y.mean(-1, keepdims=True)) / np.sqrt(y.var(-1, keepdims=True) + 1e-6)
        y = np.maximum(y * params[f"norm{i}"]["scale"] + params[f"norm{i}"]["bias"], 0)
    expected = y @ params["domains"]["kernel"] + params["domains"]["bias"]
    np.testing.assert_allclose(discriminator.apply({"params": params}, x), expected, rtol=1e-4, atol=1e-5)


def test_hand_made_statistics_against_numpy():
    images = np.random.default_rng(0).gamma(2.0, size=(2, 12, 9, 3)).astype(np.float32)
    found, intermediates = jax.jit(Handcrafted().apply)({}, images)
    assert found.shape == (2, 9 * 3 + 3)
    np.testing.assert_array_equal(found, intermediates["embedding"])
    for x, features in zip(images.astype(np.float64), found):
        flat = x.reshape(-1, 3)
        z = (flat - flat.mean(0)) / flat.std(0)
        expected = [
            flat.mean(0),
            flat.std(0),
            (z**3).mean(0),
            *np.quantile(x[::2, ::2].reshape(-1, 3), [0.1, 0.5, 0.9, 0.99], axis=0),
        ]
        for step in (1, 4):
            down, right = (
                np.abs(x[step:] - x[:-step]).mean((0, 1)),
                np.abs(x[:, step:] - x[:, :-step]).mean((0, 1)),
            )
            expected.append(down + right)
        correlation = np.corrcoef(flat.T)
        expected.append(correlation[np.triu_indices(3, 1)])
        np.testing.assert_allclose(features, np.concatenate(expected), rtol=1e-4, atol=1e-5)
    black = np.zeros_like(images)
    assert np.isfinite(jax.jit(Handcrafted().apply)({}, black)[0]).all()


def test_spatial_statistics_follow_the_plain_ones_and_are_those_of_numpy():
    images = np.random.default_rng(1).gamma(2.0, size=(2, 12, 20, 3)).astype(np.float32)
    found = jax.jit(Handcrafted(spatial=True).apply)({}, images)[0]
    plain = Handcrafted.plain(3)
    np.testing.assert_allclose(found[:, :plain], jax.jit(Handcrafted().apply)({}, images)[0], rtol=1e-4, atol=1e-5)
    lags, bands = (
        (1, 2, 4, 8),
        6,
    )  # 16 is longer than the image; from 0.5 to below 1/12 cycles per pixel in half octaves
    assert found.shape == (2, plain + 3 * bands + 6 * len(lags)) and np.isfinite(found).all()
    upper = np.triu_indices(3)
    for x, features in zip(images.astype(np.float64), found):
        z = (x - x.mean((0, 1))) / x.std((0, 1))
        window = np.outer(np.hanning(12), np.hanning(20))
        power = np.abs(np.fft.fft2(z.transpose(2, 0, 1) * window / np.sqrt((window**2).mean()))) ** 2 / (12 * 20)
        radius = np.hypot(*np.meshgrid(np.fft.fftfreq(12), np.fft.fftfreq(20), indexing="ij"))
        edges = [(0.5 + 1e-6) / 2 ** (i / 2) for i in range(bands + 1)]
        expected = [np.log(power[:, (radius > b) & (radius <= a)].mean(1) + 1e-6) for a, b in zip(edges, edges[1:])]
        for lag in lags:
            of = np.zeros((3, 3))
            for one, other in ((z[lag:], z[:-lag]), (z[:, lag:], z[:, :-lag])):
                mean = np.einsum("hwc,hwd->cd", one, other) / (one.shape[0] * one.shape[1])
                of += (mean + mean.T) / 4
            expected.append(of[upper])
        np.testing.assert_allclose(features[plain:], np.concatenate(expected), rtol=1e-3, atol=1e-4)
    assert np.isfinite(jax.jit(Handcrafted(spatial=True).apply)({}, np.zeros_like(images))[0]).all()


def test_spatial_statistics_see_an_arrangement_that_the_plain_ones_do_not():
    """The same pixels of each channel, in blobs, alone, or with another channel two pixels away."""
    random = np.random.default_rng(2)
    grain = random.normal(size=(32, 32, 2))
    blobs = grain.copy()
    blobs[..., 0] = np.sort(grain[..., 0].ravel())[np.argsort(np.argsort(np.cumsum(grain[..., 0], 1).ravel()))].reshape(
        32, 32
    )
    beside = grain.copy()
    beside[..., 1] = np.roll(grain[..., 0], 2, 1)
    images = np.stack([grain, blobs, beside]).astype(np.float32)
    features = np.asarray(jax.jit(Handcrafted(spatial=True).apply)({}, images)[0])
    at = Handcrafted.plain(2)
    lag_2 = features[:, at:].reshape(3, -1)[:, -15:].reshape(3, 5, 3)[:, 1]  # 00, 01 and 11 of every lag
    assert lag_2[1, 0] > lag_2[0, 0] + 0.2 and abs(lag_2[0, 1]) < 0.1 < lag_2[2, 1]


def test_make_encoder_knows_its_models():
    make = lambda **values: models.make_encoder(Config(values, "model."))  # noqa: E731
    vit = make(name="vit", variant="XXS/8", dtype="bfloat16", remat="full")
    assert (vit.patch, vit.dtype, vit.remat) == (8, jnp.bfloat16, "full")
    assert make(name="convnet", widths=[8, 16]) == ConvNet((8, 16))
    assert make(name="handcrafted") == Handcrafted()
    assert make(name="handcrafted_spatial") == Handcrafted(spatial=True)
    with pytest.raises(UserError, match="model.name='resnet'"):
        make(name="resnet")
    with pytest.raises(UserError, match="model.dtype='float16'"):
        make(name="vit", variant="S/16", dtype="float16")
    with pytest.raises(UserError, match="config key model.variant is missing"):
        make(name="vit")
