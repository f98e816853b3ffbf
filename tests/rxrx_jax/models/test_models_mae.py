"""The masked autoencoder: its numbers against PyTorch (reference/peers/torch_mae.py), and the masking."""

import jax
import numpy as np
import pytest
from reference import compare_mae, mae_cases

from rxrx_jax.models.mae import random_mask

CASES = [case for case in mae_cases.CASES if case != "channel_agnostic"]


@pytest.mark.parametrize("case", CASES)
def test_same_numbers_as_the_stored_ones_of_pytorch(case):
    stored = compare_mae.stored(case)
    compare_mae.assert_same(case, compare_mae.evaluate(case, stored), stored)


@pytest.mark.parametrize("case", CASES)
def test_same_numbers_as_pytorch_on_other_inputs(case):
    pytest.importorskip("torch", reason="PyTorch is not installed; the stored values are compared in any case")
    from reference import make_mae

    arrays = make_mae.inputs(case, seed=5)
    compare_mae.assert_same(case, compare_mae.evaluate(case, arrays), arrays | make_mae.forward(case, arrays))


@pytest.mark.parametrize("case", mae_cases.CASES)
def test_initial_parameters_have_the_shapes_of_the_reference(case):
    stored = compare_mae.stored(case)
    init = mae_cases.module(case).init
    shapes = jax.eval_shape(init, jax.random.key(0), stored["images"], stored["noise"])["params"]
    assert jax.tree.map(np.shape, compare_mae.parameters(case, stored)) == jax.tree.map(np.shape, shapes)


@pytest.mark.parametrize("n, ratio, kept", [(12, 0.7, 3), (49, 0.75, 12), (1536, 0.75, 384), (4, 0.99, 1)])
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


@pytest.mark.parametrize("case", mae_cases.CASES)
def test_a_masked_patch_cannot_influence_the_encoder_and_a_visible_one_does(case):
    stored, module = compare_mae.stored(case), mae_cases.module(case)
    params, images, noise = compare_mae.parameters(case, stored), stored["images"][:1], stored["noise"][:1]
    apply = jax.jit(lambda x: module.apply({"params": params}, x, noise))
    prediction, found = apply(images)
    mask = np.asarray(found["mask"])[0]
    assert 0 < mask.sum() < mask.size
    (rows, columns), patch = mae_cases.CASES[case]["grid"], module.patch
    for n, masked in enumerate(mask):
        channel, place = divmod(n, rows * columns)
        row, column = place // columns * patch, place % columns * patch
        channels = slice(channel, channel + 1) if module.style.channel_agnostic else slice(None)
        changed = images.copy()
        changed[:, row : row + patch, column : column + patch, channels] += np.linspace(1, 7, patch)[:, None]
        other, others = apply(changed)
        same = np.array_equal(others["embedding"], found["embedding"]) and np.array_equal(other, prediction)
        assert same == bool(masked), n


@pytest.mark.parametrize("case", mae_cases.CASES)
def test_the_encoder_runs_on_visible_patches_alone(case):
    stored, module = compare_mae.stored(case), mae_cases.module(case)
    apply = lambda: module.init_with_output(jax.random.key(0), stored["images"], stored["noise"])  # noqa: E731
    (prediction, found), _ = jax.eval_shape(apply)
    visible = int(stored["noise"].shape[1] * (1 - module.mask_ratio))
    assert found["blocks"].shape == (2, 2, visible + module.style.class_token, 16)
    assert prediction.shape == module.patches(stored["images"]).shape and "channel_embeddings" not in found
