"""Augmentation: what it depends on, orientations, jitter, and normalisation against numpy."""

import types

import jax
import numpy as np
import pytest
from paths import REFERENCE

from rxrx_jax.base.errors import UserError
from rxrx_jax.data.augment import EPSILON, NORMALISATIONS, Augment, plate_statistics

random = np.random.default_rng(0)
IMAGES = random.integers(0, 256, (6, 12, 12, 3), dtype=np.uint8)
PLATE = np.array([3, 0, 1, 2, 4, 4], np.int32)
EXPERIMENT_OF_PLATE = np.array([1, 1, 0, 0, 2], np.int32)
GROUPS = {"dataset": 1, "experiment": 3, "plate": 5}
MEAN = {name: random.uniform(20, 90, (n, 3)).astype(np.float32) for name, n in GROUPS.items()}
STD = {name: random.uniform(5, 60, (n, 3)).astype(np.float32) for name, n in GROUPS.items()}
MINIBATCH = {"image": IMAGES, "plate": PLATE}
# So that a view is the image's own pixels, up to rounding.
PIXELS = {"mean": np.zeros((5, 3), np.float32), "std": np.full((5, 3), 1 - EPSILON, np.float32)}


def make(normalisation="dataset", crop=12, flips=False, rot90=False, intensity_jitter=0.0):
    return Augment(normalisation, crop, flips, rot90, intensity_jitter)


def train(augment, seed=0, minibatch=MINIBATCH, statistics=PIXELS):
    keys = jax.random.split(jax.random.key(seed), 600)[: len(minibatch["image"])]
    return np.asarray(jax.jit(augment.train)(minibatch, statistics, keys))


def evaluation(augment, minibatch=MINIBATCH, statistics=PIXELS):
    return np.asarray(jax.jit(augment.evaluation)(minibatch, statistics))


