"""timm's files as parameters of the models here: numbers against PyTorch's, other channels, what is refused."""

import numpy as np
import pytest
from weights_tools import TIMM, apply, close, save, without

from rxrx_jax import weights
from rxrx_jax.base.errors import UserError
from rxrx_jax.models.vit import SIZES, Size, Style, sincos_positions
from rxrx_jax.weights import timm


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
