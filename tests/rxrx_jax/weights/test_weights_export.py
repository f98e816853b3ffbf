"""Exported folders: every bit comes back, the card says what was measured, and embed.py needs nothing of ours."""

import ast
import dataclasses
import json
import pathlib
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import weights_tools

from rxrx_jax import models, weights
from rxrx_jax.base import command
from rxrx_jax.base.config import Config
from rxrx_jax.base.errors import UserError
from rxrx_jax.base.sharding import parameters_sha256
from rxrx_jax.data.augment import OF_IMAGES, Augment
from rxrx_jax.training.checkpoint import LAYOUT
from rxrx_jax.weights import export, standalone
from tfds_builders import prepare

PARALLEL = dict(block="parallel", qk_norm=True, qkv_bias=False, layer_scale=1e-4, class_token=True, final_norm=False)
STYLES = {
    "plain": dict(),
    "class token": dict(class_token=True, pool="class", positions="learned", qkv_bias=False),
    "layer scale": dict(qk_norm=True, layer_scale=0.1, drop_path=0.2, epsilon=1e-3, positions="learned"),
    "parallel": PARALLEL,
    "channel agnostic": PARALLEL | dict(channel_agnostic=True),
    "channel agnostic, learned": dict(channel_agnostic=True, positions="learned", class_token=True),
}


def exported(folder, **changes):
    params = weights_tools.make_run(folder / "run", folder / "data", **changes)
    export.export(str(folder / "run"), folder / "out")
    return params


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain")
    return folder, exported(folder)


def images_of(seed=0, side=16, channels=weights_tools.CHANNELS):
    return np.random.default_rng(seed).integers(0, 256, (2, side, side, channels), dtype=np.uint8)


def embedding(encoder, params, images):
    """[B, D] of the Flax encoder."""
    run = jax.jit(lambda p, x: encoder.apply({"params": p}, x)[1]["embedding"])
    return run(params["encoder"], jnp.asarray(images, jnp.float32))


def published(images):
    """Normalised by their own mean and deviation as published (Kraus et al. 2024): epsilon counts in units of 255."""
    x = images.astype(np.float64) / 255
    return (x - x.mean((1, 2), keepdims=True)) / np.sqrt(x.var((1, 2), keepdims=True) + 1e-5)


def test_every_bit_comes_back(plain):
    folder, params = plain
    imported = weights.load(folder / "out")
    assert parameters_sha256(imported.params) == parameters_sha256(params)
    assert json.loads((folder / "out/config.json").read_text())["parameters_sha256"] == parameters_sha256(params)
    by_file = weights.load(folder / "out" / "model.safetensors")
    jax.tree.map(np.testing.assert_array_equal, by_file.params, params)
    run = json.loads((folder / "run/config.json").read_text())
    assert imported.encoder == models.make_encoder(Config(run["model"]))
    assert (imported.channels, imported.crop, imported.normalisation) == (6, 16, "plate")
    assert imported.decoder is None and imported.notes == ()


def test_an_exported_encoder_starts_another_run(plain):
    folder, params = plain
    encoder = weights.load(folder / "out").encoder
    found = weights.encoder_parameters(folder / "out", params["encoder"], encoder)
    jax.tree.map(np.testing.assert_array_equal, found, params["encoder"])


@pytest.mark.parametrize("name", STYLES)
def test_embed_py_equals_the_encoder(tmp_path, name):
    changes = {f"model.{key}": value for key, value in STYLES[name].items()} | {"normalisation": "image"}
    params = exported(tmp_path, **changes)
    images = images_of()
    imported = weights.load(tmp_path / "out")
    assert imported.encoder.style == dataclasses.replace(imported.encoder.style, **STYLES[name])
    expected = embedding(imported.encoder, params, published(images))
    embed = standalone.load(tmp_path / "out")
    np.testing.assert_allclose(embed(images), expected, rtol=1e-5, atol=1e-5)
    assert not np.allclose(embed(images_of(1)), expected, atol=1e-2)
    if name == "channel agnostic":
        with_fewer = embedding(imported.encoder, params, published(images[..., :2]))
        np.testing.assert_allclose(embed(images[..., :2]), with_fewer, rtol=1e-5, atol=1e-5)
    elif imported.channels:
        with pytest.raises(ValueError, match="images have 5 channels, the model takes 6"):
            embed(images[..., :5])
    with pytest.raises(ValueError, match="images are float32"):
        embed(images.astype(np.float32))


