"""The pictures of report.html against their arithmetic: sites, channels, plate maps, histograms."""

import functools
import json

import numpy as np
import pytest
from builders_report_tools import Page, fake_pictures, make_page, screen, site
from builders_tools import SCREEN_FIELDS, records, set_aside
from composite_tools import CHANNELS, HIGH, rgb

from tfds_builders import prepare
from tfds_builders.report import gallery, pictures
from tfds_builders.report import page as report


@pytest.fixture
def pictures_of(monkeypatch):
    return fake_pictures(monkeypatch)


@pytest.fixture
def page(tmp_path, pictures_of):
    return functools.partial(make_page, tmp_path / "folder")


def test_the_real_records_are_shown(tmp_path, monkeypatch):
    """A folder as `prepare` makes it: what the page reads by default, and its thumbnails pixel by pixel."""
    folder = prepare.prepare("rxrx_sim", None, tmp_path, 1, progress=False, **SCREEN_FIELDS)
    drawn = []  # before the colours are reduced
    png = pictures.png
    monkeypatch.setattr(pictures, "png", lambda pixels, colours=0: drawn.append(pixels) or png(pixels, colours))
    found = Page(report.write(folder))
    assert found.of("Splits")[1][0][-1] == ["all", "64", str(len(set_aside(folder)))]
    made = records(folder)
    for split in ("val", "train"):
        first = next(record for record in made[split] if record["well_type"] == "negative_control")
        bins = json.loads((folder / "histograms.json").read_text())["experiment"].values()
        total = np.sum([np.array(counts) for counts in bins], axis=0)  # [C, 256]
        reached = np.cumsum(total, axis=1) >= 0.999 * total.sum(1, keepdims=True)
        expected = rgb(first["image"], reached.argmax(1))
        assert any(np.array_equal(pixels, expected) for pixels in drawn)
        shown = found.images[f"composite image of site {first['site_id']}"].astype(int)
        assert np.abs(shown - expected).mean() < 5 and shown.shape == (32, 32, 3)
    assert found.labels == [f"histograms of w{i}; in numbers below" for i in range(1, 7)]
    assert found.tags["polyline"] >= 2 * 6  # an axis and a line in each


def test_the_scale_of_colours_is_published_or_of_the_pixels(page, pictures_of):
    histogram = [[999] + [0] * 254 + [1], [998, 0, 2] + [0] * 253, [0] * 4 + [5] + [0] * 251, *[[7] + [0] * 255] * 3]
    histograms = {"HUVEC-01": histogram}
    image = np.random.default_rng(0).integers(0, 3000, (8, 8, 6), np.uint16)
    pictures_of(image)
    items = [site()]
    found = page(items, histograms=histograms, name="rxrx3", bits=16)
    high = np.array([1, 3, 5, 1, 1, 1]) * 256 - 1
    assert "99.9th percentile of all pixels (255, 767, 1,279, 255, 255, 255), the same" in found.of("Sites")[0]
    assert np.array_equal(found.images["composite image of site HUVEC-01_1_B02_1"], rgb(image, high))
    found = page(items, histograms=histograms, name="rxrx2")
    assert "(1, 2, 4, 1, 1, 1)" in found.of("Sites")[0]
    pictures_of((image % 60).astype(np.uint8))
    found = page(items, histograms=histograms)
    assert "published values (51, 107, 64, 191, 89, 191)" in found.of("Sites")[0]
    assert "nucleus blue, endoplasmic reticulum green, actin red" in found.of("Sites")[0]
    assert np.array_equal(found.images["composite image of site HUVEC-01_1_B02_1"], rgb(image % 60, HIGH))


def test_every_channel_of_one_site_is_shown(page, pictures_of):
    image = np.zeros((8, 8, 6), np.uint8)
    image[:, :4] = [10, 20, 30, 40, 50, 60]
    pictures_of(image)
    found = page([site()])
    for i, name in enumerate(CHANNELS):
        drawn = found.images[f"w{i + 1} {name} of HUVEC-01_1_B02_1"]
        assert drawn[:, :4].min() == 255 and drawn[:, 4:].max() == 0
        assert f"w{i + 1} {name}, from 0 to {10 * (i + 1)}" in found.captions


