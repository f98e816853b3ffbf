"""report.html of a prepared folder: every number against the folder's tables, pictures against their arithmetic."""

import base64
import collections
import csv
import html.parser
import io
import json
import pathlib
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from PIL import Image
from test_builders_pictures import CHANNELS, HIGH, rgb

from rxrx_jax.errors import UserError
from rxrx_jax.report.markup import anchor
from tfds_builders import prepare
from tfds_builders.common.types import SITE_COLUMNS, SPLITS
from tfds_builders.report import contents, gallery, pictures
from tfds_builders.report import page as report


def site(experiment="HUVEC-01", plate=1, well="B02", number=1, split="train", **more):
    """A row of sites.csv, with its channel means under 'means'."""
    row = {
        "split": split,
        "site_id": f"{experiment}_{plate}_{well}_{number}",
        "well_id": f"{experiment}_{plate}_{well}",
        "cell_type": experiment.rpartition("-")[0],
        "experiment": experiment,
        "plate": plate,
        "well": well,
        "site": number,
        "well_type": "treatment",
        "perturbation": "s1",
        "perturbation_id": 0,
        "means": [1.0, 2, 3, 4, 5, 6],
    }
    return {**row, **more}


def write_csv(path, header, rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])


def write_folder(
    folder: pathlib.Path, items, labels=((0, "s1", "treatment"), (1138, "EMPTY", "negative_control")),
    set_aside=(), unlisted=(), histograms=None, channels=CHANNELS, name="rxrx1", config="default", extra=(), **metadata,
):  # fmt: skip
    """Writes the tables of a prepared folder, without records; rows in the order of `site`s given within a split."""
    folder.mkdir(exist_ok=True)
    rows = [row for split in SPLITS for row in items if row["split"] == split]
    columns = [*SITE_COLUMNS, *extra]
    write_csv(folder / "sites.csv", columns, ([row[key] for key in columns] for row in rows))
    means = [f"mean_w{i + 1}" for i in range(len(channels))]
    index = dict.fromkeys(SPLITS, -1)
    manifest = []
    for row in rows:
        index[row["split"]] += 1
        manifest.append([row["split"], index[row["split"]], row["site_id"], 1000, "ab", *row["means"]])
    write_csv(folder / "manifest.csv", ["split", "index", "site_id", "bytes", "sha256", *means], manifest)
    write_csv(folder / "perturbations.csv", ["perturbation_id", "perturbation", "well_type"], labels)
    write_csv(folder / "set_aside.csv", ["site_id", "reason", "experiment", "split"], set_aside)
    write_csv(folder / "unlisted.csv", ["file"], [[name] for name in unlisted])
    names = sorted({row["experiment"] for row in rows})
    entry = {"mean": [1.5] * len(channels), "std": [0.25] * len(channels), "sites": 2}
    none = {"mean": None, "std": None, "sites": 0}
    dataset = entry if any(row["split"] == "train" for row in rows) else none
    statistics = {"channels": len(channels), "dataset": dataset, "experiment": dict.fromkeys(names, entry), "plate": {}}
    flat = [[1] * 256 for _ in channels]
    histograms = {name: flat for name in names} if histograms is None else histograms
    metadata = {
        "source": "/data", "settings": {"image_size": None, "experiments": []}, "notes": [], "channels": list(channels),
        "image_shape": [8, 8, len(channels)], "bits": 8, "published": {}, "set_aside": len(set_aside), **metadata,
    }  # fmt: skip
    info = {"name": name, "configName": config, "version": "2.0.0"}
    for stem, content in (
        ("statistics", statistics),
        ("histograms", {"bins": 256, "experiment": histograms}),
        ("metadata", metadata),
        ("dataset_info", info),
    ):
        (folder / f"{stem}.json").write_text(json.dumps(content))
    return folder


