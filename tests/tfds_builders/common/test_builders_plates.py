"""One plate: its shards and its result, reading of sites, a build that resumes; all without a real source."""

import errno
import math
import types

import numpy as np
import pytest
import tensorflow_datasets as tfds
from reader_tools import ROWS, SHAPE, built, image, row, task

from rxrx_jax.base.errors import UserError
from tfds_builders.common import build, plates, reading
from tfds_builders.common.types import BadSite


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
