"""What the tests of report.html of a prepared folder share: a folder without records, and the page as it is read."""

import base64
import collections
import csv
import html.parser
import io
import json
import pathlib

import numpy as np
from composite_tools import CHANNELS
from PIL import Image

from rxrx_jax.base.page import anchor
from rxrx_jax.base.spellings import SPLITS
from tfds_builders.common.types import SITE_COLUMNS
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
        self.section, self.cell, self.caption, self.labels = "", None, None, []
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
        elif tag == "svg":
            self.labels.append(attributes["aria-label"])
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


def fake_pictures(monkeypatch):
    """Makes pages read no records; returns a function that gives them an image, and a list for which (split, index)
    they read."""

    def give(image, asked=None):
        def read(split, index):
            if asked is not None:
                asked.append((split, index))
            return image

        monkeypatch.setattr(report, "image_reader", lambda folder: read)

    give(np.full((8, 8, 6), 20, np.uint8))
    return give


def make_page(folder, items, **more):
    """Writes a folder and its report, and parses it."""
    path = report.write(write_folder(folder, items, **more))
    assert path == folder / "report.html"
    return Page(path)


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
