"""ResNets and DenseNets of torchvision and timm: names, numbers of PyTorch, repeated stems, and what does not fit."""

import re

import convnet_tools
import jax
import numpy as np
import pytest
import safetensors.numpy
import tiny
from paths import REFERENCE
from reference import convert_convnets

import rxrx_jax
from rxrx_jax import weights
from rxrx_jax.base.errors import UserError
from rxrx_jax.models.densenet import DenseNet
from rxrx_jax.models.resnet import ResNet
from rxrx_jax.training import checkpoint, train
from rxrx_jax.weights import convnets

MODULES = {
    "resnet": ResNet(depths=(2, 1), width=3),
    "densenet": DenseNet(depths=(2, 3), growth=3, width=5),
}
both = pytest.mark.parametrize("name", MODULES)


def published(name, tensors):
    """Tensors by the names of reference/peers/torch_convnets.py -> torchvision's, with what it has besides."""
    rules = {
        "resnet": (
            (r"^stem_conv", "conv1"),
            (r"^stem_norm", "bn1"),
            (r"^stage(\d)_block(\d+)\.", lambda m: f"layer{m[1]}.{int(m[2]) - 1}."),
            (r"\.norm(\d)", r".bn\1"),
            (r"skip_conv", "downsample.0"),
            (r"skip_norm", "downsample.1"),
        ),
        "densenet": (
            (r"^stem_(conv|norm)", r"features.\g<1>0"),
            (r"^stage(\d)_layer(\d+)_squeeze\.(conv|norm)", r"features.denseblock\1.denselayer\2.\g<3>1"),
            (r"^stage(\d)_layer(\d+)_(conv|norm)", r"features.denseblock\1.denselayer\2.\g<3>2"),
            (r"^transition(\d)_(conv|norm)", r"features.transition\1.\2"),
            (r"^norm\.", "features.norm3."),
        ),
    }[name]
    found = {}
    for key, value in tensors.items():
        for pattern, replacement in rules:
            key = re.sub(pattern, replacement, key)
        found[key] = value
        if key.endswith("running_var"):
            found[key.replace("running_var", "num_batches_tracked")] = np.array(7)
    head = "fc" if name == "resnet" else "classifier"
    return found | {f"{head}.weight": np.ones((10, 4), np.float32), f"{head}.bias": np.ones(10, np.float32)}


@pytest.fixture(scope="module")
def stored():
    found = {name: convnet_tools.load(name) for name in MODULES}
    return {name: (convnet_tools.under(arrays, "weight/"), arrays) for name, arrays in found.items()}


def save(path, tensors):
    safetensors.numpy.save_file({name: np.ascontiguousarray(x) for name, x in tensors.items()}, path)
    return path


@both
def test_a_file_gives_the_numbers_of_pytorch(stored, tmp_path, name):
    tensors, arrays = stored[name]
    expected = convert_convnets.to_jax(tensors)
    imported = weights.load(save(tmp_path / "w.safetensors", published(name, tensors)))
    assert imported.encoder == MODULES[name] and imported.channels == 2 and imported.model == {}
    assert imported.notes == ("the classifier is left out",)
    assert jax.tree.structure(imported.params["encoder"]) == jax.tree.structure(expected["params"])
    jax.tree.map(np.testing.assert_array_equal, imported.params["encoder"], expected["params"])
    jax.tree.map(np.testing.assert_array_equal, imported.batch_stats["encoder"], expected["batch_stats"])
    variables = {"params": imported.params["encoder"], "batch_stats": imported.batch_stats["encoder"]}
    _, found = imported.encoder.apply(variables, arrays["images"], train=False)
    np.testing.assert_allclose(found["embedding"], arrays["eval/out/embedding"], rtol=1e-4, atol=1e-5)


def test_names_of_the_early_version_and_prefixes(stored, tmp_path):
    """As in torchvision's own file of DenseNet-161, and in a training program's checkpoint."""
    tensors = published("densenet", stored["densenet"][0])
    early = {re.sub(r"(denselayer\d+\.)(norm|conv)(\d)", r"\1\2.\3", name): x for name, x in tensors.items()}
    assert convnets.DENSENET[1] in early
    old = weights.load(save(tmp_path / "old.safetensors", early))
    new = weights.load(save(tmp_path / "new.safetensors", {f"module.net.{name}": x for name, x in tensors.items()}))
    jax.tree.map(np.testing.assert_array_equal, old.params, new.params)
    jax.tree.map(np.testing.assert_array_equal, old.batch_stats, new.batch_stats)


@pytest.mark.parametrize("channels", [1, 2, 5, 6])
def test_a_stem_is_repeated_as_timm_does_it(channels):
    with np.load(REFERENCE / "wilds.npz") as arrays:
        stem, expected = arrays["stem"], arrays[f"stem/{channels}"]
    found = convnets.repeat_stem(stem.transpose(2, 3, 1, 0), channels)
    np.testing.assert_allclose(found, expected.transpose(2, 3, 1, 0), rtol=1e-6)


