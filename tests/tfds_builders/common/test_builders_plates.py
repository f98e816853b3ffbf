"""One plate and the folder: shards, results, reading of sites, statistics; all without a real source."""

import contextlib
import csv
import errno
import json
import math
import types

import numpy as np
import pytest
import tensorflow_datasets as tfds
import zstandard
from builders_tools import read_csv

from rxrx_jax.base.errors import UserError
from rxrx_jax.simulate import screen as simulate
from tfds_builders import prepare
from tfds_builders.common import build, encodings, finish, plates, reading, settings
from tfds_builders.common.rows import plan
from tfds_builders.common.screen import _is_chosen
from tfds_builders.common.types import BadSite, SetAside, Table

SHAPE = (4, 6, 2)  # [H, W, C], H and W different


def row(well="B02", site=1, split="train", **more):
    return {
        "site_id": f"SIMA-01_1_{well}_{site}", "well_id": f"SIMA-01_1_{well}", "cell_type": "SIMA",
        "experiment": "SIMA-01", "plate": 1, "well": well, "site": site, "well_type": "treatment",
        "perturbation": "a", "perturbation_id": None, "split": split, "where": "line 2", **more,
    }  # fmt: skip


def image(row, bits=8):
    """Random pixels [C, H, W] of the whole range, the same for the same well and site."""
    random = np.random.default_rng([ord(row["well"][0]), row["site"]])
    return random.integers(0, 2**bits, (SHAPE[2], *SHAPE[:2])).astype(f"uint{bits}")


class Reader:
    """Gives every site its image but those in `bad`."""

    counts = {}

    def __init__(self, bits=8, bad=(), unlisted=(), strays=()):
        self.bits, self.bad, self.unlisted_names, self.stray_names = bits, bad, list(unlisted), list(strays)
        self.read_sites = []

    @contextlib.contextmanager
    def open(self, experiment, plate):
        yield self

    def unlisted(self, places):
        return self.unlisted_names

    def strays(self):
        return self.stray_names

    def check(self):
        pass

    def read(self, row):
        self.read_sites.append(row["site_id"])
        if row["well"] in self.bad:
            raise BadSite("no light")
        return image(row, self.bits), []


def task(tmp_path, rows, bits=8, strict=False, extra=None, shape=SHAPE, **reader):
    plan.write(tmp_path / "plan.sqlite", Table(rows))
    (tmp_path / "plates").mkdir(exist_ok=True)
    return plates.Task(
        tmp_path / "plates", plan.Plan(tmp_path / "plan.sqlite"), Reader(bits, **reader), shape, bits, "delta",
        extra or {}, strict,
    )  # fmt: skip


ROWS = [row("B02"), row("B03", split="test"), row("C02"), row("C03", split="test"), row("D02"), row("E02", split="val")]


def built(task):
    return json.loads(plates.build_plate(task, "SIMA-01", 1).read_text())


def test_a_result_says_what_is_in_its_shards(tmp_path, monkeypatch):
    monkeypatch.setattr(plates, "SHARD_BYTES", 2 * math.prod(SHAPE))
    result = built(task(tmp_path, ROWS, bad=("E02",)))
    assert result["set_aside"] == [["SIMA-01_1_E02_1", "no light", "SIMA-01", "val"]] and result["rows"] == 6
    assert [(shard["split"], shard["records"]) for shard in result["shards"]] == [
        ("train", 2), ("test", 2), ("train", 1),
    ]  # fmt: skip
    for shard in result["shards"]:
        assert shard["bytes"] == (tmp_path / "plates" / shard["file"]).stat().st_size > 0
    train = np.stack([image(r) for r in ROWS if r["split"] == "train"]).astype(int)
    assert result["train_moments"]["sites"] == 3
    assert result["train_moments"]["total"] == train.sum((0, 2, 3)).tolist()
    assert result["train_moments"]["squares"] == (train**2).sum((0, 2, 3)).tolist()
    assert result["moments"]["sites"] == 5
    for site, source in zip(result["sites"], ROWS, strict=False):
        assert site["site_id"] == source["site_id"]
        np.testing.assert_allclose(site["manifest"]["mean"], image(source).mean((1, 2)))