class Page(html.parser.HTMLParser):
    """The text of a report by section, its tables as rows of text, and its pictures by alternative text."""

    def __init__(self, path):
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.text, self.tables, self.images, self.captions, self.tags = {"": ""}, {}, {}, [], collections.Counter()
        self.section, self.cell, self.caption = "", None, None
        self.feed(self.source)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags[tag] += 1
        if tag == "section":
            self.section = attributes["id"]
            self.text[self.section], self.tables[self.section] = "", []
        elif tag == "table":
            self.tables[self.section].append([])
        elif tag == "tr":
            self.tables[self.section][-1].append([])
        elif tag in ("td", "th"):
            self.cell = ""
        elif tag == "figcaption":
            self.caption = ""
        elif tag == "img":
            kind, _, data = attributes["src"].partition(",")
            assert kind == "data:image/png;base64"
            picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))
            assert self.images.setdefault(attributes["alt"], picture) is picture, "two pictures of one name"

    def handle_data(self, data):
        self.text[self.section] += data
        if self.cell is not None:
            self.cell += data
        if self.caption is not None:
            self.caption += data

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.tables[self.section][-1][-1].append(self.cell)
            self.cell = None
        elif tag == "figcaption":
            self.captions.append(self.caption)
            self.caption = None
        elif tag in ("p", "li", "h1", "h2", "h3", "summary", "dt", "dd"):
            self.text[self.section] += "\n"

    def of(self, name):
        """The text and the tables of a section."""
        return self.text[anchor(name)], self.tables[anchor(name)]


@pytest.fixture
def pictures_of(monkeypatch):
    """Makes pages read these images, and lists which (split, index) they read."""

    def give(image, asked=None):
        def read(split, index):
            if asked is not None:
                asked.append((split, index))
            return image

        monkeypatch.setattr(report, "image_reader", lambda folder: read)

    give(np.full((8, 8, 6), 20, np.uint8))
    # Half a page's time is drawing histograms, which two tests look at.
    one_pixel = pictures.png(np.zeros((1, 1), np.uint8))
    monkeypatch.setattr(pictures, "figure_png", lambda figure: one_pixel)
    monkeypatch.setattr(pictures, "histogram_figure", lambda *args: None)
    return give


@pytest.fixture
def page(tmp_path, pictures_of):
    """A function that writes a folder and its report, and parses it."""

    def make(items, **more):
        folder = write_folder(tmp_path / "folder", items, **more)
        path = report.write(folder)
        assert path == folder / "report.html"
        return Page(path)

    return make


def screen():
    """Two experiments: HUVEC-01 in train and id_test with 2 plates, RPE-02 in val."""
    control = dict(well_type="negative_control", perturbation="EMPTY", perturbation_id=1138)
    items = []
    for split, number in (("train", 1), ("id_test", 2)):
        items += [site(plate=1, well="B02", number=number, split=split, **control)]
        items += [site(plate=1, well=well, number=number, split=split) for well in ("B03", "C02")]
        items += [site(plate=2, well="B02", number=number, split=split, perturbation="s2", perturbation_id=1)]
    items += [site("RPE-02", 10, "P24", 1, "val", perturbation="", perturbation_id=-1)]
    items += [site("RPE-02", 10, "P24", 2, "val", perturbation="s2", perturbation_id=1)]
    return items


LABELS = ((0, "s1", "treatment"), (1, "s2", "treatment"), (2, "s3", "treatment"), (10, "p", "positive_control"),
          (1138, "EMPTY", "negative_control"))  # fmt: skip
SET_ASIDE = (
    ("metadata.csv line 7", "12 fields in place of 11", "", ""),
    ("HUVEC-01_1_D02_1", "w1: truncated PNG", "HUVEC-01", "train"),
    ("HUVEC-01_1_D02_2", "w1: truncated PNG", "HUVEC-01", "id_test"),
    ("HUVEC-01_3_D02_2", "blank cell_type (metadata.csv line 12)", "HUVEC-01", "id_test"),
    ("RPE-02_9_D02_2", "no image files", "RPE-02", "val"),
    ("U2OS-03_1_D02_2", "blank cell_type (metadata.csv line 13)", "U2OS-03", "test"),
)


