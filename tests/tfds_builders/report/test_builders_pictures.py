"""tfds_builders.report.pictures: colours, plates and histograms against arithmetic by hand."""

import numpy as np
import pytest
from composite_tools import CHANNELS, COLOURS, HIGH, rgb

from rxrx_jax.base.errors import UserError
from tfds_builders.report import pictures


def test_composites_have_the_published_colours():
    image = np.random.default_rng(0).integers(0, 60, (12, 10, 6), np.uint8)
    image[0, 0], image[1, 1] = 0, 255
    made = pictures.colour(image, pictures.stains(CHANNELS), np.array(pictures.RANGES))
    assert made.dtype == np.uint8 and np.array_equal(made, rgb(image, HIGH))
    assert made[0, 0].tolist() == [0, 0, 0] and made[1, 1].tolist() == [255, 255, 255]
    five = ["nucleus", "endoplasmic reticulum", "actin", "nucleolus and RNA", "Golgi"]
    made = pictures.colour(image[..., :5], pictures.stains(five), HIGH[[0, 1, 2, 3, 5]])
    chosen = [0, 1, 2, 3, 5]
    assert np.array_equal(made, rgb(image[..., :5], HIGH[chosen], COLOURS[chosen]))


@pytest.mark.parametrize(
    "names, expected",
    [
        (CHANNELS, [0, 1, 2, 3, 4, 5]),
        (["Hoechst", "ConA", "Phalloidin", "Syto14", "WGA"], [0, 1, 2, 3, 5]),
        (["actin", "DNA", "mitochondria"], [2, 0, 4]),
        (["actin", "actin again"], [0, 1]),
        (["a", "Golgi"], [0, 1]),
        (["internal Golgi", "RNA"], [5, 3]),
        (list("abcdefg"), [0, 1, 2, 3, 4, 5]),
    ],
)
def test_stains_are_known_by_name(names, expected):
    assert pictures.stains(names) == expected


def test_shrunk_images_are_means_of_blocks():
    image = np.random.default_rng(0).integers(0, 65536, (7, 9, 2), np.uint16)
    small = pictures.shrink(image, 4)
    assert small.shape == (2, 3, 2)
    np.testing.assert_allclose(small[1, 2], image[3:6, 6:9].mean((0, 1)), rtol=1e-6)
    assert np.array_equal(pictures.shrink(image, 9), image)


def test_wells_have_their_place_on_the_plate():
    assert pictures.position("A01") == (0, 0) and pictures.position("P24") == (15, 23)
    assert pictures.position("Z9") == (25, 8) and pictures.position("AF48") == (31, 47)
    for well in ("AG01", "A49", "A00", "BA01", "a01", "A1x", "A001", ""):
        with pytest.raises(UserError, match="is not one of A01 to AF48"):
            pictures.position(well)


def test_the_edge_is_measured_against_the_other_wells():
    nan = np.nan
    plate = np.array([[nan] * 5, [nan, 1, 2, 3, 4], [nan, 5, 6, nan, 8], [nan, 9, 10, 11, 12], [nan] * 5])
    assert pictures.edge(plate) == pytest.approx(np.mean([1, 2, 3, 4, 5, 8, 9, 10, 11, 12]) - 6)
    assert np.isnan(pictures.edge(plate[:, :3]))  # nothing but edge
    plate[[1, 3]] = nan
    assert np.isnan(pictures.edge(plate)) and np.isnan(pictures.edge(np.full((3, 3), nan)))


def test_standardised_values_have_mean_0_and_deviation_1():
    values = np.random.default_rng(0).normal(5, 3, (50, 3))
    values[:, 1] = 0.1  # its mean is not 0.1 to the last digit
    made = pictures.standardise(values)
    np.testing.assert_allclose(made.mean(0), 0, atol=1e-12)
    np.testing.assert_allclose(made.std(0), [1, 0, 1], atol=1e-12)
    assert made[:, 1].tolist() == [0] * 50 and pictures.standardise(values[:1]).tolist() == [[0, 0, 0]]


def test_histograms_are_lines_of_shares_in_the_colour_of_the_cell_type():
    counts = {"a": np.zeros(256, np.int64), "b": np.zeros(256, np.int64), "none": np.zeros(256, np.int64)}
    counts["a"][[64, 65, 255]] = [60, 39, 1]
    counts["b"][[10, 11]] = [1, 9]
    made = pictures.histogram(counts, {"a": "#ff0000", "b": "#00ff00", "none": "#0000ff"}, 256)
    left, top, right, bottom = pictures.PLOT

    def place(value, share):  # two decades: the smallest share is 1 %
        return left + (right - left) * value / 256, top - (bottom - top) * np.log10(share) / 2

    lines = {colour: [tuple(map(float, at.split(","))) for at in points.split()] for colour, points in made["lines"]}
    assert set(lines) == {"#ff0000", "#00ff00"}
    np.testing.assert_allclose(lines["#ff0000"], [place(64, 0.6), place(65, 0.39)], atol=0.1)
    np.testing.assert_allclose(lines["#00ff00"], [place(10, 0.1), place(11, 0.9)], atol=0.1)
    ((colour, *dot),) = made["dots"]  # the gap before it is empty
    assert colour == "#ff0000"
    np.testing.assert_allclose(dot, place(255, 0.01), atol=0.1)
    assert made["shares"] == [(bottom, "1 %"), ((top + bottom) / 2, "10 %"), (top, "100 %")]
    assert made["values"][1] == (pytest.approx(place(64, 1)[0], abs=0.1), "16,384")
    assert pictures.histogram({"none": counts["none"]}, {"none": "#0000ff"}, 1)["lines"] == []


def test_percentiles_of_histograms():
    counts = np.zeros(256, np.int64)
    assert pictures.percentile(counts, 0.5) == pictures.percentile(counts, 0.5, 256) == 0
    counts[[3, 7]] = [999, 1]
    assert pictures.percentile(counts, 0.999) == 3 and pictures.percentile(counts, 0.9995) == 7
    assert pictures.percentile(counts, 0.5, 256) == 4 * 256 - 1
