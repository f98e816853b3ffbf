"""Descriptions against the published counts and against prepared data, and minibatches of noise."""

import itertools

import jax
import numpy as np
import pytest
import tiny

from rxrx_jax import data
from rxrx_jax.base.errors import UserError
from tfds_builders import prepare

# (pixels, channels, classes, experiments, images to train on), from the datasets' own pages and WILDS.
PUBLISHED = {
    "rxrx1": (512, 6, 1_139, 51, 40_612),
    "rxrx3": (2048, 6, 17_063 + 1_674 + 2, 180, 2_200_000),
    "rxrx3_core": (512, 6, 735 + 1_674 + 2, 180, 222_601),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_descriptions_are_the_published_counts(name):
    found = data.describe(name)
    pixels, channels, classes, experiments, images = PUBLISHED[name]
    assert found.name == name and found.image_shape == (pixels, pixels, channels)
    assert (len(found.classes), len(found.experiments), found.train_images) == (classes, experiments, images)
    assert len(found.plates) == {"rxrx1": 204}.get(name, 8_640)
    assert len(found.cell_types) == {"rxrx1": 4}.get(name, 1)


def test_settings_of_a_builder_change_its_description():
    assert data.describe("rxrx1", {"image_size": 256}).image_shape == (256, 256, 6)
    with pytest.raises(UserError, match="has no setting 'colour'"):
        data.describe("rxrx1", {"colour": 1})


@pytest.mark.parametrize("name", ["rxrx2", "rxrx19a", "rxrx19b"])
def test_what_is_not_published_is_not_made_up(name):
    with pytest.raises(UserError, match=f"{name}: its number of experiments and plates is not published; prepare"):
        data.describe(name)


def test_every_builder_can_be_asked():
    for name in prepare.names():
        try:
            assert data.describe(name).image_shape[2] == len(prepare.builder_class(name).channels)
        except UserError as error:
            assert "is not published" in str(error)


def test_the_simulated_screen_is_described_as_it_is_prepared(tmp_path):
    settings = tiny.SCREEN | {"train": ("SIMA-01", "SIMA-02", "SIMB-03")}
    found = data.describe("rxrx_sim", settings)
    dataset = data.open_dataset("rxrx_sim", settings, str(tmp_path))
    assert found.image_shape == dataset.image_shape
    for name in ("classes", "experiments", "plates", "cell_types"):
        assert len(getattr(found, name)) == len(getattr(dataset, name))
    assert found.train_images == (dataset.sites.split == "train").sum()

    dataset = tiny.under_protocol(dataset)
    samplers = [data.make_sampler(dataset, data.select(dataset, splits="train"), 8, "plate", 0, 0)]
    (real,) = data.training_minibatches(dataset, samplers, 1, 0, 24, 0)
    for source in (found, dataset):
        noise = next(data.synthetic_minibatches(source, 8, 24, 0))
        assert {k: (v.shape, v.dtype) for k, v in noise.items()} == {k: (v.shape, v.dtype) for k, v in real.items()}


def test_synthetic_minibatches_are_in_range_and_repeat(monkeypatch):
    found = data.describe("rxrx1")
    minibatches = data.synthetic_minibatches(found, 512, 16, seed=3)
    first = next(minibatches)
    whole = {key: value.copy() for key, value in first.items()}
    del first["row"]
    for again in itertools.islice(minibatches, 2):
        for key, value in whole.items():
            np.testing.assert_array_equal(again[key], value)
    ranges = {"label": found.classes, "experiment": found.experiments, "plate": found.plates, "cell_type": range(4)}
    for key, values in ranges.items():
        assert whole[key].min() >= 0 and len(values) * 0.9 < whole[key].max() + 1 <= len(values)
    assert whole["valid"].all() and len(np.unique(whole["image"])) == 256
    assert not np.array_equal(next(data.synthetic_minibatches(found, 512, 16, 4))["image"], whole["image"])

    monkeypatch.setattr(jax, "process_count", lambda: 2)
    first = next(data.synthetic_minibatches(found, 512, 16, 3))["image"]
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    second = next(data.synthetic_minibatches(found, 512, 16, 3))["image"]
    assert len(first) == len(second) == 256 and not np.array_equal(first, second)


def test_synthetic_statistics_standardise_the_noise():
    found = data.describe("rxrx1")
    statistics = data.synthetic_statistics(found)
    image = next(data.synthetic_minibatches(found, 8, 64, 0))["image"].astype(np.float64)
    for key, value in (("mean", image.mean()), ("std", image.std())):
        assert statistics[key].shape == (204, 6) and statistics[key].dtype == np.float32
        np.testing.assert_allclose(statistics[key], value, rtol=0.01)
