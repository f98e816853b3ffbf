"""report.html of a prepared folder: every number against the folder's tables, and what a folder must be."""

import functools
import subprocess
import sys
import tracemalloc

import pytest
from builders_report_tools import LABELS, fake_pictures, make_page, screen, site, write_folder

from rxrx_jax.base.errors import UserError
from rxrx_jax.base.page import anchor
from rxrx_jax.base.spellings import SPLITS
from tfds_builders.report import contents
from tfds_builders.report import page as report


@pytest.fixture
def pictures_of(monkeypatch):
    return fake_pictures(monkeypatch)


@pytest.fixture
def page(tmp_path, pictures_of):
    return functools.partial(make_page, tmp_path / "folder")


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
    assert "10 (0.0 MB as serialised)" in found.of("About")[0]


def test_pictures_come_first_then_notes_and_facts(page):
    found = page(
        screen(), config="bits_16-x", notes=["First note.", "Second."], source_kind="kaggle", classes=1139, bits=8,
        unlisted_images=12345, split_by=None, deviations=["A lacks a plate.", "B has two."],
    )  # fmt: skip
    head = found.of("About")[0]
    assert list(found.text)[:4] == ["", anchor("Sites"), anchor("Plate maps"), anchor("About")]
    assert found.source.index("<img") < found.source.index("First note.") < found.source.index("<dl>")
    assert "<h1>rxrx1, bits_16-x, 2.0.0</h1>" in found.source and "<title>rxrx1, bits_16-x, 2.0.0<" in found.source
    for words in ("First note.\nSecond.", "source kind\nkaggle", "unlisted images\n12,345", "split by\n–",
                  "8 x 8 pixels, 8 bits, 6 channels", "w4 nucleolus and RNA", "image_size: –; experiments: none",
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
    assert found.tags["script"] == found.source.count("<script") == 1 and "alert('&" not in found.source
    assert found.source.count("&lt;script&gt;") > 20
    allowed = {"html", "head", "meta", "title", "style", "body", "header", "section", "nav", "a", "details", "summary",
               "h1", "h2", "h3", "h4", "p", "ul", "li", "dl", "dt", "dd", "div", "span", "i", "b", "table", "thead",
               "tbody", "tr", "th", "td", "figure", "figcaption", "img", "main", "caption", "button", "label", "input",
               "output", "script", "svg", "line", "text", "polyline", "circle"}  # fmt: skip
    assert set(found.tags) <= allowed
    assert "http:" not in found.source and "https:" not in found.source and "src=" in found.source


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
    assert "<summary>The sites: 1,000 rows</summary>" in found.source

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
    assert {"w1", "w6"} <= set(found.captions) and len(found.images) == 7 + 7 and len(found.labels) == 6
    values = found.of("Pixel values")[1][0]
    assert [row[0] for row in values[1:]] == ["train split"] * (items[0]["split"] == "train") + [items[0]["experiment"]]


# What a folder must be.


def test_a_damaged_folder_is_one_line(tmp_path, pictures_of):
    def refused(words, name=None, text=None):
        folder = write_folder(tmp_path / "folder", screen(), labels=LABELS)
        if name and text is None:
            (folder / name).unlink()
        elif name:
            (folder / name).write_text(text)
        with pytest.raises(UserError, match=words) as error:
            report.write(folder)
        assert "\n" not in str(error.value) and "rebuild the dataset" in str(error.value)
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
        "print({'jax', 'tensorflow_datasets', 'bokeh', 'tensorflow'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_memory_does_not_grow_with_the_records(tmp_path):
    """Rows are held one plate at a time: ten times the plates of an experiment cost little more."""

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
