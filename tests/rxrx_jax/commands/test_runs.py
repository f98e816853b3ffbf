"""rxrx_jax.load and rxrx_jax.datasets: the numbers of the commands, and one line for what does not fit."""

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import weights_tools
from paths import ROOT

import rxrx_jax
from rxrx_jax import embed, runs, tasks
from rxrx_jax.base import embeddings
from rxrx_jax.base.config import Config
from rxrx_jax.base.errors import UserError
from rxrx_jax.data.augment import Augment, plate_statistics
from rxrx_jax.training import train
from rxrx_jax.weights import export


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    weights_tools.make_run(folder / "plate", folder)
    weights_tools.make_run(folder / "image", folder, normalisation="image")
    return folder


@pytest.fixture(scope="module")
def dataset(folder):
    return rxrx_jax.datasets.open("rxrx_sim", folder, **tiny.SCREEN)


@pytest.fixture(scope="module")
def everything(dataset):
    """All images of the dataset [n, H, W, C], in the order of its table, and the name of each one's plate."""
    images = np.concatenate([part["image"] for part in rxrx_jax.datasets.minibatches(dataset, size=32)])
    return images, [dataset.plates[plate] for plate in dataset.sites.plate]


@pytest.fixture(scope="module")
def classifier(folder, dataset):
    """A trained run of two steps, with BatchNorm, on windows of 16 pixels and scored on whole images of 32."""
    changes = {"augment.crop": 16, "augment.evaluation_view": "whole"}
    values = tiny.values("convnet.py:normalisation=plate", folder, evaluators={"accuracy": {}}, **changes)
    train.run(values, folder / "convnet")
    return folder / "convnet"


def test_importing_the_package_is_quick_and_touches_no_device():
    code = (
        "import sys, rxrx_jax\n"
        "print([name for name in ('jax', 'numpy', 'flax', 'tensorflow_datasets') if name in sys.modules])\n"
        "print(sorted({'load', 'datasets', 'weights'} & set(dir(rxrx_jax))))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout == "[]\n['datasets', 'load', 'weights']\n"
    assert rxrx_jax.load is runs.load and all(hasattr(rxrx_jax, name) for name in rxrx_jax.__all__)
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        rxrx_jax.lod  # noqa: B018


def test_a_run_embeds_as_the_command_does(folder, dataset, everything):
    out = folder / "plate.parquet"
    embed.embed_dataset(embed.open_model(str(folder / "plate"), 6), dataset, out, minibatch=16)
    columns, expected = embeddings.read(out)
    images, plates = everything
    found = rxrx_jax.load(folder / "plate").embed(images, plate=plates, minibatch=50)  # an odd last part
    row = {name: i for i, name in enumerate(dataset.sites.site_id.tolist())}
    np.testing.assert_allclose(found[[row[name] for name in columns["site_id"]]], expected, rtol=1e-4, atol=1e-4)
    assert found.dtype == np.float32


def test_images_of_other_channels_are_refused_with_both_numbers(folder, classifier, everything):
    images = everything[0][:2, :, :, :3]
    with pytest.raises(UserError, match="image takes images of 6 channels and these have 3$"):
        rxrx_jax.load(folder / "image").embed(images)
    with pytest.raises(UserError, match="convnet takes images of another number of channels than 3: .*3, 3, 6, 8"):
        rxrx_jax.load(classifier).predict(images, plate=["a", "a"])


def test_what_is_not_there_is_named_as_it_was_given():
    with pytest.raises(UserError, match="^nope: no such file or folder"):
        rxrx_jax.load("nope")


def test_the_names_of_plates_do_not_matter_and_their_images_do(folder, everything):
    images, plates = (part[:24] for part in everything)
    run = rxrx_jax.load(folder / "plate")
    found = run.embed(images, plate=plates)
    np.testing.assert_array_equal(run.embed(images, plate=[hash(name) for name in plates]), found)
    assert not np.allclose(run.embed(images, plate=["all"] * 24), found, atol=1e-3)
    with pytest.raises(UserError, match="statistics of each plate: pass plate=, a name for each image"):
        run.embed(images)
    with pytest.raises(UserError, match="pass plate="):
        run.embed(images, plate=plates[:-1])


def test_an_export_embeds_alike(folder, everything):
    images = everything[0][:5]
    export.export(str(folder / "image"), folder / "out")
    run = rxrx_jax.load(folder / "out")
    np.testing.assert_array_equal(run.embed(images), rxrx_jax.load(folder / "image").embed(images))
    assert run.config["crop"] == 16 and run.metrics == []
    assert rxrx_jax.load(folder / "out/model.safetensors").config == run.config
    foreign = rxrx_jax.load(weights_tools.TIMM)
    assert foreign.embed(images).shape == (5, 12) and foreign.config["model"]["name"] == "vit"


def test_statistics_of_the_dataset_come_from_where_the_run_found_them(folder, dataset, everything):
    weights_tools.make_run(folder / "dataset", folder, normalisation="dataset")
    export.export(str(folder / "dataset"), folder / "dataset-out")
    for path in (folder / "dataset", folder / "dataset-out"):
        plates, found = rxrx_jax.load(path)._statistics(everything[0][:4], None, "dataset")
        assert plates.tolist() == [0] * 4
        for key in ("mean", "std"):
            np.testing.assert_allclose(found[key], getattr(dataset, key)["dataset"], rtol=1e-6)


def test_config_and_metrics(folder):
    run = rxrx_jax.load(str(folder / "plate"))
    assert run.config["normalisation"] == "plate" and run.config["resolved"]["total_steps"] == 2
    lines = (folder / "plate" / "metrics.jsonl").read_text().splitlines()
    assert run.metrics == [json.loads(line) for line in lines]
    assert not any(isinstance(value, (dict, list)) for line in run.metrics for value in line.values())


def test_predictions_are_those_of_the_evaluation(classifier, dataset, everything):
    images, plates = everything
    run = rxrx_jax.load(classifier)
    found = run.predict(images, plate=plates)
    assert found.shape == (len(images), len(dataset.classes))
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-5)
    # The same by the task itself, with the statistics of the prepared dataset.
    from rxrx_jax.training import checkpoint

    params, statistics = checkpoint.stored_network(str(classifier), "params")
    assert statistics["encoder"]  # BatchNorm's
    known = runs.types.SimpleNamespace(classes=found.shape[1], shares=runs._NO_SHARES)
    task = tasks.make_task(Config(run.config), known)
    augment = Augment("plate", 32, False, False, 0.0)
    minibatch = {"image": jnp.asarray(images[:16]), "plate": dataset.sites.plate[:16]}
    normalised = augment.evaluation(minibatch, plate_statistics(dataset, "plate"))
    logits = task.predict(params, {"head": {}} | statistics, normalised, np.ones(16, bool))["logits"]
    np.testing.assert_allclose(found[:16], jax.nn.softmax(logits), rtol=1e-3, atol=1e-4)
    scored = [line for line in run.metrics if line.get("final")][-1]
    rows = rows_scored(dataset, run.config["protocol"]["name"])
    accuracy = (found[rows].argmax(1) == dataset.sites.label[rows]).mean()
    assert accuracy == pytest.approx(scored["in_batch/site_accuracy"], abs=1e-6)