def dataset(mean=MEAN, std=STD):
    """Sites of five plates, several of each, in no order."""
    plate = random.permutation(np.repeat(np.arange(5, dtype=np.int32), [3, 1, 2, 4, 2]))
    sites = types.SimpleNamespace(plate=plate, experiment=EXPERIMENT_OF_PLATE[plate])
    return types.SimpleNamespace(sites=sites, mean=mean, std=std, folder="data/rxrx")


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_normalisation_in_float64(normalisation):
    statistics = plate_statistics(dataset(), normalisation)
    views = evaluation(make(normalisation), statistics=statistics)
    assert views.dtype == np.float32
    x = IMAGES.astype(np.float64)
    if normalisation == "image":
        expected = self_standardise(x)
    elif normalisation == "image_unbiased":
        expected = (x - x.mean((1, 2), keepdims=True)) / x.std((1, 2), keepdims=True, ddof=1)
    else:
        group = {"dataset": np.zeros(6, int), "experiment": EXPERIMENT_OF_PLATE[PLATE], "plate": PLATE}[normalisation]
        mean, std = (
            MEAN[normalisation][group].astype(np.float64),
            STD[normalisation][group].astype(np.float64),
        )
        expected = (x - mean[:, None, None]) / (std[:, None, None] + EPSILON)
    np.testing.assert_allclose(views, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(train(make(normalisation), statistics=statistics), expected, rtol=1e-5, atol=1e-5)


def self_standardise(x):
    """The published normalisation of one image at a time, [B, H, W, C] in float64, from its definition."""
    x = x / 255
    mean = x.sum((1, 2), keepdims=True) / x[0, ..., 0].size
    variance = ((x - mean) ** 2).sum((1, 2), keepdims=True) / x[0, ..., 0].size
    return (x - mean) / np.sqrt(variance + 1e-5)


def test_self_standardisation_of_dim_images_has_the_published_epsilon():
    """Deviations of a few grey levels, as in RxRx1, where the epsilon tells."""
    dim = np.clip(random.normal(8, 3, (6, 64, 64, 3)), 0, 255).astype(np.uint8)
    found = evaluation(make("image"), MINIBATCH | {"image": dim})
    np.testing.assert_allclose(found, self_standardise(dim.astype(np.float64)), atol=1e-5)
    plain = (dim - dim.mean((1, 2), keepdims=True)) / dim.std((1, 2), keepdims=True)
    assert np.abs(found - plain).max() > 0.03


def test_images_are_standardised_as_wilds_does_it():
    """Against the stored values of PyTorch (reference/make_wilds.py), where one channel is black and one constant."""
    with np.load(REFERENCE / "wilds.npz") as stored:
        images, expected = stored["images"], stored["standardised"]
    assert not images[1, ..., 2].any() and np.ptp(images[2, ..., 0]) == 0
    found = evaluation(make("image_unbiased", crop=10), {"image": images, "plate": PLATE[:4]})
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    biased = (images - images.mean((1, 2), keepdims=True)) / np.maximum(images.std((1, 2), keepdims=True), 1e-3)
    assert np.abs(found - biased).max() > 1e-3


def test_an_unknown_window_is_an_error():
    with pytest.raises(UserError, match="augment.window='left': expected random or centre"):
        Augment("image", 12, False, False, 0.0, "left")
    with pytest.raises(UserError, match="augment.evaluation_view='all': expected crop or whole"):
        Augment("image", 12, False, False, 0.0, evaluation_view="all")


def test_an_unknown_normalisation_is_an_error():
    with pytest.raises(UserError, match="normalisation='well'.*dataset, image, image_unbiased, experiment, plate"):
        make("well")


def test_a_dataset_without_training_sites_has_no_statistics_of_its_own():
    unknown = dataset(MEAN | {"dataset": np.full((1, 3), np.nan)}, STD | {"dataset": np.full((1, 3), np.nan)})
    with pytest.raises(UserError, match="normalisation='dataset': data/rxrx has no training site"):
        plate_statistics(unknown, "dataset")
    for other in ("image", "image_unbiased", "experiment", "plate"):
        plate_statistics(unknown, other)


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_a_black_channel_gives_zeros(normalisation):
    images = IMAGES.copy()
    images[..., 1] = 0
    mean, std = ({name: v * np.array([1, 0, 1], np.float32) for name, v in s.items()} for s in (MEAN, STD))
    statistics = plate_statistics(dataset(mean, std), normalisation)
    views = evaluation(make(normalisation), MINIBATCH | {"image": images}, statistics)
    assert np.isfinite(views).all()
    assert not views[..., 1].any() and views[..., [0, 2]].any()


def test_a_view_depends_on_its_image_and_key_alone():
    augment = make(flips=True, rot90=True, intensity_jitter=0.2)
    views = train(augment)
    np.testing.assert_array_equal(train(augment), views)
    others = MINIBATCH | {"image": IMAGES[::-1].copy()}
    others["image"][2] = IMAGES[2]
    np.testing.assert_array_equal(train(augment, minibatch=others)[2], views[2])
    shorter = {key: value[:3] for key, value in MINIBATCH.items()}
    np.testing.assert_array_equal(train(augment, minibatch=shorter), views[:3])
    assert (train(augment, seed=1) != views).any(axis=(1, 2, 3)).all()
    same = {key: np.repeat(value[:1], 6, axis=0) for key, value in MINIBATCH.items()}
    assert len(np.unique(train(augment, minibatch=same), axis=0)) == 6
    keys = jax.random.split(jax.random.key(0), 600)[:6]
    turned = jax.jit(augment.train)({k: v[::-1] for k, v in MINIBATCH.items()}, PIXELS, keys[::-1])
    np.testing.assert_array_equal(turned[::-1], views)


def dihedral(image):
    """The eight orientations of a square image, by their names."""
    turns = {f"turn{90 * k}": np.rot90(image, k) for k in range(4)}
    return turns | {f"mirrored {name}": turned[:, ::-1] for name, turned in turns.items()}


@pytest.mark.parametrize(
    "flips, rot90, expected",
    [
        (True, True, {f"{m}turn{k}" for m in ("", "mirrored ") for k in (0, 90, 180, 270)}),
        (True, False, {"turn0", "turn180", "mirrored turn0", "mirrored turn180"}),
        (False, True, {"turn0", "turn90", "turn180", "turn270"}),
        (False, False, {"turn0"}),
    ],
)
def test_orientations(flips, rot90, expected):
    n = 200
    minibatch = {"image": np.repeat(IMAGES[:1], n, axis=0), "plate": np.zeros(n, np.int32)}
    views = np.rint(train(make(flips=flips, rot90=rot90), minibatch=minibatch)).astype(np.uint8)
    counts = dict.fromkeys(expected, 0)
    for view in views:
        (name,) = [name for name, image in dihedral(IMAGES[0]).items() if (image == view).all()]
        counts[name] += 1  # a KeyError for an orientation that should not be
    for count in counts.values():  # each equally often, within five standard deviations
        p = 1 / len(expected)
        assert abs(count - n * p) <= 5 * np.sqrt(n * p * (1 - p))


def test_no_jitter_changes_nothing_and_jitter_is_a_gain_and_an_offset_a_channel():
    plain = evaluation(make())
    np.testing.assert_allclose(train(make(intensity_jitter=0.0)), plain, rtol=1e-5, atol=1e-6)
    repeated = {key: np.repeat(value, 100, axis=0) for key, value in MINIBATCH.items()}
    plain = np.repeat(plain, 100, axis=0).astype(np.float64)
    views = train(make(intensity_jitter=0.1), minibatch=repeated)
    gains, offsets = [], []
    for x, y in zip(plain, views):
        for c in range(3):
            gain, offset = np.polyfit(x[..., c].ravel(), y[..., c].ravel(), 1)
            np.testing.assert_allclose(gain * x[..., c] + offset, y[..., c], rtol=1e-4, atol=1e-2)
            gains.append(gain)
            offsets.append(offset)
    n = len(gains)  # 1800 draws: standard errors of mean and deviation are 0.0024 and 0.0017 at most
    assert n == 1800
    for values, centre in ((gains, 1), (offsets, 0)):
        assert np.mean(values) == pytest.approx(centre, abs=0.012)
        assert np.std(values) == pytest.approx(0.1, abs=0.01)
    assert abs(np.corrcoef(gains, offsets)[0, 1]) < 0.12


def test_evaluation_is_the_image_as_it_is():
    augment = make(flips=True, rot90=True, intensity_jitter=0.5)
    np.testing.assert_allclose(evaluation(augment), IMAGES, rtol=1e-6)


def test_draws_are_those_of_runs_before_crops_were_cut_by_the_host():
    """The third to the sixth word of an example's key: turn, half turn, and the two flips."""
    bits = np.array([jax.random.bits(k, (6,), np.uint32) for k in jax.random.split(jax.random.key(0), 600)[:6]]) & 1
    assert len(np.unique(bits[:, 2:], axis=0)) > 3
    views = np.rint(train(make(flips=True, rot90=True))).astype(np.uint8)
    for image, (_, _, turn, half_turn, down, across), view in zip(IMAGES, bits, views):
        expected = np.rot90(image, turn)
        expected = np.rot90(expected, 2 * half_turn)
        expected = expected[::-1] if down else expected
        np.testing.assert_array_equal(view, expected[:, ::-1] if across else expected)