@pytest.mark.parametrize("name", OF_IMAGES)
def test_embed_py_normalises_images_as_training_does(name):
    images = images_of()
    images[0, ..., 1] = 7
    expected = Augment(name, 16, False, False, 0.0).evaluation({"image": images}, {})
    found = standalone.normalise(images, {"normalisation": name}, None, None)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_statistics_of_plates_are_arguments_of_embed_py(plain):
    folder, params = plain
    random = np.random.default_rng(0)
    mean, std = random.uniform(20, 90, (2, 6)), random.uniform(5, 50, (2, 6))
    embed, images = standalone.load(folder / "out"), images_of()
    with pytest.raises(ValueError, match="trained with statistics of each plate: pass mean and std"):
        embed(images)
    augment = Augment("plate", 16, False, False, 0.0)
    minibatch = {"image": images, "plate": np.array([1, 0])}
    x = augment.evaluation(minibatch, {"mean": jnp.float32(mean), "std": jnp.float32(std)})
    expected = embedding(weights.load(folder / "out").encoder, params, x)
    np.testing.assert_allclose(embed(images, mean[::-1], std[::-1]), expected, rtol=1e-5, atol=1e-5)
    one = embed(images[:1], mean[1], std[1])
    np.testing.assert_allclose(one, expected[:1], rtol=1e-5, atol=1e-5)


def test_statistics_of_the_dataset_are_in_the_config(tmp_path):
    run = tmp_path / "run"
    params = weights_tools.make_run(run, tmp_path / "data", normalisation="dataset")
    values = json.loads((run / "config.json").read_text())
    with pytest.raises(UserError, match="statistics.json has the mean and deviation .* cannot be read"):
        export.export(str(run), tmp_path / "out")
    path = prepare.find("rxrx_sim", tmp_path / "data", **values["data"]["builder"])
    path.mkdir(parents=True)
    statistics = {"mean": [50.0 + i for i in range(6)], "std": [10.0 + i for i in range(6)]}
    (path / "statistics.json").write_text(json.dumps({"dataset": statistics}))
    export.export(str(run), tmp_path / "out")
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert (config["mean"], config["std"], config["transductive"]) == (statistics["mean"], statistics["std"], False)
    images = images_of()
    x = (images - np.float32(statistics["mean"])) / (np.float32(statistics["std"]) + 1e-3)
    expected = embedding(weights.load(tmp_path / "out").encoder, params, x)
    np.testing.assert_allclose(standalone.load(tmp_path / "out")(images), expected, rtol=1e-5, atol=1e-5)


def test_embed_py_imports_numpy_and_jax_and_nothing_else():
    tree = ast.parse(pathlib.Path(standalone.__file__).read_text())
    names = {name.name.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    assert names == {"functools", "json", "pathlib", "jax", "numpy"}
    assert not any(isinstance(node, ast.ImportFrom) for node in ast.walk(tree))


def test_embed_py_works_where_nothing_of_ours_and_no_flax_is(plain, tmp_path):
    folder, params = plain
    np.savez(tmp_path / "in.npz", images=images_of(), mean=np.full(6, 100.0), std=np.full(6, 40.0))
    program = (
        "import sys\n"
        "for name in ('flax', 'rxrx_jax', 'safetensors', 'torch', 'orbax', 'optax'): sys.modules[name] = None\n"
        "import numpy as np\nfrom embed import load\n"
        f"given = np.load({str(tmp_path / 'in.npz')!r})\n"
        f"np.save({str(tmp_path / 'out.npy')!r}, load('.')(given['images'], given['mean'], given['std']))\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=folder / "out", check=True)
    x = (images_of() - np.float32(100)) / np.float32(40 + 1e-3)
    expected = embedding(weights.load(folder / "out").encoder, params, x)
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), expected, rtol=1e-5, atol=1e-5)


