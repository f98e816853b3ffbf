"""README.md and croissant.json of prepared folders: what the hub and mlcroissant read there is what is there."""

import csv
import fnmatch
import hashlib
import importlib.util
import json
import pathlib

import plates_tools
import pytest
import yaml
from builders_tools import SCREEN, SCREEN_FIELDS, build

from rxrx_jax.base import files
from rxrx_jax.simulate import screen as simulate
from tfds_builders import prepare, verify
from tfds_builders.report import card, croissant

MISSING = importlib.util.find_spec("mlcroissant") is None
KINDS = {"sc:Integer": int, "sc:Float": float, "sc:Text": str}


@pytest.fixture(scope="module", params=("rxrx_sim", "rxrx1", "my_plates", "nine"))
def folder(request, tmp_path_factory) -> pathlib.Path:
    root = tmp_path_factory.mktemp(request.param)
    if request.param == "rxrx_sim":
        return prepare.prepare("rxrx_sim", None, root, 1, progress=False, **SCREEN_FIELDS)
    if request.param == "rxrx1":
        simulate.write_published(SCREEN, root / "tree")
        return build(root / "tree", root / "out")
    writer = {"my_plates": plates_tools.jump, "nine": plates_tools.nine}[request.param]
    prepare.main(["images", *writer(root / "tree"), f"--out={root / 'out'}", "--workers=1"])
    return root / "out" / request.param / "default" / "2.0.0"


def described(folder: pathlib.Path) -> dict:
    return json.loads((folder / croissant.NAME).read_text())


def front_matter(text: str) -> dict:
    empty, matter, _ = text.split("---\n", 2)
    assert empty == ""
    return yaml.safe_load(matter)


