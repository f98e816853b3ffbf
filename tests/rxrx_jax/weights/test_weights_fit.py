"""Parameters of other projects in the model of a config: adapted to its shapes, or refused with the keys to set."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from weights_tools import OPENPHENOM, TIMM, save, without

from rxrx_jax import weights
from rxrx_jax.base.errors import UserError
from rxrx_jax.models.vit import SIZES, Encoder, Size, Style
from rxrx_jax.training import base_config


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