@pytest.mark.parametrize("bits, length", [(8, 4), (16, 2)])
def test_a_shard_holds_so_many_bytes_of_pixels(tmp_path, monkeypatch, bits, length):
    monkeypatch.setattr(plates, "SHARD_BYTES", 4 * math.prod(SHAPE) + 1)
    result = built(task(tmp_path, [row(f"B0{i}") for i in range(1, 6)], bits))
    assert [shard["records"] for shard in result["shards"]] == {4: [4, 1], 2: [2, 2, 1]}[length]


def test_an_image_larger_than_a_shard_has_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(plates, "SHARD_BYTES", 10)
    assert [shard["records"] for shard in built(task(tmp_path, ROWS[:3]))["shards"]] == [1, 1, 1]


def test_16_bit_histograms_have_bins_of_256_values(tmp_path):
    result = built(task(tmp_path, ROWS, bits=16))
    pixels = np.stack([image(r, 16) for r in ROWS])
    expected = [np.bincount(pixels[:, c].ravel() // 256, minlength=256).tolist() for c in range(2)]
    assert result["histogram"] == expected
    assert result["moments"]["squares"] == (pixels.astype(object) ** 2).sum((0, 2, 3)).tolist()


@pytest.mark.parametrize("bits", [8, 16])
def test_histograms_and_moments_are_exact(bits):
    pixels = np.full((2, 3, 5), 2**bits - 1, f"uint{bits}")
    pixels[1, 0, :2] = 0
    counts = plates.histograms(pixels)
    assert counts.shape == (2, 2**bits) and counts[0, -1] == 15 and (counts[1, 0], counts[1, -1]) == (2, 13)
    found = plates.moments(counts * 10**12, 7)  # sums of squares beyond 64 bits
    assert found["squares"] == [15 * 10**12 * (2**bits - 1) ** 2, 13 * 10**12 * (2**bits - 1) ** 2]
    assert found["total"] == [15 * 10**12 * (2**bits - 1), 13 * 10**12 * (2**bits - 1)] and found["sites"] == 7


@pytest.mark.parametrize("shape, bits", [((6, 4, 2), 8), ((4, 6, 1), 8), (SHAPE, 16)])
def test_a_reader_that_gives_another_image_stops_the_build(tmp_path, shape, bits):
    wrong = task(tmp_path, ROWS, bits, shape=shape)
    wrong.reader.bits = 8
    with pytest.raises(TypeError, match="SIMA-01_1_B02_1: read uint8"):
        plates.build_plate(wrong, "SIMA-01", 1)
    assert not list((tmp_path / "plates").glob("*.json"))


def test_a_plate_that_is_done_is_not_read_again(tmp_path):
    calls = []
    first = task(tmp_path, ROWS)
    for _ in range(2):
        plates.build_plate(first, "SIMA-01", 1, lambda: calls.append(1))
    assert len(first.reader.read_sites) == 6 and len(calls) == 12  # the progress bar still counts them


@pytest.mark.parametrize("damage", ["gone", "short"])
def test_a_plate_whose_shard_is_damaged_is_read_again(tmp_path, damage):
    first = task(tmp_path, ROWS)
    shard = tmp_path / "plates" / built(first)["shards"][1]["file"]
    whole = shard.read_bytes()
    shard.unlink() if damage == "gone" else shard.write_bytes(whole[:-1])
    again = tmp_path / "plates" / built(first)["shards"][1]["file"]
    assert len(first.reader.read_sites) == 12 and again.read_bytes() == whole


def test_a_plate_with_something_set_aside_is_read_again(tmp_path):
    """It may be fixed by the time that a stopped build resumes."""
    assert len(built(task(tmp_path, ROWS, bad=("B03",)))["sites"]) == 5
    assert len(built(task(tmp_path, ROWS))["sites"]) == 6


def test_strict_stops_before_the_next_site_is_read(tmp_path):
    strict = task(tmp_path, ROWS, strict=True, bad=("B03",))
    with pytest.raises(UserError, match="SIMA-01_1_B03_1: no light .*--strict"):
        built(strict)
    assert len(strict.reader.read_sites) == 2
    last = task(tmp_path, ROWS, strict=True, bad=("E02",))
    with pytest.raises(UserError, match="SIMA-01_1_E02_1"):
        built(last)
    assert not list((tmp_path / "plates").glob("*.json"))


@pytest.mark.parametrize("reader, words", [({"bad": ("B03",)}, "no light"), ({"unlisted": ["x.png"]}, "x.png: an im")])
def test_strict_looks_at_plates_that_are_done(tmp_path, reader, words):
    built(task(tmp_path, ROWS, **reader))
    with pytest.raises(UserError, match=words):
        built(task(tmp_path, ROWS, strict=True, **reader))


def test_a_full_disk_is_an_os_error_and_other_errors_stay(tmp_path):
    for code in plates.DISK_ERRORS:
        with pytest.raises(OSError) as error, plates._disk_errors():
            raise RuntimeError(f"write failed: {plates.os.strerror(code)}")
        assert error.value.errno == code
    with pytest.raises(RuntimeError, match="odd"), plates._disk_errors():
        raise RuntimeError("odd")
    assert errno.ENOSPC in plates.DISK_ERRORS


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


class Files:
    """An open plate, of sources.py: keys (well, site, channel)."""

    def __init__(self, keys, unreadable="", others=()):
        self.keys, self.unreadable, self.others = keys, unreadable, list(others)

    def name(self, well, site, channel):
        return f"{well}_s{site}_w{channel}.png"


def opened(keys, bits=8, published=8, **more):
    return reading.FileSites(reading.FileReader(None, 2, (4, 6), published, bits), Files(keys, **more))


@pytest.mark.parametrize(
    "channels, unreadable, reason",
    [
        ((), "", "^no image files$"),
        ((), "cut short", "^cut short$"),
        ((1,), "", "^missing w2$"),
        ((1,), "cut short", r"^missing w2 \(cut short\)$"),
        ((1, 2, 7, 3), "", "^unexpected w3, w7$"),
    ],
)
def test_a_site_without_its_channels_says_why(channels, unreadable, reason):
    sites = opened([("B02", 1, channel) for channel in channels] + [("B02", 2, 1)], unreadable=unreadable)
    with pytest.raises(BadSite, match=reason):
        sites.read(row())


def test_files_without_a_row_are_sorted_and_of_exact_places():
    keys = [("C02", 1, 1), ("B02", 2, 1), ("B02", 1, 1), ("B03", 1, 1)]
    assert opened(keys, others=["A.txt", "z"]).unlisted({("B02", 1), ("B03", 1)}) == [
        "A.txt", "B02_s2_w1.png", "C02_s1_w1.png", "z",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "choice, chosen",
    [
        ({}, True),
        ({"experiments": ("A-01",), "plates": (1,)}, True),
        ({"experiments": ("A-02",)}, False),
        ({"plates": (2,)}, False),
        ({"cell_types": ("A",)}, False),  # nothing tells the cell type of a plate without a row
    ],
)
def test_a_plate_without_rows_is_chosen_by_its_name(choice, chosen):
    assert _is_chosen(("A-01", 1), settings.Records(**choice)) is chosen


@pytest.fixture
def stopped(tmp_path, monkeypatch):
    """A tree whose build was stopped at its end, and the folder for the build."""
    fields = dict(
        image_size=32, treatments=1, positive_controls=1, replicates=1, positive_wells=1, untreated_wells=1,
        plates=1, train=("SIMA-01",), val=("SIMA-02",), test=("SIMB-01",),
    )  # fmt: skip
    simulate.write_published(simulate.Screen(**fields), tmp_path / "tree")
    with monkeypatch.context() as patch:
        patch.setattr(finish._Tables, "join", lambda self: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            prepare.prepare("rxrx1", tmp_path / "tree", tmp_path, 1, progress=False)
    return tmp_path / "tree"


def test_a_changed_table_of_the_same_folder_starts_over(stopped, tmp_path):
    table = stopped / "metadata.csv"
    lines = table.read_text().splitlines()
    table.write_text("\n".join(lines[:-1]) + "\n")
    folder = prepare.prepare("rxrx1", stopped, tmp_path, 1, progress=False)
    assert len(read_csv(folder / "sites.csv")) == len(lines) - 2


def test_a_table_written_again_with_the_same_size_starts_over(stopped, tmp_path):
    table = stopped / "metadata.csv"
    text, time = table.read_text(), table.stat().st_mtime_ns
    rows = list(csv.DictReader(text.splitlines()))
    old, new = rows[0]["well"], "P24"
    table.write_text(text.replace(f"_{old}", f"_{new}").replace(f",{old},", f",{new},"))
    plates.os.utime(table, ns=(time + 10**9, time + 10**9))
    folder = prepare.prepare("rxrx1", stopped, tmp_path, 1, progress=False)
    assert any(item["site_id"].endswith(f"_{new}_1") for item in read_csv(folder / "set_aside.csv"))


@pytest.mark.parametrize(
    "name, fields, words",
    [
        ("rxrx1", {"bits": 16}, "rxrx1: bits=16, but its images have 8"),
        ("rxrx3", {"encoding": "source"}, "rxrx3: encoding=source keeps the files as they are: add bits=16"),
    ],
)
def test_settings_that_do_not_fit_the_images(name, fields, words):
    with pytest.raises(UserError, match=words):
        prepare.find(name, **fields)


@pytest.mark.parametrize("sites, plates_, expected", [(0, 9, 1), (63, 9, 1), (64, 9, 2), (640, 9, 5), (640, 3, 3)])
def test_few_sites_take_few_processes(monkeypatch, sites, plates_, expected):
    used = []
    monkeypatch.setattr(build, "_run_in_processes", lambda task, names, workers, advance: used.append(workers))
    monkeypatch.setattr(plates, "build_plate", lambda *args: used.append(1))
    fake = types.SimpleNamespace(plan=types.SimpleNamespace(sites=lambda: sites), shape=SHAPE, bits=8)
    build.run(fake, [("A-01", i) for i in range(plates_)], 5, "x", False)
    assert used[0] == expected


def test_features_have_the_types_of_the_columns(tmp_path):
    made = task(tmp_path, ROWS, extra={"dose": float, "note": str})
    found = plates.features(made)
    assert set(found) == set(plates.BASE_FEATURES) | {"image", "dose", "note"}
    assert found["dose"].np_dtype == np.float32 and found["plate"].np_dtype == np.int32
    assert isinstance(found["note"], tfds.features.Text) and isinstance(found["well"], tfds.features.Text)
    assert found["image"].shape == SHAPE and found["image"].np_dtype == np.uint8


def test_a_stray_file_stops_a_strict_build(stopped, tmp_path):
    (stopped / "images/SIMA-01/notes.txt").write_text("")
    with pytest.raises(UserError, match="notes.txt: a file that belongs to no plate"):
        prepare.prepare("rxrx1", stopped, tmp_path, 1, progress=False, strict=True)


def test_images_without_rows_are_no_matter_of_another_experiment(stopped, tmp_path):
    (stopped / "images/SIMC-01/Plate1").mkdir(parents=True)
    (stopped / "images/SIMC-01/Plate1/B02_s1_w1.png").write_bytes(b"x")
    count = lambda **choice: len(  # noqa: E731
        read_csv(prepare.prepare("rxrx1", stopped, tmp_path, 1, progress=False, **choice) / "unlisted.csv")
    )
    assert (count(experiments="SIMA-01"), count()) == (0, 1)


def test_a_plate_number_is_not_a_truth_value():
    with pytest.raises(UserError, match="plates=True"):
        settings.make((settings.Records(),), {"plates": "True"}, "x")


def test_the_first_of_two_changed_fields_names_the_folder():
    mine = (settings.Records(bits=16), settings.Records(encoding="raw", bits=16))
    defaults = (settings.Records(), settings.Records(bits=8))
    assert settings.config_name(mine, defaults) == "bits_16-encoding_raw"
    mine = (settings.Records(plates=(1,)), settings.Records(plates=(2,)))
    assert settings.config_name(mine, defaults) == "plates_1"


def test_records_are_compressed_alone_and_deltas_have_a_checksum():
    assert all("group_size:1," in encodings.writer_options(name) for name in settings.ENCODINGS)
    data = encodings.encode_delta(np.zeros((2, 4, 6), np.uint8))
    assert zstandard.get_frame_parameters(data).has_checksum
    with pytest.raises(ValueError, match="does not hold"):
        encodings.decode_delta(data, (4, 7, 2), np.uint8)
