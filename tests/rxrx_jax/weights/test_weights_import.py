"""Files of other projects as parameters of the models here: numbers against PyTorch's, and what does not fit."""

import dataclasses
import importlib.util
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from paths import REFERENCE

from rxrx_jax import weights
from rxrx_jax.base.errors import UserError
from rxrx_jax.models.mae import MaskedAutoencoder
from rxrx_jax.models.vit import SIZES, Encoder, Size, Style, sincos_positions
from rxrx_jax.training import base_config
from rxrx_jax.weights import layout, timm
from rxrx_jax.weights.read import read_tensors

OPENPHENOM, TIMM = REFERENCE / "weights_openphenom.bin", REFERENCE / "weights_timm.safetensors"
KEPT = 7  # as reference/make_weights.py, which needs PyTorch to be imported
HAS_TORCH = importlib.util.find_spec("torch") is not None
PREFIX = "encoder.vit_backbone."


@pytest.fixture(scope="module")
def stored():
    with np.load(REFERENCE / "weights.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def phenom():
    return read_tensors(OPENPHENOM)


@pytest.fixture(scope="module")
def vit():
    return read_tensors(TIMM)


def save(path, tensors):
    """Writes a safetensors file, named as published ones are."""
    safetensors.numpy.save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, path)
    return path


def without(tensors, *starts):
    return {name: value for name, value in tensors.items() if not name.startswith(starts)}


def apply(imported, images):
    run = jax.jit(lambda params, x: imported.encoder.apply({"params": params}, x))
    return run(imported.params["encoder"], images)


def reconstruct(imported, images, noise):
    """The prediction of the imported masked autoencoder."""
    width, depth, heads = imported.decoder
    decoder = Size(width, depth, imported.params["decoder"]["mlp1"]["bias"].size, heads)
    encoder = imported.encoder
    module = MaskedAutoencoder(encoder.size, decoder, encoder.patch, 1 - KEPT / noise.shape[1], encoder.style)
    shapes = jax.eval_shape(module.init, jax.random.key(0), images, noise)["params"]
    assert jax.tree.map(jnp.shape, imported.params) == jax.tree.map(jnp.shape, shapes)
    return jax.jit(lambda p: module.apply({"params": p}, images, noise)[0])(imported.params)


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


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


def test_a_timm_checkpoint_gives_pytorchs_tokens(stored):
    imported = weights.load(TIMM)
    tokens, found = apply(imported, stored["images"][..., :2])
    close(tokens, stored["timm_tokens"])
    np.testing.assert_array_equal(found["embedding"], tokens[:, 0])
    assert imported.encoder.size == Size(12, 2, 20, 3) and (imported.channels, imported.crop) == (2, 12)
    assert imported.encoder.style == Style(
        qk_norm=True, layer_scale=1e-5, class_token=True, pool="class", positions="learned"
    )
    assert imported.notes[0].startswith("no tensor determines the pooling: by the class token")
    assert imported.notes[1:] == ("the classifier (head) is left out",)