def test_the_card_says_what_was_measured_and_on_what(plain):
    folder, params = plain
    card = (folder / "out/README.md").read_text()
    flat = " ".join(card.split())
    for phrase in (
        "# XXS/8 trained on rxrx_sim",
        "**SIMULATED DATA.",
        "Licence of the data: Apache-2.0",
        "**Transductive**",
        "6 channels and 16x16 pixels into 96 values",
        "- steps: 2 of 2",
        "- images seen: 16",
        "- time: 1 h on 2 devices, 2 device hours",
        "- processor time: 1.5 h",
        f"`{parameters_sha256(params)}`",
        "| `reconstruction/in_batch/loss` | 0.8125 |",
        "| `leakage/accuracy` | 0.25 |",
        " --config.model.variant=XXS/8",
        "from embed import load",
    ):
        assert phrase in flat, phrase
    assert str(folder) not in card  # no path of the machine


def test_the_card_of_an_unfinished_run_on_real_data(tmp_path):
    run = tmp_path / "run"
    weights_tools.make_run(run, tmp_path, **{"normalisation": "image", "data.name": "rxrx1"})
    lines = (run / "metrics.jsonl").read_text().splitlines()
    (run / "metrics.jsonl").write_text(lines[0] + "\n")
    export.export(str(run / "checkpoints" / "2"), tmp_path / "out")
    card = (tmp_path / "out/README.md").read_text()
    assert "SIMULATED" not in card and "CC BY-NC-SA 4.0" in card and "Not transductive" in card
    assert "Nothing: the run is not finished." in card and " h on " not in card


def test_what_cannot_be_exported(tmp_path, capsys):
    run = tmp_path / "run"
    weights_tools.make_run(run, tmp_path)
    argv = [f"--checkpoint={run}", f"--out={tmp_path / 'out'}"]
    assert command.run(export.main, [f"--checkpoint={tmp_path}", f"--out={tmp_path / 'out'}"]) == 2
    assert "no checkpoint there" in capsys.readouterr().err
    for line, text, message in (
        (
            "metrics.jsonl",
            '{"step": 2, "done": true, "parameters_sha256": "0"}\n',
            "is damaged: its parameters",
        ),
        ("config.json", "", "config.json is damaged (empty)"),
        (
            "config.json",
            json.dumps({"model": {"name": "convnet", "widths": [8]}, "resolved": {"layout": LAYOUT}}),
            "only a vit can be exported",
        ),
    ):
        before = (run / line).read_text()
        (run / line).write_text(text)
        assert command.run(export.main, argv) == 2
        said = capsys.readouterr().err
        assert said.startswith("error: ") and message in said and said.count("\n") == 1
        (run / line).write_text(before)
    assert not (tmp_path / "out").exists()
    assert command.run(export.main, argv) == 0
    assert "README.md, config.json, embed.py, model.safetensors" in capsys.readouterr().out
    assert command.run(export.main, argv) == 2
    assert "exists and is not empty" in capsys.readouterr().err


def test_parameters_that_are_not_those_of_the_export_are_an_error(plain, tmp_path):
    folder, _ = plain
    shutil.copytree(folder / "out", tmp_path / "out")
    path = tmp_path / "out/model.safetensors"
    content = bytearray(path.read_bytes())
    content[-40] ^= 1  # the last bit of one value
    path.write_bytes(content)
    with pytest.raises(UserError, match="is damaged: its parameters are not those that config.json records"):
        weights.load(tmp_path / "out")
    tensors = safetensors.numpy.load_file(path)
    tensors["pixels/bias"] = np.full(4, np.nan, np.float32)
    safetensors.numpy.save_file(tensors, path)
    with pytest.raises(UserError, match="4 of 4 values of 'pixels/bias' are NaN or infinite"):
        weights.load(tmp_path / "out")


def test_an_exported_folder_without_its_config_is_an_error(plain, tmp_path):
    folder, _ = plain
    (tmp_path / "model.safetensors").write_bytes((folder / "out/model.safetensors").read_bytes())
    for text in ("", "{}", '{"encoder": {"width": 3}}'):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(UserError, match="config.json (is damaged|does not describe model.safetensors)"):
            weights.load(tmp_path)