def test_channels_beyond_the_colours_are_named(page, pictures_of):
    pictures_of(np.full((8, 8, 9), 20, np.uint8))
    names = [f"c{i}" for i in range(9)]
    text, _ = page([site(means=[1.0] * 9)], channels=names, name="nine").of("Sites")
    assert "c4 magenta, c5 yellow; not drawn: c6, c7, c8), from 0" in text.replace("\n", " ")
    assert "all pixels (255, 255, 255, 255, 255, 255), the same" in text


def test_thumbnails_are_of_negative_controls_and_bounded(page, pictures_of):
    asked = []
    pictures_of(np.zeros((600, 500, 6), np.uint8), asked)
    items = screen() + [site(f"X-{i:02d}", split="test") for i in range(40)]
    found = page(items)
    assert len(asked) == 24 and asked[:3] == [("train", 0), ("val", 0), ("test", 1)] and asked[-1] == ("test", 39)
    text, _ = found.of("Sites")
    assert "18 of 42 experiments are not shown" in text and "shownX-00, X-02" in text.replace("\n", "")
    thumbnails = {name: picture for name, picture in found.images.items() if name.startswith("composite ")}
    assert text.count("The channels of ") == 1 and "The channels of HUVEC-01_1_B02_1" in text
    assert len(thumbnails) == 24 and {p.shape for p in thumbnails.values()} == {(200, 166, 3)}
    assert "HUVEC-01_1_B02_1, HUVEC, negative control" in found.captions
    assert "X-01_1_B02_1, X, treatment s1" in found.captions
    assert len([name for name in found.images if name.startswith("plate map of ")]) == 24 * 7

    # the first negative control, also where it is not in the first split, plate or well
    asked.clear()
    control = dict(well_type="negative_control", perturbation="EMPTY", perturbation_id=1138)
    items = [site(), site(well="B03"), site(plate=2), site(plate=3), site(plate=3, well="C03", **control)]
    items += [site(plate=4, **control), site(plate=5, number=2, split="id_test", **control)]
    page(items)
    assert asked == [("train", 4)]
    asked.clear()
    page([site(), site(number=2, split="id_test"), site(number=2, well="C03", split="id_test", **control)])
    assert asked == [("id_test", 1)]


def cell(picture, row, column, columns=24):
    """The colour of a well on a plate map, which must be the same all over it."""
    scale = picture.shape[1] // columns
    pixels = picture[row * scale : (row + 1) * scale, column * scale : (column + 1) * scale].reshape(-1, 3)
    assert len(np.unique(pixels, axis=0)) == 1
    return tuple(map(int, pixels[0]))


def heat_colour(value):
    """ColorBrewer's RdBu in reverse, at the nearest of 256 steps."""
    from bokeh.palettes import RdBu

    anchors = np.array([list(bytes.fromhex(colour[1:])) for colour in RdBu[11]])
    step = min(int(256 * np.clip((value + 2) / 4, 0, 1)), 255) / 255
    return tuple(int(np.rint(np.interp(step, np.linspace(0, 1, 11), channel))) for channel in anchors.T)


