"""The masked autoencoder: its numbers against PyTorch (reference/torch_mae.py), and the masking."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from parameters import random_variables
from reference import convert_mae

from rxrx_jax.models.mae import MaskedAutoencoder, masked_pixel_loss, random_mask
from rxrx_jax.models.vit import Encoder, Size, patchify

STORED = pathlib.Path(__file__).parent / "reference" / "mae.npz"
# As SETTINGS of reference/make_mae.py, which needs PyTorch to be imported.
ENCODER, DECODER, PATCH, RATIO = Size(16, 2, 24, 2), Size(12, 1, 20, 3), 4, 0.7
MODULE = MaskedAutoencoder(ENCODER, DECODER, PATCH, RATIO)


@pytest.fixture(scope="module")
def stored():
    with np.load(STORED) as arrays:
        return dict(arrays)


def under(arrays, prefix):
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}


@jax.jit
def evaluate(params, images, noise):
    """What `make_mae.forward` computes, under the same names; gradients as trees."""

    def losses(params):
        prediction, found = MODULE.apply({"params": params}, images, noise)
        each = [masked_pixel_loss(prediction, images, found["mask"], PATCH, normalise) for normalise in (False, True)]
        return jnp.stack(each).mean(1), (each, prediction, found)

    gradients, (each, prediction, found) = jax.jacrev(losses, has_aux=True)(params)
    out = {}
    for i, normalise in enumerate((False, True)):
        gradient = jax.tree.map(lambda g, i=i: g[i], gradients)
        out |= {f"loss_{normalise}": each[i], f"gradient_{normalise}": gradient}
    tokens, whole = Encoder(ENCODER, PATCH).apply({"params": params["encoder"]}, images)
    return out | {
        "prediction": prediction,
        "mask": found["mask"],
        "visible_embedding": found["embedding"],
        "tokens": tokens,
        "embedding": whole["embedding"],
    }


def assert_same(ours, theirs):
    for name in ("prediction", "mask", "visible_embedding", "tokens", "embedding", "loss_False", "loss_True"):
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-5, atol=1e-5, err_msg=name)
    for normalise in (False, True):
        expected = convert_mae.to_jax(under(theirs, f"gradient_{normalise}/"))
        found = ours[f"gradient_{normalise}"]
        assert jax.tree.structure(found) == jax.tree.structure(expected)
        for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(expected)):
            name = jax.tree_util.keystr(path)
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * np.abs(b).max(), err_msg=name)


def test_same_numbers_as_the_stored_ones_of_pytorch(stored):
    params = convert_mae.to_jax(under(stored, "weight/"))
    assert_same(evaluate(params, stored["images"], stored["noise"]), stored)


def test_same_numbers_as_pytorch_with_our_weights(stored):
    pytest.importorskip("torch", reason="PyTorch is not installed; the stored values are compared in any case")
    from reference import make_mae, torch_mae

    images, noise = stored["images"][:, ::-1] * 0.7, 1 - stored["noise"]
    params = random_variables(MODULE.init, images, noise, seed=4)["params"]
    model = torch_mae.MaskedAutoencoder(**make_mae.SETTINGS)
    make_mae.load(model, convert_mae.from_jax(params, PATCH))
    theirs = make_mae.forward(model, images, noise)
    theirs64 = make_mae.forward(model.double(), images, noise)
    assert_same(evaluate(params, images, noise), theirs64)
    np.testing.assert_allclose(theirs["prediction"], theirs64["prediction"], rtol=1e-5, atol=1e-5)  # float32 suffices


def test_weights_convert_both_ways(stored):
    weights = under(stored, "weight/")
    params = convert_mae.to_jax(weights)
    back = convert_mae.from_jax(params, PATCH)
    assert back.keys() == weights.keys()
    for name, value in weights.items():
        np.testing.assert_array_equal(back[name], value, err_msg=name)
    shapes = jax.eval_shape(MODULE.init, jax.random.key(0), stored["images"], stored["noise"])["params"]
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, shapes)


@pytest.mark.parametrize("n, ratio, kept", [(12, 0.7, 3), (49, 0.75, 12), (4, 0.99, 1)])
def test_share_of_masked_patches(n, ratio, kept):
    noise = np.random.default_rng(n).random((5, n))
    keep, restore, mask = jax.jit(random_mask, static_argnums=1)(noise, ratio)
    assert keep.shape == (5, kept) and restore.shape == mask.shape == (5, n)
    np.testing.assert_array_equal(mask.sum(1), n - kept)


def test_visible_patches_are_those_with_the_smallest_noise():
    noise = np.array([[0.4, 0.1, 0.9, 0.2], [0.3, 0.8, 0.0, 0.7]], np.float32)
    keep, restore, mask = random_mask(noise, 0.5)
    np.testing.assert_array_equal(keep, [[1, 3], [2, 0]])
    np.testing.assert_array_equal(mask, [[1, 0, 1, 0], [0, 1, 0, 1]])
    # The shuffled row holds the visible patches first; `restore` says where each patch stands in it.
    np.testing.assert_array_equal(restore, [[2, 0, 3, 1], [1, 3, 0, 2]])


def test_restore_undoes_the_shuffle():
    noise = np.random.default_rng(0).random((3, 20))
    keep, restore, mask = jax.jit(random_mask, static_argnums=1)(noise, 0.6)
    shuffled = np.argsort(noise, axis=1)
    np.testing.assert_array_equal(shuffled[:, :8], keep)
    np.testing.assert_array_equal(np.take_along_axis(shuffled, restore, axis=1), np.tile(np.arange(20), (3, 1)))
    assert not np.take_along_axis(np.asarray(mask), keep, axis=1).any()


def test_a_masked_patch_cannot_influence_the_encoder_and_a_visible_one_does(stored):
    params = convert_mae.to_jax(under(stored, "weight/"))
    images, noise = stored["images"][:1], stored["noise"][:1]
    apply = jax.jit(lambda x: MODULE.apply({"params": params}, x, noise))
    prediction, found = apply(images)
    mask = np.asarray(found["mask"])[0]
    assert 0 < mask.sum() < mask.size
    for n, masked in enumerate(mask):
        row, column = n // 4 * PATCH, n % 4 * PATCH
        changed = images.copy()
        changed[:, row : row + PATCH, column : column + PATCH] += 7.0
        other, others = apply(changed)
        same = np.array_equal(others["embedding"], found["embedding"]) and np.array_equal(other, prediction)
        assert same == bool(masked), n


def test_the_loss_counts_masked_patches_only():
    images = np.random.default_rng(0).normal(size=(2, 8, 8, 1)).astype(np.float32)
    target = np.asarray(patchify(images, 4), np.float64)  # [2, 4, 16]
    mask = np.array([[1, 0, 1, 0], [0, 0, 0, 1]], np.float32)
    prediction = target + np.array([1.0, 50, 3, 50])[:, None]
    loss = masked_pixel_loss(prediction.astype(np.float32), images, mask, 4, False)
    np.testing.assert_allclose(loss, [(1 + 9) / 2, 2500], rtol=1e-5)
    # A flat patch has no deviation: its normalised target is zero and the loss stays finite.
    flat = masked_pixel_loss(np.ones((1, 4, 16), np.float32), jnp.full((1, 8, 8, 1), 3.0), mask[:1], 4, True)
    np.testing.assert_allclose(flat, [1.0], rtol=1e-6)