def test_the_part_that_was_evaluated_is_exported_unless_another_is_named(tmp_path):
    run = tmp_path / "run"
    params = weights_tools.make_run(run, tmp_path, parts=True)
    for part, factor, flags in (("averages", 2, []), ("params", 1, ["--parameters=params"])):
        out = tmp_path / part
        assert command.run(export.main, [f"--checkpoint={run}", f"--out={out}", *flags]) == 0
        jax.tree.map(np.testing.assert_array_equal, weights.load(out).params, weights_tools.times(factor, params))
        assert json.loads((out / "config.json").read_text())["parameters"] == part
        card = (out / "README.md").read_text()
        assert f"(`{part}`)" in card and ("not with these parameters" in card) == (part == "params")
    last = run / "metrics.jsonl"
    last.write_text(last.read_text().replace(parameters_sha256(params), "0"))  # which is the hash of "params" alone
    export.export(str(run), tmp_path / "again")
    with pytest.raises(UserError, match="is damaged"):
        export.export(str(run), tmp_path / "out", "params")


def test_a_part_that_the_run_does_not_have(plain, tmp_path):
    folder, _ = plain
    assert json.loads((folder / "out/config.json").read_text())["parameters"] == "params"
    assert "not with these parameters" not in (folder / "out/README.md").read_text()
    with pytest.raises(UserError, match="checkpoints/2 has no parameters in averages; it was trained without"):
        export.export(str(folder / "run"), tmp_path / "out", "averages")


@pytest.mark.parametrize("normalisation, said", [("image", None), ("plate", True)])
def test_what_weights_of_another_project_had_seen_is_unknown(tmp_path, normalisation, said):
    run = tmp_path / "run"
    changes = {"normalisation": normalisation, "init.path": "vit.safetensors"}
    weights_tools.make_run(run, tmp_path, unknown=("vit.safetensors",), **changes)
    export.export(str(run), tmp_path / "out")
    assert json.loads((tmp_path / "out/config.json").read_text())["transductive"] is said
    assert weights.seen(tmp_path / "out").unknown == ("vit.safetensors",)
    card = (tmp_path / "out/README.md").read_text()
    assert ("this is transductive is **unknown**" in card) == (said is None) and "Not transductive" not in card
    assert "What was seen before is **unknown** for `vit.safetensors`." in card
    assert "started from: an encoder (`vit.safetensors`)" in card


def test_what_exported_weights_had_seen_is_read_without_them(plain, tmp_path):
    folder, _ = plain
    for name in ("config.json", "seen.parquet"):
        (tmp_path / name).write_bytes((folder / "out" / name).read_bytes())
    (tmp_path / "model.safetensors").write_text("no tensors")
    assert weights.seen(tmp_path).unknown == weights.seen(tmp_path / "model.safetensors").unknown == ()
    assert weights.seen(tmp_path / "other.safetensors").unknown == ("other.safetensors",)  # which is not described
    (tmp_path / "seen.parquet").unlink()
    assert weights.seen(tmp_path / "model.safetensors").unknown == ("model.safetensors",)
    (tmp_path / "seen.parquet").write_text("no table")
    with pytest.raises(UserError, match="seen.parquet cannot be read"):
        weights.seen(tmp_path)


@pytest.mark.parametrize(
    "change, message",
    [
        (
            {"width": 192},
            r"encoder/blocks/block/mlp1/kernel is \(4, 96, 384\) there and \(4, 192, 384\) by config.json",
        ),
        ({"class_token": True}, r"encoder/class_token is absent there and \(1, 1, 96\) by"),
        ({"final_norm": False}, r"encoder/blocks/norm/bias is \(96,\) there and absent by"),
    ],
)
def test_tensors_that_are_not_those_of_the_config_are_named(plain, tmp_path, change, message):
    folder, _ = plain
    (tmp_path / "model.safetensors").write_bytes((folder / "out/model.safetensors").read_bytes())
    config = json.loads((folder / "out/config.json").read_text())
    config["encoder"] |= change
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=message):
        weights.load(tmp_path)
