"""What an exported folder is to others: a card that the hub reads, files like their neighbours, timm's own format."""

import ast
import importlib
import json
import shlex

import jax
import numpy as np
import pytest
import safetensors.numpy
import weights_tools
from paths import REFERENCE
from reference.timm import cases as timm_cases

from rxrx_jax import models, weights
from rxrx_jax.base import command, config
from rxrx_jax.base.errors import UserError
from rxrx_jax.models.vit import Encoder, Style
from rxrx_jax.weights import export, timm, to_timm
from rxrx_jax.weights.card import next_stage


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of an encoder that timm has too, normalised by statistics of the image, and its export."""
    folder = tmp_path_factory.mktemp("publish")
    weights_tools.make_run(folder / "run", folder, normalisation="image")
    export.export(str(folder / "run"), folder / "out")
    return folder


@pytest.fixture(scope="module")
def as_timm(run):
    export.export(str(run / "run"), run / "timm", form="timm")
    return run / "timm"


def front_matter(card: str) -> dict:
    import yaml

    start, text, _ = card.split("---\n", 2)
    assert start == ""
    return yaml.safe_load(text)


def test_the_front_matter_names_library_task_and_licence(run, as_timm):
    found = front_matter((run / "out/README.md").read_text())
    assert found["library_name"] == "rxrx_jax" and found["license"] == "apache-2.0"
    assert found["pipeline_tag"] == "image-feature-extraction" and "microscopy" in found["tags"]
    assert front_matter((as_timm / "README.md").read_text())["library_name"] == "timm"


@pytest.mark.parametrize(
    "data, licence, link",
    [
        ("rxrx1", "cc-by-nc-sa-4.0", None),
        ("rxrx19a", "cc-by-4.0", None),
        ("rxrx3", "other", "https://rxrx3.rxrx.ai/static/"),
    ],
)
def test_the_licence_of_the_data_in_the_hubs_terms(tmp_path, data, licence, link):
    changes = {"normalisation": "image", "data.name": data, "init.path": "hf://someone/vit@main"}
    weights_tools.make_run(tmp_path / "run", tmp_path, unknown=("hf://someone/vit@main",), **changes)
    export.export(str(tmp_path / "run"), tmp_path / "out")
    found = front_matter((tmp_path / "out/README.md").read_text())
    assert (found["license"], found.get("license_link")) == (licence, link)
    assert found["base_model"] == "someone/vit" and ("license_name" in found) == (licence == "other")


def test_huggingface_hub_reads_the_card(run):
    hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")
    card = hub.ModelCard.load(run / "out/README.md")
    assert card.data.library_name == "rxrx_jax" and card.data.license == "apache-2.0"
    assert card.data.to_dict()["pipeline_tag"] == "image-feature-extraction"
    assert card.text.lstrip().startswith("# XXS/8 trained on rxrx_sim")


def test_all_files_have_the_same_mode(run, as_timm):
    for folder in (run / "out", as_timm):
        assert len({path.stat().st_mode & 0o777 for path in folder.iterdir()}) == 1, folder


def test_one_line_of_the_card_starts_the_next_stage(run):
    lines = [x for x in (run / "out/README.md").read_text().splitlines() if x.startswith("python -m rxrx_jax.main ")]
    _, _, module, file, *options = shlex.split(lines[0].replace("FOLDER", str(run / "out")))
    assert (len(lines), module) == (1, "rxrx_jax.main")
    values = config.load(file.removeprefix("--config="))
    for option in options:
        key, _, text = option.removeprefix("--config.").partition("=")
        *parents, last = key.split(".")
        node = values
        for parent in parents:
            node = node[parent]
        assert last in node, key  # a key of that config
        node[last] = text if isinstance(node[last], str) else ast.literal_eval(text)
    encoder = models.make_encoder(config.Config(values["model"]))
    view = jax.ShapeDtypeStruct((1, values["augment"]["crop"], values["augment"]["crop"], 6), np.float32)
    shapes = jax.eval_shape(encoder.init, jax.random.key(0), view)["params"]
    found = weights.encoder_parameters(values["init"]["path"], shapes, encoder)
    jax.tree.map(np.testing.assert_array_equal, found, weights.load(run / "out").params["encoder"])
    assert values["normalisation"] == "image"


def test_the_line_of_another_dataset():
    of = {"normalisation": "image", "augment": {"crop": 8}, "model": {"variant": "S/16"}}
    for name, start in (("rxrx_sim", ""), ("rxrx1", ":data=rxrx1"), ("my_plates", ":data=my_plates")):
        line = next_stage({"data": {"name": name}} | of)
        assert line.startswith(f"python -m rxrx_jax.main --config=linear_probe.py{start} --config.init.path=FOLDER ")
        assert config.load(f"linear_probe.py{start}")["data"]["name"] == name


@pytest.fixture(scope="module")
def stored():
    with np.load(REFERENCE / "timm.npz") as arrays:
        return dict(arrays)


@pytest.mark.parametrize("name", timm_cases.STYLES)
def test_tensors_have_the_names_and_shapes_of_timms_models(stored, name):
    encoder, params = timm_cases.encoder(name), timm_cases.parameters(name)
    tensors = to_timm.tensors(encoder, params, timm_cases.CROP)
    assert {key: list(value.shape) for key, value in tensors.items()} == json.loads(str(stored["shapes"]))[name]
    if name == "scaled":  # where the norms of queries tell the heads
        jax.tree.map(np.testing.assert_array_equal, timm.convert("", tensors, None, None).params["encoder"], params)


@pytest.mark.parametrize("name", timm_cases.STYLES)
def test_timm_gives_the_same_embeddings(stored, name):
    encoder = timm_cases.encoder(name)
    _, found = jax.jit(encoder.apply)({"params": timm_cases.parameters(name)}, timm_cases.images())
    np.testing.assert_allclose(found["embedding"], stored[name], rtol=1e-5, atol=1e-5)
    assert json.loads(str(stored["digests"]))[name] == timm_cases.digest(name)  # of the tensors that timm was given
    if has_timm():
        from reference.timm import make as make_timm

        np.testing.assert_allclose(found["embedding"], make_timm.embed(name), rtol=1e-5, atol=1e-5)


def has_timm() -> bool:
    try:
        importlib.import_module("timm")
    except (ImportError, RuntimeError):  # torchvision raises the latter beside another PyTorch
        return False
    return True


def test_an_exported_folder_is_one_of_timms(as_timm, run):
    about = json.loads((as_timm / "config.json").read_text())
    model = about["model_args"]
    assert (model["embed_dim"], model["depth"], model["in_chans"], model["img_size"]) == (96, 4, 6, 16)
    assert {path.name for path in as_timm.iterdir()} == {
        "README.md",
        "config.json",
        "model.safetensors",
        "seen.parquet",
    }
    assert "timm.create_model" in (as_timm / "README.md").read_text()
    with safetensors.safe_open(as_timm / "model.safetensors", "np") as file:
        assert file.metadata() == {"format": "pt"}
    found, params = weights.load(as_timm), weights.load(run / "out").params["encoder"]
    jax.tree.map(np.testing.assert_array_equal, found.params["encoder"], params)
    assert found.encoder == weights.load(run / "out").encoder and weights.seen(as_timm).unknown == ()
    if has_timm():
        import timm as library
        import torch

        images = np.random.default_rng(0).normal(size=(2, 16, 16, 6)).astype(np.float32)
        made = library.create_model(f"local-dir:{as_timm}", pretrained=True).eval()
        with torch.no_grad():
            theirs = made(torch.tensor(images.transpose(0, 3, 1, 2))).numpy()
        ours = jax.jit(found.encoder.apply)({"params": params}, images)[1]["embedding"]
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "style, key",
    [({"block": "parallel"}, "block"), ({"channel_agnostic": True}, "channel"), ({"epsilon": 1e-5}, "eps")],
)
def test_what_timm_does_not_have_is_refused(style, key):
    with pytest.raises(UserError, match=f"timm has no ViT with model.{key}.*export it without --format"):
        to_timm.check(Encoder(timm_cases.SIZE, 4, Style(**style)))


def test_the_command(run, tmp_path, capsys):
    assert command.run(export.main, [f"--checkpoint={run / 'run'}", f"--out={tmp_path / 'a'}", "--format=timm"]) == 0
    assert "README.md, config.json, model.safetensors, seen.parquet" in capsys.readouterr().out
