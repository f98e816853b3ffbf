"""A run of some channels embeds and publishes these, of images that have all of them or no others."""

import json

import numpy as np
import pytest
import tiny
import weights_tools
from weights_tools import embed_into

import rxrx_jax
from rxrx_jax import data
from rxrx_jax.base import embeddings
from rxrx_jax.base.errors import UserError
from rxrx_jax.training import train
from rxrx_jax.weights import export, standalone

CHANNELS = (4, 0, 2)


@pytest.fixture(scope="module")
def run(folder):
    changes = {"data.channels": CHANNELS, "normalisation": "dataset", "data.folder": str(folder)}
    weights_tools.make_run(folder / "three", folder, **changes)
    return folder / "three"


@pytest.fixture(scope="module")
def images(dataset):
    return data.read_minibatch(dataset, dataset.sites, np.arange(5))["image"]


def test_a_dataset_is_embedded_by_the_channels_of_the_run(run, folder, dataset, images):
    assert embed_into(run, dataset.folder, folder / "three.parquet") == 0
    columns, found = embeddings.read(folder / "three.parquet")
    places = [columns["site_id"].tolist().index(name) for name in dataset.sites.site_id[:5]]
    opened = rxrx_jax.load(run)
    expected = opened.embed(images)
    np.testing.assert_allclose(found[places], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(opened.embed(images[..., list(CHANNELS)]), expected)
    assert not np.allclose(opened.embed(images[..., [0, 4, 2]]), expected, atol=1e-3)  # their order is the run's
    with pytest.raises(UserError, match=r"data.channels=\(4, 0, 2\): expected numbers from 0 to 3, .* have 4"):
        opened.embed(images[..., :4])


def test_an_export_takes_them_too(run, folder, images):
    export.export(str(run), folder / "published")
    about = json.loads((folder / "published/config.json").read_text())
    assert about["channels"] == 3 and about["data_channels"] == list(CHANNELS) and len(about["mean"]) == 3
    assert "3 channels (trained on w5, w1, w3 of the data's)" in (folder / "published/README.md").read_text()
    expected = rxrx_jax.load(run).embed(images[:, :16, :16])
    opened, alone = rxrx_jax.load(folder / "published"), standalone.load(folder / "published")
    for given in (images[:, :16, :16], images[:, :16, :16, list(CHANNELS)]):
        np.testing.assert_allclose(opened.embed(given), expected, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(alone(given), expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="images have 4 channels, the model takes 3"):
        alone(images[..., :4])


def test_a_classifier_is_trained_and_read_by_them(folder, images):
    values = tiny.values("convnet.py:normalisation=image", folder, evaluators={"accuracy": {}})
    values["data"]["channels"] = (3, 5)
    train.run(values, folder / "convnet")
    opened = rxrx_jax.load(folder / "convnet")
    expected = opened.predict(images)
    np.testing.assert_array_equal(opened.predict(images[..., [3, 5]]), expected)
    assert not np.allclose(opened.predict(images[..., [5, 3]]), expected, atol=1e-6)