@both
def test_a_repeated_stem_is_named(stored, tmp_path, name):
    path = save(tmp_path / "w.safetensors", published(name, stored[name][0]))
    imported = weights.load(path, channels=4)
    assert imported.channels == 4 and imported.notes[1] == (
        "the stem is repeated from 2 to 4 channels: channel c has the weights of channel c mod 2, times 2/4, as timm's "
        "adapt_input_conv"
    )
    grey = np.random.default_rng(0).normal(size=(2, 20, 20, 1)).astype(np.float32)
    features = [
        one.encoder.apply(
            {"params": one.params["encoder"], "batch_stats": one.batch_stats["encoder"]},
            np.repeat(grey, one.channels, -1),
            train=False,
        )[1]["embedding"]
        for one in (imported, weights.load(path))
    ]
    np.testing.assert_allclose(*features, rtol=1e-4, atol=1e-5)


@both
def test_what_does_not_fit_is_named(stored, tmp_path, name):
    tensors = published(name, stored[name][0])
    lost = next(key for key in tensors if key.endswith("running_mean"))
    path = save(tmp_path / "lost.safetensors", {key: x for key, x in tensors.items() if key != lost})
    with pytest.raises(UserError, match=f"lost.safetensors has no tensor '{lost}', which its kind of model needs"):
        weights.load(path)
    path = save(tmp_path / "more.safetensors", tensors | {"se.weight": np.ones(3, np.float32)})
    with pytest.raises(UserError, match="more.safetensors holds tensors that no model here has: se.weight"):
        weights.load(path)
    path = save(tmp_path / "w.safetensors", tensors)
    whole = {"resnet": ResNet(), "densenet": DenseNet()}[name]
    view = jax.ShapeDtypeStruct((1, 32, 32, 6), np.float32)
    shapes = jax.eval_shape(lambda key, x: whole.init(key, x, train=False), jax.random.key(0), view)
    with pytest.raises(UserError, match="does not fit: .*; set another model: none here has its 2 . [13] blocks"):
        weights.encoder_network(path, shapes["params"], shapes["batch_stats"], whole)
    with pytest.raises(UserError, match="holds a convolutional network: only a vit can embed a dataset"):
        rxrx_jax.load(path).embed(np.zeros((1, 32, 32, 2), np.uint8))


def test_the_models_of_a_config_have_names():
    assert weights.layout.model_keys(ResNet()) == {"name": "resnet50"}
    assert weights.layout.model_keys(DenseNet()) == {"name": "densenet161"}


@pytest.mark.parametrize("name, module", [("resnet50", ResNet()), ("densenet161", DenseNet())])
def test_the_names_are_those_of_timm(name, module):
    timm = pytest.importorskip("timm", reason="timm is not installed; its names are read in any case")
    state = timm.create_model(name).state_dict()
    imported = convnets.convert("timm", {key: x.numpy() for key, x in state.items()}, 6)
    assert imported.encoder == module and imported.model == {"name": name} and imported.channels == 6
    view = jax.ShapeDtypeStruct((1, 32, 32, 6), np.float32)
    shapes = jax.eval_shape(lambda key, x: module.init(key, x, train=False), jax.random.key(0), view)
    for kind, tree in (("params", imported.params), ("batch_stats", imported.batch_stats)):
        assert jax.tree.map(lambda x: str(x.shape), tree["encoder"]) == jax.tree.map(
            lambda x: str(x.shape), shapes[kind]
        )


def test_a_run_starts_from_the_parameters_and_the_statistics(stored, tmp_path, monkeypatch, capsys):
    """And the next stage, a probe whose network is frozen, from those of that run."""
    from rxrx_jax import models

    monkeypatch.setattr(models, "ResNet", lambda dtype: MODULES["resnet"])
    file = save(tmp_path / "resnet.safetensors", published("resnet", stored["resnet"][0]))
    values = tiny.values("convnet.py:model=resnet50", tmp_path, evaluators={"accuracy": {}})
    values |= {"total_steps": 2, "optim": values["optim"] | {"lr": 1e-9}}
    values["init"]["path"] = str(file)
    train.run(values, tmp_path / "run")
    assert "the stem is repeated from 2 to 6 channels" in capsys.readouterr().err
    imported = weights.load(file, channels=6)
    params, statistics = checkpoint.stored_network(tmp_path / "run")
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        params["encoder"],
        imported.params["encoder"],
    )
    moved = statistics["encoder"]["stem_norm"]["mean"]  # nine tenths of it are the file's
    assert np.abs(moved - imported.batch_stats["encoder"]["stem_norm"]["mean"]).max() > 1e-3

    probe = tiny.values("linear_probe.py", tmp_path, evaluators={"accuracy": {}}) | {"model": {"name": "resnet50"}}
    probe |= {"total_steps": 2, "normalisation": values["normalisation"]}
    probe["init"] |= {"path": str(tmp_path / "run"), "contaminated": "allow"}
    train.run(probe, tmp_path / "probe")
    frozen, of_probe = checkpoint.stored_network(tmp_path / "probe")
    jax.tree.map(np.testing.assert_array_equal, frozen["encoder"], params["encoder"])
    jax.tree.map(np.testing.assert_array_equal, of_probe["encoder"], statistics["encoder"])