def test_plate_maps_show_each_well_where_it_is(page):
    # By hand: w1 on plate 1 is 1, 1, 4 (mean 2, sd sqrt 2), on plate 2 10, 20 (15, 5); w2 is constant but once.
    means = lambda first, second=7.0: [first, second, 0.1, 0.1, 0.1, 0.1]  # noqa: E731
    items = [
        site(plate=1, well="B02", means=means(1)),
        site(plate=1, well="B03", means=means(1)),
        site(plate=1, well="P24", means=means(4)),
        site(plate=2, well="B02", means=means(10, 1)),
        site(plate=2, well="C02", means=means(20, 2)),
    ]
    found = page(items)
    w1 = found.images["plate map of HUVEC-01 w1"]
    assert w1.shape == (128, 192, 3)
    expected = {(1, 1): (-(0.5**0.5) - 1) / 2, (1, 2): -(0.5**0.5), (15, 23): 2**0.5, (2, 1): 1}
    for place, value in expected.items():
        assert np.abs(np.subtract(cell(w1, *place), heat_colour(value))).max() <= 1, place
    empty = {cell(w1, r, c) for r in range(16) for c in range(24)} - {cell(w1, *place) for place in expected}
    assert empty == {(214, 214, 214)}
    w2 = found.images["plate map of HUVEC-01 w2"]
    assert np.abs(np.subtract(cell(w2, 2, 1), heat_colour(1))).max() <= 1
    assert np.abs(np.subtract(cell(w2, 1, 1), heat_colour(-0.5))).max() <= 1
    assert cell(found.images["plate map of HUVEC-01 w3"], 15, 23) == heat_colour(0)
    first = found.images["plate map of HUVEC-01 plate 1"]
    assert np.abs(np.subtract(cell(first, 15, 23), heat_colour(2**0.5 / 6))).max() <= 1
    assert cell(first, 2, 1) == (214, 214, 214)

    # Sites of one well, and of one plate in another split, which is standardised for itself.
    items = [site(well=well, number=n, means=[mean] * 6) for well, n, mean in (("B02", 1, 1.0), ("B02", 2, 3.0))]
    items += [site(number=2, well="B02", split="val", means=[50.0] * 6)]
    items += [site(number=2, well="B03", split="val", means=[90.0] * 6)]
    drawn = page(items).images["plate map of HUVEC-01 w1"]
    assert np.abs(np.subtract(cell(drawn, 1, 1), heat_colour((-1 + 1 - 1) / 3))).max() <= 1
    assert np.abs(np.subtract(cell(drawn, 1, 2), heat_colour(1))).max() <= 1


def test_a_plate_of_1536_wells_is_drawn_whole(page):
    found = page([site(well="AF48", means=[3.0] * 6), site(well="B02", means=[1.0] * 6)])
    picture = found.images["plate map of HUVEC-01 w6"]
    assert picture.shape == (128, 192, 3)
    assert cell(picture, 31, 47, 48) == heat_colour(1) and cell(picture, 1, 1, 48) == heat_colour(-1)


def test_the_edge_of_plates_is_told_in_numbers(page):
    wells = [f"{row}{column:02d}" for row in "BCD" for column in (2, 3, 4)]
    found = page([site(well=well, means=[9.0 * (well == "C03")] * 5 + [1.0]) for well in wells])
    _, (table,) = found.of("Plate maps")
    # One of nine is 9, the others 0: mean 1, deviation sqrt 8; the edge is at -1 and the centre at 8 of them.
    assert table[1] == ["HUVEC-01", *["-3.18"] * 5, "0.00"] and "w1: edge -3.18" in found.captions
    assert (
        "w6: edge +0.00" in found.captions
        and "edge +0.00" in gallery._plate(np.zeros((16, 24)), "", "", -0.004).caption
    )
    assert "HUVEC-01 plate 1: edge -2.65" in found.captions


def test_histograms_are_drawn_of_every_channel_and_told_in_numbers(page, monkeypatch):
    drawn = []
    draw = pictures.histogram
    monkeypatch.setattr(pictures, "histogram", lambda *args: drawn.append(args) or draw(*args))
    low, high = [990, 0, 10] + [0] * 253, [0] * 100 + [1] + [0] * 155
    found = page(screen(), histograms={"HUVEC-01": [low] * 6, "RPE-02": [high] * 5 + [low]})
    assert found.labels == [f"histograms of w{i}; in numbers below" for i in range(1, 7)]
    for i, (counts, of_experiment, step) in enumerate(drawn):
        assert list(counts) == ["HUVEC-01", "RPE-02"] and step == 1
        assert counts["RPE-02"].tolist() == (low if i == 5 else high)
        assert of_experiment["HUVEC-01"] != of_experiment["RPE-02"]
        assert f'background:{of_experiment["RPE-02"]}"></i>RPE' in found.source
    assert "w1 nucleus: 99.9 % of an experiment's pixels are at most 2 to 100" in found.captions
    table = found.of("Pixel values")[1][0]
    assert table[1] == ["train split", "–", *["1.50 ± 0.25"] * 6]
    assert table[2] == ["HUVEC-01", "HUVEC", *["1.50 ± 0.25; 2"] * 6]
    assert table[3] == ["RPE-02", "RPE", *["1.50 ± 0.25; 100"] * 5, "1.50 ± 0.25; 2"]
