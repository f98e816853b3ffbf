"""The finished folder of plates: tables, what was set aside, statistics; all without a real source."""

import json
import math

import pytest
from builders_tools import read_csv
from reader_tools import ROWS, image, row, task

from tfds_builders.common import finish, plates
from tfds_builders.common.types import SetAside


def finished(task, tmp_path):
    plates.build_plate(task, "SIMA-01", 1)
    return finish.finish(task, [("SIMA-01", 1)], tmp_path / "folder", "sim"), tmp_path / "folder"


def test_every_kind_of_what_is_left_out_is_counted_and_listed(tmp_path):
    rows = [*ROWS, SetAside("line 9", "odd"), row("B02", where="line 4")]
    made = task(tmp_path, rows, bad=("C02",), unlisted=["a.png", "b.png"], strays=["c.txt"])
    result, folder = finished(made, tmp_path)
    assert (result["set_aside"], result["unlisted"], result["records"]) == (3, 3, 5)
    reasons = {item["site_id"]: item["reason"] for item in read_csv(folder / "set_aside.csv")}
    assert reasons == {
        "line 9": "odd", "SIMA-01_1_C02_1": "no light", "SIMA-01_1_B02_1": "duplicate row (line 4)",
    }  # fmt: skip
    assert sorted(item["file"] for item in read_csv(folder / "unlisted.csv")) == ["a.png", "b.png", "c.txt"]
    assert finish.first_set_aside(folder) == "; 3 set aside, the first is line 9: odd"
    sizes = {split.name: split.num_bytes for split in result["splits"]}
    for split in result["splits"]:
        files = list(folder.glob(f"sim-{split.name}.array_record-*"))
        assert len(files) == 1 and files[0].stat().st_size == sizes[split.name]


def test_nothing_set_aside_is_an_empty_text(tmp_path):
    _, folder = finished(task(tmp_path, ROWS), tmp_path)
    assert finish.first_set_aside(folder) == ""


def test_tables_by_split_with_blanks_and_published_columns(tmp_path):
    rows = [
        row("B02", split="val", dose=1.5, original={"id": "p", "extra": "é,x"}),
        row("B03", dose=float("nan"), original={"extra": "y", "id": "q"}),
        row("B04", split="val", dose=0.0, original={"id": "r"}),
    ]
    _, folder = finished(task(tmp_path, rows, extra={"dose": float}), tmp_path)
    assert [(r["well"], r["dose"]) for r in read_csv(folder / "sites.csv")] == [
        ("B03", ""), ("B02", "1.5"), ("B04", "0.0"),
    ]  # fmt: skip
    assert [(r["id"], r["extra"]) for r in read_csv(folder / "original.csv")] == [("q", "y"), ("p", "é,x"), ("r", "")]
    manifest = read_csv(folder / "manifest.csv")
    assert [(r["split"], r["index"]) for r in manifest] == [("train", "0"), ("val", "0"), ("val", "1")]
    for entry, source in zip(manifest, (rows[1], rows[0], rows[2]), strict=True):
        means = image(source).mean((1, 2))
        assert [entry["mean_w1"], entry["mean_w2"]] == [f"{mean:.6g}" for mean in means]
    assert not list(folder.glob("*.partial"))


def test_finishing_again_after_a_stop_changes_nothing(tmp_path):
    made = task(tmp_path, ROWS)
    _, folder = finished(made, tmp_path)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for _ in range(2):
        finished(made, tmp_path)
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert len(made.reader.read_sites) == 6


def test_statistics_of_sums_that_pass_64_bits_and_of_nothing():
    sites, value = 10**9, 65535
    entry = {"sites": sites, "total": [value * sites * 24], "squares": [value**2 * sites * 24]}
    third = {"sites": sites, "total": [65534 * sites * 24 + sites * 8]}  # a third of 65535, the others 65534
    third["squares"] = [65534**2 * sites * 16 + 65535**2 * sites * 8]
    none = {"sites": 0, "total": [0], "squares": [0]}
    found = finish.statistics((4, 6, 1), {("experiment", "A"): entry, ("plate", "A/1"): third, ("dataset", ""): none})
    assert found["experiment"]["A"] == {"mean": [65535.0], "std": [0.0], "sites": sites}
    assert found["plate"]["A/1"]["std"] == [pytest.approx(math.sqrt(2) / 3, rel=1e-12)]  # floats lose it
    assert found["dataset"] == {"mean": None, "std": None, "sites": 0}


def test_an_experiment_without_a_record_has_no_statistics(tmp_path):
    _, folder = finished(task(tmp_path, ROWS, bad={r["well"] for r in ROWS}), tmp_path)
    assert json.loads((folder / "histograms.json").read_text())["experiment"] == {}
    assert json.loads((folder / "statistics.json").read_text())["experiment"] == {}


def test_histograms_of_plates_are_added_and_the_dataset_is_train_alone(tmp_path):
    made = task(tmp_path, [*ROWS, row("B07", plate=2, split="train", site_id="SIMA-01_2_B07_1")])
    for plate in (1, 2):
        plates.build_plate(made, "SIMA-01", plate)
    finish.finish(made, [("SIMA-01", 1), ("SIMA-01", 2)], tmp_path / "folder", "sim")
    found = json.loads((tmp_path / "folder/statistics.json").read_text())
    assert (found["dataset"]["sites"], found["experiment"]["SIMA-01"]["sites"]) == (4, 7)
    assert {name: entry["sites"] for name, entry in found["plate"].items()} == {"SIMA-01/1": 6, "SIMA-01/2": 1}
    counts = json.loads((tmp_path / "folder/histograms.json").read_text())["experiment"]["SIMA-01"]
    assert [sum(channel) for channel in counts] == [7 * 24] * 2