VARIANTS = {
    "plain": dict(),
    "no bias": dict(qkv_bias=False, qk_norm=True),
    "fc_norm": dict(class_token=False, norm="fc_norm", scaled=True),
    "no class token": dict(class_token=False),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_timm_variants_against_pytorch(tmp_path, monkeypatch, name):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed; the stored values are compared in any case")
    from reference import make_weights
    from reference.peers import torch_weights

    monkeypatch.setitem(SIZES, "tiny", Size(12, 2, 20, 2))  # tells the heads
    variant = VARIANTS[name]
    model = make_weights.randomise(torch_weights.Vit(12, 2, 20, 2, 4, 3, 3, **variant), 5)
    torch.save(model.state_dict(), tmp_path / "model.safetensors")  # named as published ones are
    imported = weights.load(tmp_path / "model.safetensors")
    images, _ = make_weights.inputs()
    with torch.no_grad():
        theirs = model.double()(torch.tensor(images).double().permute(0, 3, 1, 2)).numpy()
    tokens, found = apply(imported, images)
    close(tokens, theirs)
    pooled = theirs[:, 0] if variant.get("class_token", True) else theirs.mean(1)
    close(found["embedding"], pooled)
    assert imported.encoder.style.final_norm == (name != "fc_norm")
    assert any("fc_norm" in note for note in imported.notes) == (name == "fc_norm")
    assert imported.model["variant"] == "tiny/4"


def test_positions_of_the_patches_alone_get_none_for_the_class_token(tmp_path, vit):
    short = vit | {"pos_embed": vit["pos_embed"][:, 1:]}
    found = weights.load(save(tmp_path / "a.safetensors", short)).params["encoder"]["positions"]
    np.testing.assert_array_equal(found[:, 1:], vit["pos_embed"][:, 1:])
    assert found.shape == (1, 10, 12) and not found[:, 0].any()


def test_a_sine_cosine_table_is_made_and_not_kept(tmp_path, vit):
    code = np.concatenate([np.zeros((1, 12), np.float32), sincos_positions(3, 3, 12)])[None]
    imported = weights.load(save(tmp_path / "a.safetensors", vit | {"pos_embed": code}))
    assert imported.encoder.style.positions == "sincos" and "positions" not in imported.params["encoder"]


@pytest.mark.parametrize(
    "name, value",
    [
        ("reg_token", np.zeros((1, 4, 12))),
        ("dist_token", np.zeros((1, 1, 12))),
        ("norm_pre.weight", np.zeros(12)),
        ("blocks.0.mlp.w12.weight", np.zeros((40, 12))),
        ("blocks.1.attn.rel_pos.table", np.zeros(3)),
    ],
)
def test_what_no_model_here_has_is_refused_by_name(tmp_path, vit, name, value):
    path = save(tmp_path / "a.safetensors", vit | {name: value})
    with pytest.raises(UserError, match=f"holds tensors that no model here has: {name}"):
        weights.load(path)


def test_missing_tensors_and_heads_that_nothing_tells(tmp_path, vit):
    with pytest.raises(UserError, match="has no tensor 'pos_embed'"):  # rotary positions, for instance
        weights.load(save(tmp_path / "a.safetensors", without(vit, "pos_embed")))
    with pytest.raises(UserError, match="positions of 7 patches are not those of a square image"):
        weights.load(save(tmp_path / "c.safetensors", vit | {"pos_embed": np.zeros((1, 8, 12))}))
    norms = tuple(f"blocks.{i}.attn.{n}_norm" for i in range(2) for n in "qk")
    with pytest.raises(UserError, match="no tensor determines the number of heads, and none of .* has width 12, "):
        weights.load(save(tmp_path / "b.safetensors", without(vit, *norms)))


def test_the_patch_embedding_is_adapted_to_other_channels(vit, stored):
    imported = weights.load(TIMM, channels=5)
    assert imported.channels == 5 and any("from 2 to 5 channels" in note for note in imported.notes)
    kernel = imported.params["encoder"]["embed"]["kernel"].reshape(16, 5, 12)
    before = weights.load(TIMM).params["encoder"]["embed"]["kernel"].reshape(16, 2, 12)
    for channel in range(5):
        np.testing.assert_allclose(kernel[:, channel], before.mean(1) * 2 / 5, rtol=1e-6)
    grey = stored["images"][..., :1]
    one, _ = apply(weights.load(TIMM), np.repeat(grey, 2, axis=3))
    five, _ = apply(imported, np.repeat(grey, 5, axis=3))
    close(five, one)


@pytest.mark.parametrize("side", [2, 5])
def test_positions_are_interpolated_as_pytorch_does(side):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    table = np.random.default_rng(0).normal(size=(1, 1 + 49, 12)).astype(np.float32)
    found = timm.resize_positions(table, True, side)
    grid = torch.tensor(table[:, 1:]).reshape(1, 7, 7, 12).permute(0, 3, 1, 2)
    theirs = torch.nn.functional.interpolate(grid, size=(side, side), mode="bicubic", antialias=True)
    np.testing.assert_allclose(found[:, 1:], theirs.permute(0, 2, 3, 1).reshape(1, -1, 12), rtol=0, atol=5e-6)
    np.testing.assert_array_equal(found[:, 0], table[:, 0])


def test_positions_of_a_straight_slope_stay_straight():
    """Bicubic interpolation keeps a line where its window lies inside; the centres of the patches are what moves."""
    slope = np.broadcast_to(np.arange(8.0)[:, None, None], (8, 8, 4)).reshape(1, 64, 4).astype(np.float32)
    found = timm.resize_positions(slope, False, 16).reshape(16, 16, 4)
    np.testing.assert_allclose(found[4:12, 3, 0], np.arange(4, 12) / 2 - 0.25, atol=1e-5)


def shapes_of(encoder, pixels, channels):
    view = jax.ShapeDtypeStruct((1, pixels, pixels, channels), jnp.float32)
    return jax.eval_shape(encoder.init, jax.random.key(0), view)["params"]


def test_encoder_parameters_fit_a_model_of_another_task(capsys):
    encoder = weights.load(OPENPHENOM).encoder
    found = weights.encoder_parameters(OPENPHENOM, shapes_of(encoder, 24, 6), encoder)  # any size, any channels
    jax.tree.map(np.testing.assert_array_equal, found, weights.load(OPENPHENOM).params["encoder"])
    assert "fc_norm is left out" in capsys.readouterr().err


def test_encoder_parameters_of_timm_are_adapted_to_the_shapes(capsys):
    encoder = weights.load(TIMM).encoder
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), shapes_of(encoder, 20, 6)
    )
    found = weights.encoder_parameters(TIMM, shapes, encoder)
    assert found["embed"]["kernel"].shape == (96, 12) and found["positions"].shape == (1, 26, 12)
    assert isinstance(found["positions"], jax.Array) and found["positions"].sharding == sharding
    expected = weights.load(TIMM, channels=6, side=5).params["encoder"]
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    said = capsys.readouterr().err
    assert "from 2 to 6 channels" in said and "from 3x3 to 5x5 patches" in said