def test_counts_are_those_of_the_tables(page):
    found = page(screen(), labels=LABELS, set_aside=SET_ASIDE, unlisted=["images/x.png", "images/y.png"])
    assert found.of("Splits")[1] == [
        [
            ["split", "records", "set aside"],
            ["train", "4", "1"],
            ["id_test", "4", "2"],
            ["val", "2", "1"],
            ["test", "0", "1"],
            ["unknown", "0", "1"],
            ["all", "10", "6"],
        ]
    ]
    text, (table,) = found.of("Experiments")
    assert "1 site set aside without an experiment" in text
    assert table == [
        ["experiment", "cell type", "records", "set aside", "plates", *SPLITS],
        ["HUVEC-01", "HUVEC", "8", "3", "2", "4", "4", "0", "0"],
        ["RPE-02", "RPE", "2", "1", "1", "0", "0", "2", "0"],
        ["U2OS-03", "–", "0", "1", "0", "0", "0", "0", "0"],
    ]
    text, (spread, plates) = found.of("Plates")
    assert "6 plates" in text
    assert spread[1:] == [
        ["records", "0", "1", "6"],
        ["wells with a record", "0", "0.5", "3"],
        ["sites set aside", "0", "1", "2"],
    ]
    assert plates[1:] == [
        ["HUVEC-01", "1", "6", "3", "2"],
        ["HUVEC-01", "2", "2", "1", "0"],
        ["HUVEC-01", "3", "0", "0", "1"],
        ["RPE-02", "9", "0", "0", "1"],
        ["RPE-02", "10", "2", "1", "0"],
        ["U2OS-03", "1", "0", "0", "1"],
    ]
    text, (spread, rarest) = found.of("Classes")
    assert "5 classes" in text and "1 record without a label" in text
    assert spread[1:] == [
        ["treatment", "3", "0", "3", "4", "1"],
        ["positive control", "1", "0", "0", "0", "1"],
        ["negative control", "1", "2", "2", "2", "0"],
    ]
    assert [row[0] for row in rarest[1:]] == ["2", "10", "1138", "1", "0"]
    assert rarest[1] == ["2", "s3", "treatment", "0"]
    text, (reasons, sites) = found.of("Set aside")
    assert "6 sites of the source are not in the records" in text
    assert reasons[1:] == [
        ["w1: truncated PNG", "2"],
        ["blank cell_type", "2"],
        ["12 fields in place of 11", "1"],
        ["no image files", "1"],
    ]
    assert sites[1:] == [[cell or "–" for cell in item] for item in SET_ASIDE]
    text, (files,) = found.of("Files without a row")
    assert "No row asks for 2 image files" in text and files[1:] == [["images/x.png"], ["images/y.png"]]
    assert "10 (0.0 MB as serialised)" in found.text[""]


def test_facts_and_notes_are_at_the_top(page):
    found = page(
        screen(), config="bits_16-x", notes=["First note.", "Second."], source_kind="kaggle", classes=1139, bits=8,
        unlisted_images=12345, split_by=None, deviations=["A lacks a plate.", "B has two."],
    )  # fmt: skip
    head = found.text[""]
    assert "<h1>rxrx1, bits_16-x, 2.0.0</h1>" in found.source and "<title>rxrx1, bits_16-x, 2.0.0<" in found.source
    for words in ("First note.\nSecond.", "source kind\nkaggle", "unlisted images\n12,345", "split by\n–",
                  "8 x 8 pixels, 8 bits, 6 channels", "w4 nucleolus and RNA", "image_size –, experiments none",
                  "classes\n1,139", "A lacks a plate. B has two."):  # fmt: skip
        assert words in head, words
    assert "partial" not in found.source


