"""OpenPhenom's files as parameters of the models here: numbers against PyTorch's, refusals; and files of any kind."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from weights_tools import OPENPHENOM, TIMM, apply, close, save

from rxrx_jax import weights
from rxrx_jax.base.errors import UserError
from rxrx_jax.models.mae import MaskedAutoencoder
from rxrx_jax.models.vit import Size
from rxrx_jax.weights import layout
from rxrx_jax.weights.read import read_tensors

KEPT = 7  # as reference/make_weights.py, which needs PyTorch to be imported
HAS_TORCH = importlib.util.find_spec("torch") is not None
PREFIX = "encoder.vit_backbone."


def reconstruct(imported, images, noise):
    """The prediction of the imported masked autoencoder."""
    width, depth, heads = imported.decoder
    decoder = Size(width, depth, imported.params["decoder"]["mlp1"]["bias"].size, heads)
    encoder = imported.encoder
    module = MaskedAutoencoder(encoder.size, decoder, encoder.patch, 1 - KEPT / noise.shape[1], encoder.style)
    shapes = jax.eval_shape(module.init, jax.random.key(0), images, noise)["params"]
    assert jax.tree.map(jnp.shape, imported.params) == jax.tree.map(jnp.shape, shapes)
    return jax.jit(lambda p: module.apply({"params": p}, images, noise)[0])(imported.params)


def test_a_published_checkpoint_gives_pytorchs_tokens_and_embeddings(stored):
    imported = weights.load(OPENPHENOM)
    tokens, found = apply(imported, stored["images"])
    close(tokens, stored["tokens"])
    close(found["embedding"], stored["tokens"][:, 1:].mean(1))  # without a norm, without the class token
    close(found["channel_embeddings"], stored["tokens"][:, 1:].reshape(2, 3, 9, 16).mean(2))
    assert imported.encoder.size == Size(16, 2, 24, 2) and imported.encoder.patch == 4
    assert imported.model == {
        "name": "vit",
        "block": "parallel",
        "qkv_bias": False,
        "qk_norm": True,
        "layer_scale": 1e-4,
        "class_token": True,
        "final_norm": False,
        "channel_agnostic": True,
    }
    assert (imported.channels, imported.crop, imported.normalisation) == (None, 12, "image")
    assert any("fc_norm is left out" in note for note in imported.notes)


def test_a_published_decoder_gives_pytorchs_predictions(stored):
    imported = weights.load(OPENPHENOM)
    assert imported.decoder == (16, 1, 16)
    close(reconstruct(imported, stored["images"], stored["noise"]), stored["prediction"])


def test_both_containers_give_the_same_parameters(tmp_path, phenom):
    other = weights.load(save(tmp_path / "model.safetensors", phenom))
    one = weights.load(OPENPHENOM)
    jax.tree.map(np.testing.assert_array_equal, one.params, other.params)
    assert one.encoder == other.encoder and weights.load(tmp_path).encoder == one.encoder  # a folder holds the file


def test_an_encoder_alone_and_without_its_prefix(tmp_path, phenom, stored):
    alone = {name.removeprefix(PREFIX): value for name, value in phenom.items() if name.startswith(PREFIX)}
    imported = weights.load(save(tmp_path / "a.safetensors", alone))
    close(apply(imported, stored["images"])[0], stored["tokens"])
    assert imported.decoder is None and set(imported.params) == {"encoder"}


def test_half_precision_files(tmp_path, phenom, stored):
    half = {name: value.astype(jnp.bfloat16) for name, value in phenom.items()}
    imported = weights.load(save(tmp_path / "a.safetensors", half))
    assert {leaf.dtype for leaf in jax.tree.leaves(imported.params)} == {np.dtype(np.float32)}
    assert imported.encoder.style.positions == "sincos"  # rounded, still the same table
    np.testing.assert_allclose(apply(imported, stored["images"])[0], stored["tokens"], atol=0.1, rtol=0.1)


def plain(tensors, norm=True):
    """The file of a parallel-block ViT for three channels with a final norm, and its decoder's tensors."""
    tensors = dict(tensors)
    kernel = tensors[f"{PREFIX}patch_embed.proj.weight"]
    tensors[f"{PREFIX}patch_embed.proj.weight"] = np.concatenate([kernel, kernel * 2, kernel - 1], axis=1)
    tensors[f"{PREFIX}pos_embed"] = tensors[f"{PREFIX}pos_embed"][:, :10]
    for name in ("weight", "bias"):
        moved = tensors.pop(f"{PREFIX}fc_norm.{name}")
        if norm:
            tensors[f"{PREFIX}norm.{name}"] = moved
    return tensors


def test_a_plain_encoder_with_a_final_norm_is_pooled_by_its_class_token(tmp_path, phenom, stored):
    imported = weights.load(save(tmp_path / "a.safetensors", plain(phenom)))
    style = imported.encoder.style
    assert (style.final_norm, style.pool, style.channel_agnostic, imported.channels) == (True, "class", False, 3)
    assert any("that only pretraining needs are left out" in note for note in imported.notes)
    tokens, found = apply(imported, stored["images"])
    np.testing.assert_array_equal(found["embedding"], tokens[:, 0])
    if HAS_TORCH:
        close(tokens, torch_plain(plain(phenom), stored["images"]))


def torch_plain(tensors, images):
    import torch
    from reference.peers import torch_weights

    model = torch_weights.ParallelVit(16, 2, 24, 2, 4, 3, 3, 3, True).double()
    state = {k.removeprefix(PREFIX): torch.tensor(v).double() for k, v in tensors.items() if k.startswith(PREFIX)}
    model.load_state_dict(state)
    return model(torch.tensor(images).double().permute(0, 3, 1, 2)).detach().numpy()


