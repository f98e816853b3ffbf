"""The residual network: numbers against PyTorch (reference/peers/torch_convnets.py), size, and short runs."""

import functools

import convnet_tools
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from parameters import random_variables

from rxrx_jax import models
from rxrx_jax.adapt.method import Method
from rxrx_jax.base.config import Config
from rxrx_jax.models.densenet import DenseNet
from rxrx_jax.models.heads import Head
from rxrx_jax.models.resnet import ResNet
from rxrx_jax.tasks.classify import Classify
from rxrx_jax.training import metrics, train

MODULE = ResNet(depths=(2, 1), width=3)  # as in reference/make_convnets.py


def test_same_numbers_as_the_stored_ones_of_pytorch():
    convnet_tools.assert_like_stored(MODULE, "resnet")


def test_same_numbers_as_pytorch_with_our_weights():
    pytest.importorskip("torch", reason="PyTorch is not installed; the stored values are compared in any case")
    convnet_tools.assert_like_pytorch(MODULE, "resnet")


def test_masked_images_do_not_exist_for_batch_normalisation():
    convnet_tools.assert_mask_leaves_out(MODULE, "resnet")


def test_bfloat16_is_for_activations_only():
    convnet_tools.assert_runs_in_bfloat16(MODULE, "resnet")


def test_resnet50_has_the_parameters_of_torchvision_without_its_classifier():
    published = 25_557_032 - 1000 * (2048 + 1)
    assert convnet_tools.number_of_parameters(ResNet(), channels=3) == published
    assert convnet_tools.number_of_parameters(ResNet(), channels=6) == published + 7 * 7 * 3 * 64


def test_resnet50_strides_by_32_and_names_its_stages():
    variables = jax.eval_shape(
        lambda key: ResNet().init(key, jnp.zeros((1, 32, 32, 6)), train=False), jax.random.key(0)
    )
    images = jax.ShapeDtypeStruct((2, 256, 256, 6), jnp.float32)
    x, found = jax.eval_shape(lambda v, x: ResNet().apply(v, x, train=False), variables, images)
    assert x.shape == (2, 8, 8, 2048)
    shapes = {name: value.shape[1:] for name, value in found.items()}
    assert shapes == {
        "stem": (64, 64, 64),
        "stage1": (64, 64, 256),
        "stage2": (32, 32, 512),
        "stage3": (16, 16, 1024),
        "stage4": (8, 8, 2048),
        "embedding": (2048,),
    }


def test_kernels_start_as_in_torchvision():
    params = jax.jit(ResNet(depths=(1,)).init, static_argnames="train")(
        jax.random.key(0), jnp.zeros((1, 8, 8, 6)), train=False
    )["params"]
    for name, fan_out in (("conv1", 64), ("conv2", 9 * 64), ("conv3", 256), ("skip_conv", 256)):
        kernel = params["stage1_block1"][name]["kernel"]
        assert kernel.std() == pytest.approx(np.sqrt(2 / fan_out), rel=0.03), name
        assert np.abs(kernel).max() > 3 * kernel.std()  # normal, not truncated at two deviations
    assert params["stem_conv"]["kernel"].std() == pytest.approx(np.sqrt(2 / (49 * 64)), rel=0.03)
    assert all(np.all(x == (path[-1].key == "scale")) for path, x in norms(params))


def norms(params):
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return [(path, x) for path, x in leaves if path[-1].key != "kernel"]


def test_statistics_of_one_minibatch_replace_the_running_ones():
    images = np.random.default_rng(0).normal(1, 2, size=(4, 16, 16, 2)).astype(np.float32)
    task = Classify(MODULE, Head(3), Method(), 0.0)
    variables = random_variables(task.init, images)
    mask = np.array([True, True, False, True])
    found = jax.jit(task.minibatch_statistics)(variables["params"], variables["batch_stats"], images, mask)
    kernel = variables["params"]["encoder"]["stem_conv"]["kernel"]
    x = jax.lax.conv_general_dilated(
        images[mask], kernel, (2, 2), [(3, 3), (3, 3)], dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    norm = found["encoder"]["stem_norm"]
    np.testing.assert_allclose(norm["mean"], x.mean((0, 1, 2)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(norm["var"], x.var((0, 1, 2)), rtol=1e-4, atol=1e-5)


def test_make_encoder_knows_both_networks():
    make = lambda **values: models.make_encoder(Config(values, "model."))  # noqa: E731
    assert make(name="resnet50") == ResNet()
    assert make(name="densenet161", dtype="bfloat16") == DenseNet(dtype=jnp.bfloat16)


@pytest.mark.slow
@pytest.mark.parametrize("model, name, module", [("resnet50", "ResNet", ResNet), ("densenet161", "DenseNet", DenseNet)])
def test_the_config_runs_two_steps_of_a_shallow_one(model, name, module, tmp_path, monkeypatch):
    monkeypatch.setattr(models, name, functools.partial(module, depths=(1, 1), width=8))
    values = tiny.values(f"convnet.py:model={model},method=adabn", tmp_path / "data")
    values["evaluators"] = {"accuracy": values["evaluators"]["accuracy"]}
    last = train.run(values, tmp_path / "run")
    training, evaluation, end = metrics.read(tmp_path / "run" / "metrics.jsonl")
    assert end == last and end["done"] is True and np.isfinite(training["loss"])
    assert 0 <= evaluation["cross_batch/site_accuracy"] <= 1
