"""Some channels of a dataset's images: pixels, statistics, streams and identity."""

import numpy as np
import pytest
import tiny

from rxrx_jax import data
from rxrx_jax.base.config import Config
from rxrx_jax.base.errors import UserError
from rxrx_jax.data import noise
from rxrx_jax.evaluate import protocols
from tfds_builders.common import encodings

CHOICES = [(0, 1, 2), (2, 3), (4, 0, 5), (1,)]


@pytest.fixture(scope="module")
def values(folder):
    return lambda *channels, **changes: tiny.values("convnet.py", folder, **{"data.channels": channels} | changes)


@pytest.fixture(scope="module")
def whole(values):
    settings = values()["data"]
    return data.open_dataset("rxrx_sim", settings["builder"], settings["folder"])


@pytest.mark.parametrize("channels", CHOICES)
def test_pixels_and_statistics_are_those_of_the_channels(whole, channels):
    some, rows = data.with_channels(whole, channels), np.arange(12)
    expected = data.read_minibatch(whole, whole.sites, rows)["image"][..., list(channels)]
    found = data.read_minibatch(some, some.sites, rows)["image"]
    np.testing.assert_array_equal(found, expected)
    corners = np.stack([rows, rows[::-1]], 1)
    found = data.read_minibatch(some, some.sites, rows, crop=20, corners=corners)["image"]
    for one, (top, left), image in zip(found, corners, expected, strict=True):
        np.testing.assert_array_equal(one, image[top : top + 20, left : left + 20])
    assert some.image_shape == (32, 32, len(channels)) and some.channels == channels
    for name in ("dataset", "experiment", "plate"):
        np.testing.assert_array_equal(some.mean[name], whole.mean[name][:, list(channels)])
        np.testing.assert_array_equal(some.std[name], whole.std[name][:, list(channels)])
    np.testing.assert_array_equal(data.pixel_digests(some), data.pixel_digests(whole))  # what is seen is the image
    assert data.fingerprint(some) == data.fingerprint(whole)


def test_channels_of_channels(whole):
    assert data.with_channels(whole, ()) is whole
    some = data.with_channels(data.with_channels(whole, (5, 3, 1)), (2, 0))
    assert some.channels == (1, 5)
    expected = data.read_minibatch(whole, whole.sites, np.arange(3))["image"][..., [1, 5]]
    np.testing.assert_array_equal(data.read_minibatch(some, some.sites, np.arange(3))["image"], expected)


@pytest.mark.parametrize("channels", [slice(1, 3), [3, 0], [5]])
@pytest.mark.parametrize("encoding", ["delta", "source"])
def test_a_record_gives_a_window_of_some_channels(encoding, channels):
    import imagecodecs

    image = np.random.default_rng(0).integers(0, 256, (6, 70, 40), np.uint8)
    blob = encodings.encode(encoding, image, [imagecodecs.png_encode(plane) for plane in image])
    feature = encodings.image_feature(encoding, (70, 40, 6), 8)
    found = feature.decode_window(blob, (slice(35, 68), slice(3, 30), channels))
    np.testing.assert_array_equal(found, image.transpose(1, 2, 0)[35:68, 3:30, channels])


@pytest.mark.parametrize(
    "channels, said",
    [
        ((0, 6), r"data.channels=\(0, 6\): expected numbers from 0 to 5, as the images have 6"),
        ((-1,), "expected numbers from 0 to 5"),
        (("w1",), "expected numbers from 0 to 5"),
        ((1.0,), "expected numbers from 0 to 5"),
        ((True,), "expected numbers from 0 to 5"),
        ((2, 1, 2), "channel 2 is there twice; name each once"),
    ],
)
def test_channels_that_are_not_there(whole, values, channels, said):
    with pytest.raises(UserError, match=said):
        data.with_channels(whole, channels)
    with pytest.raises(UserError, match=said):
        noise.make(Config(values(*channels)))


def test_every_stream_of_a_source_has_them_and_noise_too(values, whole):
    changes = {"data.unlabelled_minibatch": 4, "normalisation": "plate"}
    config = Config(values(4, 0, **changes))
    source = tiny.source(config)
    assert {columns["image"].shape[-1] for columns in source.spec.values()} == {2} and source.view.shape[-1] == 2
    np.testing.assert_array_equal(source.constants["mean"], whole.mean["plate"][:, [4, 0]])
    streams = next(source.minibatches(0, 1))
    assert {name: part["image"].shape[-1] for name, part in streams.items()} == {"train": 2, "held_out": 2}
    described = noise.make(Config(values(4, 0, **changes)))
    assert described.spec["train"]["image"] == source.spec["train"]["image"]
    assert described.constants["mean"].shape == source.constants["mean"].shape


def test_arrays_have_channels_too(values, whole):
    from rxrx_jax import datasets

    random = np.random.default_rng(0)
    images = random.integers(0, 256, (8, 32, 32, 3), np.uint8)
    table = dict(
        experiment=["a"] * 8, plate=[1] * 8, well=[f"A{i + 1}" for i in range(8)], perturbation=list("abababab")
    )
    dataset = datasets.from_arrays(images, table)
    changes = {"protocol.name": "held_out_experiments", "data.minibatch": 4}
    config = Config(values(2, 0, **changes))
    from rxrx_jax.data import images as source

    made = source.make(config, lambda found: protocols.roles(found, config.protocol.name), dataset)
    np.testing.assert_array_equal(
        data.read_minibatch(made.dataset, made.dataset.sites, np.arange(8))["image"], images[..., [2, 0]]
    )
    np.testing.assert_array_equal(data.pixel_digests(made.dataset), data.pixel_digests(dataset))