def test_what_differs_from_the_published_design_is_said(page):
    published = {"sites": 12, "experiments": 2, "plates": 4, "perturbations": 2, "aliens": 3}
    counts = {"sites": 14, "experiments": 2, "plates": 5}
    found = page(screen(), labels=LABELS, set_aside=SET_ASIDE[:2], published=published, counts=counts)
    text, (table,) = found.of("Published design")
    assert table == [
        ["count", "published", "in the table", "records", "set aside"],
        ["sites", "12", "14", "10", "2"],
        ["experiments", "2", "2", "2", "–"],
        ["plates", "4", "5", "3", "–"],
        ["perturbations", "2", "–", "2", "–"],
        ["aliens", "3", "–", "–", "–"],
    ]
    lines = [line for line in text.splitlines() if ": " in line]
    assert lines == [
        "sites: 2 more in the table than published; 2 set aside; "
        "2 fewer records and sites set aside than rows of the table",
        "plates: 1 more in the table than published; 2 fewer in the records than in the table",
        "aliens: not counted in the records",
    ]
    assert "These counts differ:" in text

    text, (table,) = page(
        screen(), labels=LABELS, published={"sites": 10, "wells": 5, "cell_types": 2}, counts={"sites": 10}
    ).of("Published design")
    assert "Every count is as published." in text and "differ" not in text
    assert table[1:] == [
        ["sites", "10", "10", "10", "0"], ["wells", "5", "–", "5", "–"], ["cell types", "2", "–", "2", "–"],
    ]  # fmt: skip
    text, _ = page(screen(), labels=LABELS, published={"sites": 10, "perturbations": 9, "wells": 4}).of(
        "Published design"
    )
    assert "perturbations: 7 fewer in the records than published" in text
    assert "wells: 1 more in the records than published" in text
    assert "No counts are published for this dataset." in page(screen(), labels=LABELS).of("Published design")[0]


def test_a_partial_build_is_said_to_be_partial(page):
    settings = {"image_size": None, "experiments": ["A-1", "B-2"], "plates": [], "cell_types": ["HUVEC"]}
    found = page(screen(), settings=settings, published={"sites": 12})
    assert "This is a partial build: experiments A-1, B-2; cell types HUVEC." in found.text[""]
    assert "This build is partial" in found.of("Published design")[0]
    names = [f"gene-{i:03d}" for i in range(100)]
    found = page(screen(), settings={"experiments": names}, published={"sites": 12})
    assert "gene-023, and 76 more." in found.text[""] and "gene-024" not in found.source
    simulated = page(screen(), settings={"plates": 2, "cell_types": ["SIMA"], "experiments": []})
    assert "partial" not in simulated.source


def test_everything_is_escaped(page):
    evil = "<script>alert('&\"')</script>"
    items = [site(f"{evil}-01", 1, "B02", 1, "train", cell_type=evil, perturbation=evil, site_id=evil)]
    found = page(
        items, labels=[(0, evil, evil)], set_aside=[(evil, evil, evil, evil)], unlisted=[evil], channels=[evil] * 6,
        notes=[evil], config=evil, published={evil: 1}, settings={"experiments": [evil], evil: evil}, fact=evil,
        **{f"{evil}key": [evil, {evil: None}]},
    )  # fmt: skip
    assert found.tags["script"] == 0 and "<script" not in found.source and "alert('&" not in found.source
    assert found.source.count("&lt;script&gt;") > 20
    allowed = {"html", "head", "meta", "title", "style", "body", "header", "section", "nav", "a", "details", "summary",
               "h1", "h2", "h3", "h4", "p", "ul", "li", "dl", "dt", "dd", "div", "span", "i", "b", "table", "thead",
               "tbody", "tr", "th", "td", "figure", "figcaption", "img"}  # fmt: skip
    assert set(found.tags) <= allowed
    assert "http" not in found.source and "src=" in found.source


def test_long_lists_stop_and_say_so(page, monkeypatch):
    aside = [(f"HUVEC-01_1_B02_{i}", f"reason {i % 25}", "HUVEC-01", "train") for i in range(1501)]
    found = page(screen(), set_aside=aside, unlisted=[f"file {i}" for i in range(1001)])
    text, (reasons, sites) = found.of("Set aside")
    assert "1,501 sites" in text and "The first 1,000 of 1,501; set_aside.csv has all." in text
    assert len(sites) == 1001 and sites[-1][0] == "HUVEC-01_1_B02_999"
    assert reasons[1] == ["reason 0", "61"] and len(reasons) == 22 and reasons[-1] == ["other reasons", "300"]
    text, (files,) = found.of("Files without a row")
    assert "No row asks for 1,001 image files" in text and "The first 1,000 of 1,001; unlisted.csv has all." in text
    assert len(files) == 1001 and files[-1] == ["file 999"]
    assert "<summary>The sites</summary>" in found.source

    monkeypatch.setattr(contents, "REASONS", 3)
    found = page(screen(), set_aside=aside, unlisted=["x"] * 1000)
    reasons = found.of("Set aside")[1][0]
    assert reasons[1:] == [["reason 0", "61"], ["reason 1", "60"], ["reason 2", "60"], ["other reasons", "1,320"]]
    assert "The first" not in found.of("Files without a row")[0]


