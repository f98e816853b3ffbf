"""The channel-agnostic encoder and autoencoder: numbers against PyTorch, channels in any order and number."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from parameters import random_variables
from reference import compare_mae, mae_cases

from rxrx_jax.base.errors import UserError
from rxrx_jax.models.mae import MaskedAutoencoder
from rxrx_jax.models.vit import SIZES, Encoder, Size, Style

CASE = "channel_agnostic"
STYLE = mae_cases.module(CASE).style
ENCODER = Encoder(Size(16, 2, 24, 2), 4, STYLE)


def test_same_numbers_as_the_stored_ones_of_pytorch():
    stored = compare_mae.stored(CASE)
    compare_mae.assert_same(CASE, compare_mae.evaluate(CASE, stored), stored)


def test_same_numbers_as_pytorch_on_other_inputs():
    pytest.importorskip("torch", reason="PyTorch is not installed; the stored values are compared in any case")
    from reference import make_mae

    arrays = make_mae.inputs(CASE, seed=5)
    compare_mae.assert_same(CASE, compare_mae.evaluate(CASE, arrays), arrays | make_mae.forward(CASE, arrays))


@pytest.fixture(scope="module")
def six():
    """Images of six channels, parameters, and what the encoder makes of them."""
    images = np.random.default_rng(0).normal(size=(2, 8, 12, 6)).astype(np.float32)
    params = random_variables(ENCODER.init, images)
    return images, params, jax.jit(ENCODER.apply)(params, images)


def test_the_embedding_does_not_depend_on_the_order_of_channels(six):
    images, params, (tokens, found) = six
    order = np.array([4, 0, 5, 2, 1, 3])
    other_tokens, other = jax.jit(ENCODER.apply)(params, images[..., order])
    np.testing.assert_allclose(other["embedding"], found["embedding"], atol=1e-5)
    np.testing.assert_allclose(other["channel_embeddings"], found["channel_embeddings"][:, order], atol=1e-5)
    assert np.abs(found["channel_embeddings"][:, 0] - found["channel_embeddings"][:, 4]).max() > 0.01
    by_channel = lambda x: x[:, 1:].reshape(2, 6, 6, 16)  # noqa: E731
    np.testing.assert_allclose(by_channel(other_tokens), by_channel(tokens)[:, order], atol=1e-5)


def test_channel_embeddings_are_means_of_each_channels_tokens(six):
    _, _, (tokens, found) = six
    assert found["channel_embeddings"].shape == (2, 6, 16) and found["channel_embeddings"].dtype == jnp.float32
    expected = [tokens[:, 1 + 6 * c : 7 + 6 * c].mean(1) for c in range(6)]
    np.testing.assert_allclose(found["channel_embeddings"], np.stack(expected, 1), atol=1e-6)
    np.testing.assert_allclose(found["embedding"], found["channel_embeddings"].mean(1), atol=1e-6)


@pytest.mark.parametrize("channels", [1, 2, 5, 11])
def test_one_set_of_parameters_takes_any_number_of_channels(six, channels):
    images, params, _ = six
    images = np.resize(images, (2, 8, 12, channels))
    tokens, found = jax.eval_shape(ENCODER.apply, params, images)
    assert tokens.shape == (2, 1 + 6 * channels, 16) and found["channel_embeddings"].shape == (2, channels, 16)
    if channels == 1:  # as an encoder of images of one channel
        plain = Encoder(ENCODER.size, 4, dataclasses.replace(STYLE, channel_agnostic=False))
        np.testing.assert_array_equal(plain.apply(params, images)[0], ENCODER.apply(params, images)[0])


def test_twelve_channels_are_refused():
    with pytest.raises(UserError, match="^images have 12 channels; model.channel_agnostic takes 1 to 11"):
        jax.eval_shape(ENCODER.init, jax.random.key(0), jnp.zeros((1, 8, 8, 12)))


def test_the_decoder_is_for_its_number_of_channels():
    stored, module = compare_mae.stored(CASE), mae_cases.module(CASE)
    params = compare_mae.parameters(CASE, stored)
    with pytest.raises(UserError, match="images have 2 channels; the decoder is for 3"):
        module.apply({"params": params}, stored["images"][..., :2], stored["noise"][:, :8])


def test_masking_is_over_all_channels_together(six):
    images, _, _ = six
    module = mae_cases.module(CASE)
    noise = np.random.default_rng(0).random((2, 36)).astype(np.float32)
    noise[0, 6:12] += 1  # everything of the second channel is hidden, and nothing is by design in another
    noise[0, :6] -= 1
    run = lambda: module.init_with_output(jax.random.key(0), images, noise)[0][1]["mask"]  # noqa: E731
    mask = np.asarray(jax.jit(run)()).reshape(2, 6, 6)
    assert (mask.sum((1, 2)) == 36 - int(36 * 0.3)).all() and mask[0, 1].all() and not mask[0, 0].any()


def test_the_size_of_the_published_model():
    """OpenPhenom-S/16: its encoder's file holds 22,459,776 values and the whole 178,045,568, of which 2817 x 384 are
    the encoder's fixed positions, 768 a norm that it never applies, 1537 x 512 the decoder's fixed positions and 512 a
    placeholder that stays zero."""
    style = Style("parallel", False, True, 1e-4, 0.1, True, final_norm=False, channel_agnostic=True)
    module = MaskedAutoencoder(SIZES["S"], Size(512, 8, 2048, 16), 16, 0.75, style)
    init = lambda: module.init(jax.random.key(0), jnp.zeros((1, 256, 256, 6)), jnp.zeros((1, 1536)))  # noqa: E731
    params = jax.eval_shape(init)["params"]
    count = lambda tree: sum(x.size for x in jax.tree.leaves(tree))  # noqa: E731
    assert count(params["encoder"]) == 22_459_776 - 2817 * 384 - 768
    assert count(params) == 178_045_568 - 2817 * 384 - 768 - 1537 * 512 - 512
    assert params["decoder"]["blocks"]["block"]["qkv"]["kernel"].shape == (6, 8, 512, 1536)
    assert params["decoder"]["channel_tokens"].shape == (6, 1, 512)
