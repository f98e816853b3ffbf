"""Descriptions against the published counts and against prepared data, and minibatches of noise."""

import jax
import numpy as np
import pytest
import tiny

from rxrx_jax import data
from rxrx_jax.base.config import Config
from rxrx_jax.base.errors import UserError
from rxrx_jax.data import noise
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

    config = tiny.values("convnet.py", tmp_path, **{"data.builder": settings, "augment.crop": 24})
    real, like = tiny.source(Config(config)), noise.make(Config(config))
    form = lambda streams: {s: {k: (v.shape, v.dtype) for k, v in part.items()} for s, part in streams.items()}  # noqa: E731
    spec = {key: (x.shape[1:], x.dtype) for key, x in real.spec["train"].items()}
    for source in (real, like):
        assert form(source.spec) == form(real.spec) and list(source.spec) == ["train"] and source.view == real.view
        (minibatch,) = source.minibatches(0, 1)
        assert form(minibatch) == {"train": {key: ((8, *shape), dtype) for key, (shape, dtype) in spec.items()}}
        assert form({"": source.constants}) == form({"": real.constants})
        assert source.classes == real.classes and source.shares.keys() == real.shares.keys()
        assert {kind: len(shares) for kind, shares in source.shares.items()} == {
            "experiment": len(dataset.experiments),
            "plate": len(dataset.plates),
        }
    assert like.units == real.units == {"train": 1} and like.examples == (dataset.sites.split == "train").sum()


def make(name="rxrx1", seed=3, minibatch=512, crop=16, held_out=0, pairs=""):
    config = tiny.values("convnet.py", "nowhere")
    config |= {"seed": seed} | {"augment": config["augment"] | {"crop": crop}}
    config["data"] |= {"name": name, "builder": {}, "minibatch": minibatch, "unlabelled_minibatch": held_out}
    config["data"]["pairs"] = pairs
    return noise.make(Config(config))


def test_minibatches_of_noise_are_in_range_and_repeat(monkeypatch):
    source = make()
    found, minibatches = source.description, source.minibatches(2, 5)
    first = next(minibatches)
    whole = {key: value.copy() for key, value in first["train"].items()}
    del first["train"]["image"]
    rest = list(minibatches)
    assert len(rest) == 2
    for again in rest:
        for key, value in whole.items():
            np.testing.assert_array_equal(again["train"][key], value)
    ranges = {"label": found.classes, "experiment": found.experiments, "plate": found.plates, "cell_type": range(4)}
    for key, values in ranges.items():
        assert whole[key].min() >= 0 and len(values) * 0.9 < whole[key].max() + 1 <= len(values)
    assert whole["valid"].all() and len(np.unique(whole["image"])) == 256
    image = lambda source: next(source.minibatches(0, 1))["train"]["image"]  # noqa: E731
    assert not np.array_equal(image(make(seed=4)), whole["image"])
    assert source.rows(3) == [] and source.without(3, 9) is source

    monkeypatch.setattr(jax, "process_count", lambda: 2)
    first = image(source)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    second = image(source)
    assert len(first) == len(second) == 256 and not np.array_equal(first, second)


def test_noise_has_the_streams_and_units_of_the_config():
    source = make(minibatch=8, held_out=4, pairs="perturbation")
    assert list(source.spec) == ["train", "held_out"] and source.units == {"train": 2, "held_out": 1}
    (minibatch,) = source.minibatches(0, 1)
    assert [len(part["label"]) for part in minibatch.values()] == [8, 4]
    assert make(minibatch=8).units == {"train": 1}


def test_statistics_of_noise_standardise_it():
    source = make(minibatch=8, crop=64)
    statistics = source.constants
    image = next(source.minibatches(0, 1))["train"]["image"].astype(np.float64)
    for key, value in (("mean", image.mean()), ("std", image.std())):
        assert statistics[key].shape == (204, 6) and statistics[key].dtype == np.float32
        np.testing.assert_allclose(statistics[key], value, rtol=0.01)