@pytest.mark.parametrize("items", [screen()[-1:], screen()[:1], [site(split="test")]])
def test_little_is_enough(page, items):
    found = page(items, labels=LABELS)
    assert "Nothing: every site of the source is a record." in found.of("Set aside")[0]
    assert "None: a row asks for every image file." in found.of("Files without a row")[0]
    assert {"w1", "w6"} <= set(found.captions) and len(found.images) == 6 + 7 + 7
    values = found.of("Pixel values")[1][0]
    assert [row[0] for row in values[1:]] == ["train split"] * (items[0]["split"] == "train") + [items[0]["experiment"]]


def test_the_real_records_are_shown(tmp_path, monkeypatch):
    """A folder as `prepare` makes it: what the page reads by default, and its thumbnails pixel by pixel."""
    from builders_tools import SCREEN_FIELDS, records, set_aside

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
        shown = found.images[f"site {first['site_id']}"].astype(int)
        assert np.abs(shown - expected).mean() < 5 and shown.shape == (32, 32, 3)
    histograms = [picture for name, picture in found.images.items() if name.startswith("histograms of ")]
    assert {picture.shape for picture in histograms} == {(375, 495, 3)} and min(p.std() for p in histograms) > 5


# The pictures


def test_the_scale_of_colours_is_published_or_of_the_pixels(page, pictures_of):
    histogram = [[999] + [0] * 254 + [1], [998, 0, 2] + [0] * 253, [0] * 4 + [5] + [0] * 251, *[[7] + [0] * 255] * 3]
    histograms = {"HUVEC-01": histogram}
    image = np.random.default_rng(0).integers(0, 3000, (8, 8, 6), np.uint16)
    pictures_of(image)
    items = [site()]
    found = page(items, histograms=histograms, name="rxrx3", bits=16)
    high = np.array([1, 3, 5, 1, 1, 1]) * 256 - 1
    assert "99.9th percentile of all pixels (255, 767, 1,279, 255, 255, 255), the same" in found.of("Sites")[0]
    assert np.array_equal(found.images["site HUVEC-01_1_B02_1"], rgb(image, high))
    found = page(items, histograms=histograms, name="rxrx2")
    assert "(1, 2, 4, 1, 1, 1)" in found.of("Sites")[0]
    pictures_of((image % 60).astype(np.uint8))
    found = page(items, histograms=histograms)
    assert "published values (51, 107, 64, 191, 89, 191)" in found.of("Sites")[0]
    assert "nucleus blue, endoplasmic reticulum green, actin red" in found.of("Sites")[0]
    assert np.array_equal(found.images["site HUVEC-01_1_B02_1"], rgb(image % 60, HIGH))


def test_every_channel_of_one_site_is_shown(page, pictures_of):
    image = np.zeros((8, 8, 6), np.uint8)
    image[:, :4] = [10, 20, 30, 40, 50, 60]
    pictures_of(image)
    found = page([site()])
    for i, name in enumerate(CHANNELS):
        drawn = found.images[f"w{i + 1} {name} of HUVEC-01_1_B02_1"]
        assert drawn[:, :4].min() == 255 and drawn[:, 4:].max() == 0
        assert f"w{i + 1} {name}, from 0 to {10 * (i + 1)}" in found.captions