def rows_scored(dataset, protocol):
    rows = tiny.under_protocol(dataset, protocol).roles.scored["in_batch"]
    return rows[dataset.sites.label[rows] >= 0]


def test_what_predicts_no_classes(folder, everything, classifier, tmp_path):
    images = everything[0][:2]
    with pytest.raises(UserError, match="predicts no classes: it is of task mae; load a run of classify or probe"):
        rxrx_jax.load(folder / "plate").predict(images)
    with pytest.raises(UserError, match="it is of weights without a head"):
        rxrx_jax.load(weights_tools.TIMM).predict(images)
    with pytest.raises(UserError, match="trained a convnet: only a vit"):
        rxrx_jax.load(classifier).embed(images)
    with pytest.raises(UserError, match="was trained on 16 pixels and the images have 8x32"):
        rxrx_jax.load(classifier).predict(images[:, :8], plate=[1, 1])
    changed = rxrx_jax.load(classifier)
    changed.config["adapt"] = {"name": "arm_bn"}
    with pytest.raises(UserError, match="the method arm_bn reads the images of a plate or experiment together"):
        changed.predict(images, plate=[1, 1])


@pytest.mark.parametrize(
    "images, said",
    [
        (np.zeros((2, 16, 16, 6), np.float32), "float32"),
        (np.zeros((16, 16, 6), np.uint8), "16, 16, 6"),
        ([1], "a list"),
    ],
)
def test_images_of_another_form(folder, images, said):
    with pytest.raises(UserError, match=f"images are .*{said}.*expected a numpy array, uint8"):
        rxrx_jax.load(folder / "image").embed(images)


def test_minibatches_hold_each_row_once_in_order(dataset):
    rows = rxrx_jax.datasets.select(dataset, splits="train", well_types="treatment")
    parts = list(rxrx_jax.datasets.minibatches(dataset, rows, 7, crop=16))
    assert [len(part["row"]) for part in parts[:-1]] == [7] * (len(parts) - 1)
    np.testing.assert_array_equal(np.concatenate([part["row"] for part in parts]), rows)
    np.testing.assert_array_equal(np.concatenate([part["label"] for part in parts]), dataset.sites.label[rows])
    assert parts[0]["image"].shape == (7, 16, 16, 6) and "valid" not in parts[0]


def test_datasets_by_name_and_by_folder(dataset, folder, tmp_path):
    opened = rxrx_jax.datasets.open(dataset.folder)
    assert opened.plates == dataset.plates
    with pytest.raises(UserError, match="open it without seed"):
        rxrx_jax.datasets.open(dataset.folder, seed=1)
    with pytest.raises(UserError, match="is not a folder that tfds_builders.prepare made"):
        rxrx_jax.datasets.open(tmp_path)
    with pytest.raises(UserError, match="no dataset in .*; make it with"):
        rxrx_jax.datasets.open("rxrx1", tmp_path)