def rows(path: pathlib.Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_croissant_describes_every_file_and_column(folder):
    found = described(folder)
    listed = {item["@id"]: item for item in found["distribution"] if item["@type"] == "cr:FileObject"}
    sets = [item for item in found["distribution"] if item["@type"] == "cr:FileSet"]
    shards = {path.name for path in folder.iterdir() if ".array_record-" in path.name}
    assert {*listed} == {path.name for path in folder.iterdir()} - shards - {files.SUMS, croissant.NAME}
    for name, item in listed.items():
        data = (folder / name).read_bytes()
        assert item["sha256"] == hashlib.sha256(data).hexdigest() and item["contentSize"] == f"{len(data)} B"
    assert sorted(name for item in sets for name in fnmatch.filter(shards, item["includes"])) == sorted(shards)
    splits, *tables = found["recordSet"]
    assert splits["data"] == [
        {"splits/name": name, "splits/records": number}
        for name, number in prepare.split_sizes(folder).items()
        if number
    ]
    assert [table["@id"] for table in tables] == ["sites", "perturbations"]
    for table in tables:
        content = rows(folder / f"{table['@id']}.csv")
        columns = [field["source"]["extract"]["column"] for field in table["field"]]
        assert columns == list(content[0]) and table["key"]["@id"] in {field["@id"] for field in table["field"]}
        for field, column in zip(table["field"], columns, strict=True):
            assert field["source"]["fileObject"]["@id"] in listed
            assert all(KINDS[field["dataType"]](row[column]) is not None for row in content if row[column])
    kinds = {field["name"]: field["dataType"] for field in tables[0]["field"]}
    names = "my_plates" in folder.parts or "nine" in folder.parts
    assert kinds["perturbation_id"] == "sc:Integer" and kinds["plate"] == ("sc:Text" if names else "sc:Integer")


def test_croissant_and_card_say_whose_the_data_are(folder):
    found, text = described(folder), (folder / "README.md").read_text()
    matter, about = front_matter(text), card.about(folder)
    expected = {
        "rxrx_sim": ("apache-2.0", "Apache-2.0", None),
        "rxrx1": ("cc-by-nc-sa-4.0", "https://creativecommons.org/licenses/by-nc-sa/4.0/", "sypetkowski2023rxrx1"),
        "my_plates": ("cc0-1.0", "CC0 1.0", "Us (2026)"),
        "nine": ("unknown", "not stated by whoever prepared this dataset", None),
    }[about["name"]]
    assert (matter["license"], found["license"]) == expected[:2]
    assert expected[2] in found["citeAs"] if expected[2] else "citeAs" not in found
    assert found.get("url") == ("https://www.rxrx.ai/rxrx1" if about["name"] == "rxrx1" else None)
    assert ("Recursion" in text + json.dumps(found)) == (about["name"] == "rxrx1")
    assert ("SIMULATED DATA" in text) == ("SIMULATED DATA" in found["description"]) == (about["name"] == "rxrx_sim")
    assert ("simulated" in matter["tags"]) == (about["name"] == "rxrx_sim")
    assert matter["pretty_name"] == found["name"] == about["name"] and matter["size_categories"] == ["n<1K"]
    assert about["license"] in text and about["citation"].strip() in text


def test_verify_holds_them(folder, tmp_path):
    sums = (folder / files.SUMS).read_text()
    assert "  README.md\n" in sums and f"  {croissant.NAME}\n" in sums
    assert verify.verify(folder, workers=1) == []
    before = (folder / croissant.NAME).read_bytes()
    (folder / croissant.NAME).write_bytes(before.replace(b"sc:Text", b"sc:Date", 1))
    (wrong,) = verify.verify(folder, workers=1)
    (folder / croissant.NAME).write_bytes(before)
    assert wrong.startswith(f"{croissant.NAME} is not what was written")
    croissant.write(folder)
    assert (folder / croissant.NAME).read_bytes() == before  # written again it is the same


def test_the_hub_reads_the_card(folder):
    hub = pytest.importorskip("huggingface_hub")
    read = hub.DatasetCard.load(folder / "README.md", ignore_metadata_errors=False)
    assert read.data.to_dict() == front_matter((folder / "README.md").read_text())


@pytest.mark.parametrize("records, name", [(0, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (125_510, "100K<n<1M"),
                                           (2_200_000, "1M<n<10M"), (10**9, "100M<n<1B")])  # fmt: skip
def test_sizes_have_the_hubs_names(records, name):
    assert card.size_category(records) == name


@pytest.mark.parametrize(
    "encoding, words",
    [
        ("delta", "rxrx_jax, whose delta"),
        ("source", "rxrx_jax, whose source"),
        ("zstd", "tensorflow-datasets"),
        ("raw", "tensorflow-datasets"),
    ],
)
def test_the_card_says_what_reading_needs(encoding, words):
    assert card._use(encoding)[0].startswith(f"Reading needs {words}")


def test_text_of_others_is_no_markup(folder, tmp_path):
    """Whatever a licence, a citation, a channel or a note says, the card's own lines stay what they are."""
    evil = '---\n# x\n```\n<script>|"\\\x85\u2028:\x7f😀 [a](http://b)'
    info, metadata = ((folder / name).read_text() for name in ("dataset_info.json", "metadata.json"))
    about = json.loads(metadata)
    (tmp_path / "metadata.json").write_text(json.dumps(about | {"notes": [evil], "channels": [evil]}))
    about = {"citation": evil, "redistributionInfo": {"license": f"{evil} (https://x.example/{chr(0x85)}😀)"}}
    (tmp_path / "dataset_info.json").write_text(json.dumps(json.loads(info) | about))
    card.write(tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert front_matter(text)["license"] == "other"
    assert text.count("````text\n") == 2  # longer than the fence within
    outside = "".join(text.split("````")[::2])
    assert "<script>" not in outside and "\n# x" not in outside and "[a]" not in outside.replace("\\[a\\]", "")


@pytest.mark.slow
@pytest.mark.skipif(MISSING, reason="mlcroissant is not installed")
@pytest.mark.filterwarnings("ignore")  # of the libraries that it imports
def test_mlcroissant_reads_every_row(folder):
    import mlcroissant

    dataset = mlcroissant.Dataset(jsonld=folder / croissant.NAME)
    assert not dataset.metadata.ctx.issues.errors
    recommended = {text.split('"')[1].rpartition("/")[2] for text in dataset.metadata.ctx.issues.warnings}
    assert recommended <= {"datePublished", "citeAs"}  # nobody's to invent
    for name in ("sites", "perturbations"):
        found = [
            {key.partition("/")[2]: value.decode() if isinstance(value, bytes) else value for key, value in row.items()}
            for row in dataset.records(name)
        ]
        kinds = {f["name"]: KINDS[f["dataType"]] for s in described(folder)["recordSet"] for f in s["field"]}
        content = rows(folder / f"{name}.csv")
        assert found == [{k: kinds[k](v) if v else None for k, v in row.items()} for row in content]
    splits = {row["splits/name"]: row["splits/records"] for row in dataset.records("splits")}
    assert splits == {name: number for name, number in prepare.split_sizes(folder).items() if number}