def test_thumbnails_are_of_negative_controls_and_bounded(page, pictures_of):
    asked = []
    pictures_of(np.zeros((600, 500, 6), np.uint8), asked)
    items = screen() + [site(f"X-{i:02d}", split="test") for i in range(40)]
    found = page(items)
    assert len(asked) == 24 and asked[:3] == [("train", 0), ("val", 0), ("test", 1)] and asked[-1] == ("test", 39)
    text, _ = found.of("Sites")
    assert "18 of 42 experiments are not shown" in text and "shownX-00, X-02" in text.replace("\n", "")
    thumbnails = {name: picture for name, picture in found.images.items() if name.startswith("site ")}
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
    from matplotlib import colormaps

    return tuple(round(255 * c) for c in colormaps["RdBu_r"](np.clip((value + 2) / 4, 0, 1))[:3])


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
    assert "w6: edge +0.00" in found.captions and "edge +0.00" in gallery._plate(np.zeros((16, 24)), "", "", -0.004)
    assert "HUVEC-01 plate 1: edge -2.65" in found.captions


def test_histograms_are_drawn_of_every_channel_and_told_in_numbers(page, monkeypatch):
    drawn = []
    monkeypatch.setattr(pictures, "histogram_figure", lambda *args: drawn.append(args))
    low, high = [990, 0, 10] + [0] * 253, [0] * 100 + [1] + [0] * 155
    found = page(screen(), histograms={"HUVEC-01": [low] * 6, "RPE-02": [high] * 5 + [low]})
    assert [name for name in found.images if name.startswith("histograms of ")] == [
        f"histograms of w{i}; in numbers below" for i in range(1, 7)
    ]
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


# What a folder must be


def test_a_damaged_folder_is_one_line(tmp_path, pictures_of):
    def refused(words, name=None, text=None):
        folder = write_folder(tmp_path / "folder", screen(), labels=LABELS)
        if name and text is None:
            (folder / name).unlink()
        elif name:
            (folder / name).write_text(text)
        with pytest.raises(UserError, match=words) as error:
            report.write(folder)
        assert "\n" not in str(error.value) and "prepare the dataset again" in str(error.value)
        assert not (folder / "report.html").exists()

    tables = ("sites.csv", "manifest.csv", "perturbations.csv", "set_aside.csv", "unlisted.csv")
    for name in (*tables, "metadata.json", "statistics.json", "histograms.json", "dataset_info.json"):
        refused(f"{name} cannot be read", name)
    refused("metadata.json cannot be read", "metadata.json", "{")
    refused("set_aside.csv: no column experiment, split", "set_aside.csv", "site_id,reason\n")
    refused("set_aside.csv line 2: 3 fields, not 4", "set_aside.csv", "site_id,reason,experiment,split\na,b,c\n")
    folder = write_folder(tmp_path / "folder", screen(), labels=LABELS)
    manifest = (folder / "manifest.csv").read_text().splitlines()
    refused("record 9 of sites.csv is not that", "manifest.csv", "\n".join(manifest[:-1]))
    refused("record 10 of sites.csv is not that", "manifest.csv", "\n".join([*manifest, manifest[-1]]))
    swapped = [*manifest[:2], manifest[3], manifest[2], *manifest[4:]]
    refused("record 1 of sites.csv is not that", "manifest.csv", "\n".join(swapped))
    refused("manifest.csv: HUVEC-01 plate 1: could not", "manifest.csv", "\n".join(manifest).replace("1.0,2", "x,2", 1))


def test_importing_the_report_is_light():
    code = (
        "import sys, tfds_builders.report.page; "
        "print({'jax', 'tensorflow_datasets', 'matplotlib', 'tensorflow'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_memory_does_not_grow_with_the_records(tmp_path):
    """Rows are held a plate at a time: ten times the plates of an experiment cost little more."""

    def peak(plates):
        items = [site(plate=p, well=f"{row}{c:02d}") for p in range(plates) for row in "BCDEFG" for c in range(1, 25)]
        folder = write_folder(tmp_path / str(plates), items)
        del items
        tracemalloc.start()
        contents.read(folder)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    contents.read(write_folder(tmp_path / "first", [site()]))  # what is imported and cached at first use
    assert peak(40) < 1.5 * peak(4)