@pytest.mark.parametrize(
    "encoder, message",
    [
        (Encoder(Size(16, 3, 24, 2), 4), "blocks/block/k_norm/bias is (2, 8) there and absent in this model"),
        (Encoder(Size(16, 2, 24, 2), 4, Style(block="parallel")), "blocks/block/k_norm/bias is (2, 8) there"),
    ],
)
def test_encoder_parameters_that_do_not_fit_name_the_first_and_the_keys(encoder, message):
    with pytest.raises(UserError) as caught:
        weights.encoder_parameters(OPENPHENOM, shapes_of(encoder, 12, 3))
    assert message in str(caught.value)
    assert "set --config.model.name=vit --config.model.block=parallel --config.model.qkv_bias=False" in str(
        caught.value
    )


@pytest.mark.parametrize("key, value", [("heads", 4), ("epsilon", 1e-5)])
def test_what_shapes_do_not_show_is_compared_with_the_module(vit, tmp_path, monkeypatch, key, value):
    monkeypatch.setitem(SIZES, "tiny", Size(12, 2, 20, 3))
    norms = tuple(f"blocks.{i}.attn.{n}_norm" for i in range(2) for n in "qk")
    path = save(tmp_path / "a.safetensors", without(vit, *norms))
    encoder = weights.load(path).encoder
    if key == "heads":
        other = encoder.clone(size=Size(12, 2, 20, value))
    else:
        other = encoder.clone(style=Style(**(vars(encoder.style) | {key: value})))
    weights.encoder_parameters(path, shapes_of(encoder, 12, 2), encoder)
    with pytest.raises(UserError, match=f"{key} is .* there and {value} in this model; set .*variant=tiny/4"):
        weights.encoder_parameters(path, shapes_of(other, 12, 2), other)


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


def test_every_key_that_an_error_names_is_in_the_configs():
    names = {"name", "variant"} | {field.name for field in dataclasses.fields(Style)}
    for kind in base_config.ENCODERS:
        assert names <= base_config.encoder(types.SimpleNamespace(variant="", encoder=kind, get=lambda _: "")).keys()


def test_the_keys_are_those_that_the_model_has_otherwise():
    there = weights.load(OPENPHENOM).encoder
    here = there.clone(style=Style(block="parallel", drop_path=0.1, positions="learned"))
    with pytest.raises(UserError) as caught:
        weights.encoder_parameters(OPENPHENOM, shapes_of(here, 12, 3), here)
    keys = str(caught.value).partition("; set ")[2]
    assert keys == (
        "--config.model.name=vit --config.model.qkv_bias=False --config.model.qk_norm=True "
        "--config.model.layer_scale=0.0001 --config.model.class_token=True --config.model.positions=sincos "
        "--config.model.final_norm=False --config.model.channel_agnostic=True; "
        "no variant is 16 wide with 2 blocks, 2 heads, MLP 24, patch 4"
    )