@pytest.mark.parametrize("row_and_column", ["swapped", "learned"])
def test_other_positions_are_kept_as_learned_ones(tmp_path, phenom, stored, row_and_column):
    tensors = {name: value for name, value in phenom.items() if name.startswith(PREFIX)}
    table = np.array(tensors[f"{PREFIX}pos_embed"])
    if row_and_column == "swapped":
        table = np.roll(table, 8, axis=2)
    else:
        table[:, 1:] = np.tile(np.random.default_rng(0).normal(size=(1, 9, 16)), (1, 5, 1))
        table[:, 0] = 0.5
    imported = weights.load(save(tmp_path / "a.safetensors", tensors | {f"{PREFIX}pos_embed": table}))
    assert imported.model["positions"] == "learned" and "learned" in imported.notes[0]
    np.testing.assert_array_equal(imported.params["encoder"]["positions"], table[:, :10])
    fixed = weights.load(OPENPHENOM)
    assert np.abs(np.asarray(apply(imported, stored["images"])[0] - apply(fixed, stored["images"])[0])).max() > 0.01


def test_a_projection_with_biases_is_split_like_its_weights(tmp_path, phenom, stored):
    """in_proj.bias [mlp | q | k | v] in place of mlp_bias: with the same MLP part and no other it changes nothing."""
    tensors = {name: value for name, value in phenom.items() if name.startswith(PREFIX)}
    random = np.random.default_rng(0)
    for i in range(2):
        mlp = tensors.pop(f"{PREFIX}blocks.{i}.mlp_bias")
        tensors[f"{PREFIX}blocks.{i}.in_proj.bias"] = np.concatenate([mlp, np.zeros(48, np.float32)])
    imported = weights.load(save(tmp_path / "a.safetensors", tensors))
    assert imported.encoder.style.qkv_bias
    close(apply(imported, stored["images"])[0], stored["tokens"])
    bias = random.normal(size=72).astype(np.float32)
    tensors[f"{PREFIX}blocks.0.in_proj.bias"] = bias
    found = weights.load(save(tmp_path / "b.safetensors", tensors)).params["encoder"]["blocks"]["block"]["qkv"]["bias"]
    np.testing.assert_array_equal(found[0].reshape(2, 3, 8), bias[24:].reshape(3, 2, 8).swapaxes(0, 1))


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda t: t.pop(f"{PREFIX}blocks.1.k_norm.bias"), r"has no tensor '.*blocks.1.k_norm.bias'"),
        (lambda t: t.pop(f"{PREFIX}blocks.0.q_norm.weight"), "which alone sets the number of heads"),
        (lambda t: t.pop("decoder.cross_attention.q.weight"), "has no tensor 'decoder.cross_attention.q.weight'"),
        (lambda t: t.pop("encoder_decoder_proj.bias"), "has no tensor 'encoder_decoder_proj.bias'"),
        (lambda t: t.update({"decoder.more": np.zeros(2)}), "holds tensors that no model here has: decoder.more"),
        (lambda t: t.update({f"{PREFIX}reg": np.zeros(2)}), f"no model here has: {PREFIX}reg"),
        (lambda t: t.update({f"{PREFIX}blocks.0.ls.gamma": np.zeros(3)}), "ls.gamma' is 3, expected 16"),
        (lambda t: t.update({f"{PREFIX}cls_token": np.zeros((1, 16))}), "cls_token' is 1x16, expected 1x1x16"),
        (lambda t: t.update({f"{PREFIX}blocks.1.in_proj.weight": np.zeros((70, 16))}), "is 70x16, expected 72x16"),
        (
            lambda t: t.update({f"{PREFIX}pos_embed": np.random.default_rng(0).normal(size=(1, 46, 16))}),
            "pos_embed differs from channel to channel",
        ),
        (lambda t: t.update({"decoder.pos_embeddings": np.ones((1, 28, 16))}), "pos_embeddings is not the sine"),
        (lambda t: t.update({f"{PREFIX}patch_embed.proj.weight": np.zeros((16, 1, 4, 3))}), "4x3 pixels"),
    ],
)  # fmt: skip
def test_what_is_missing_left_over_or_of_another_shape_is_named(tmp_path, phenom, change, message):
    tensors = dict(phenom)
    change(tensors)
    path = save(tmp_path / "a.safetensors", tensors)
    with pytest.raises(UserError, match=message) as caught:
        weights.load(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_an_unknown_kind_of_file(tmp_path):
    path = save(tmp_path / "a.safetensors", {"conv1.weight": np.zeros(3)})
    with pytest.raises(UserError, match="no known kind of model has tensors like conv1.weight"):
        weights.load(path)


def test_columns_by_head_and_back():
    columns = np.arange(2 * 3 * 4 * 5).reshape(2, 60)
    found = layout.by_head(columns, heads=4)
    assert found.reshape(2, 4, 3, 5)[1, 2, 0, 3] == columns.reshape(2, 3, 4, 5)[1, 0, 2, 3]
    np.testing.assert_array_equal(layout.by_head(found, heads=3, parts=4), columns)


def test_the_stored_files_are_those_of_the_script():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    from reference import make_weights

    phenom, vit = make_weights.models()
    for model, path in ((phenom, OPENPHENOM), (vit, TIMM)):
        found = read_tensors(path)
        assert found.keys() == model.state_dict().keys()
        for name, value in model.state_dict().items():
            np.testing.assert_array_equal(found[name], value.numpy(), err_msg=name)
    assert torch.load(OPENPHENOM, weights_only=True)["state_dict"].keys() == read_tensors(OPENPHENOM).keys()


def test_what_foreign_weights_had_seen_is_unknown():
    assert [weights.seen(path).unknown for path in (TIMM, OPENPHENOM)] == [(TIMM.name,), (OPENPHENOM.name,)]
