"""Images as rows of Parquet files: regrouped by well, each row group read once, and whatever is wrong with them."""

import io
import os
import pickle
import sys
import time

import numpy as np
import pytest
from PIL import Image
from sources_tools import contents

from rxrx_jax.base.errors import UserError
from tfds_builders.common import sources
from tfds_builders.common.sources import parquet as lib
from tfds_builders.common.types import BadSite

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
STRUCT, TEXT = pa.struct([("bytes", pa.binary()), ("path", pa.string())]), pa.string()
PLATE = ("gene-001", 1)


def write(path, rows, image=STRUCT, key=TEXT, group=4, **settings):
    """Rows of (key, bytes) to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    wrap = (lambda data: {"bytes": data, "path": "A01_s1_1.jp2"}) if pa.types.is_struct(image) else (lambda data: data)
    columns = {"__key__": pa.array([k for k, _ in rows], key), "jp2": pa.array([wrap(d) for _, d in rows], image)}
    pq.write_table(pa.table(columns), path, row_group_size=group, **settings)
    return path


def keys(plate: int, wells: int = 3, channels: int = 6):
    return [f"gene-001/Plate{plate}/B{w:02d}_s1_{c}" for w in range(1, wells + 1) for c in range(1, channels + 1)]


def rows(*plates: int):
    return [(key, key.encode()) for plate in plates for key in keys(plate)]


def expected(plate: int) -> dict:
    return {(k[-8:-5], 1, int(k[-1])): k.encode() for k in keys(plate)}


@pytest.fixture
def reads(monkeypatch):
    """The row groups whose images are read."""
    found, images = [], lib._images
    monkeypatch.setattr(lib, "_images", lambda file, group: found.append(group) or images(file, group))
    return found


@pytest.mark.parametrize("image", [STRUCT, pa.binary(), pa.large_binary()], ids=str)
def test_rows_of_a_plate_are_its_images(tmp_path, image):
    write(tmp_path / "data/train-00000.parquet", rows(1, 2)[:20], image)
    write(tmp_path / "data/train-00001.parquet", rows(1, 2)[20:], image, pa.large_string())
    write(tmp_path / "data/more.parquet", [("x/gene-1/Plate2/C01_s1_w1", b"more"), *rows(1)[:1]], image)
    source = pickle.loads(pickle.dumps(sources.Parquet(tmp_path)))
    assert source.plates() == [PLATE, ("gene-001", 2)]
    assert contents(source, PLATE) == expected(1)
    assert contents(source, ("gene-001", 2)) == {**expected(2), ("C01", 1, 1): b"more"}
    assert contents(source, ("gene-002", 1)) == {}
    with source.open(*PLATE) as files:
        assert (files.others, files.unreadable) == ([], "")
        assert files.name("B03", 1, 6) == "data/train-00000.parquet:gene-001/Plate1/B03_s1_6"
    assert source.strays() == [] and source.size() is None


def test_a_row_group_is_read_once_by_the_plates_that_it_holds(tmp_path, reads):
    write(tmp_path / "a.parquet", rows(1, 2, 3), group=4)  # plates begin in the middle of row groups
    source = sources.Parquet(tmp_path)
    with source.open("gene-001", 2) as files:
        assert reads == []
        assert files.read("B03", 1, 6) == b"gene-001/Plate2/B03_s1_6" and reads == [8]
        for key in [*files.keys, *files.keys]:
            files.read(*key)
    assert sorted(reads) == [4, 5, 6, 7, 8]


def test_rows_in_any_order(tmp_path, reads):
    shuffled = [rows(1, 2)[i] for i in np.random.default_rng(0).permutation(36)]
    write(tmp_path / "a.parquet", shuffled)
    source = sources.Parquet(tmp_path)
    assert contents(source, PLATE) == expected(1) and sorted(reads) == sorted(set(reads))
    assert contents(source, ("gene-001", 2)) == expected(2)


def test_an_open_plate_holds_its_own_images_only(tmp_path):
    size = 2**16
    both = [(key, os.urandom(size)) for plate in (1, 2) for key in keys(plate)]
    write(tmp_path / "a.parquet", both, group=100, compression="none", use_dictionary=False)
    before = pa.total_allocated_bytes()
    with sources.Parquet(tmp_path).open(*PLATE) as files:
        assert files.read("B01", 1, 1) == both[0][1]
        held = [place.load.args[0]() for places in files._places.values() for place in places]
        assert all(len(images) == 18 for images in held)
        end = time.monotonic() + 10  # Arrow's threads may still be giving it back
        while pa.total_allocated_bytes() - before >= 4 * size and time.monotonic() < end:
            time.sleep(0.01)
        assert pa.total_allocated_bytes() - before < 4 * size  # no row group in Arrow's memory
    assert len(files.keys) == 0


def test_rows_that_are_no_image(tmp_path):
    odd = [("gene-001/Plate1/readme", b""), ("A01_s1_1", b""), (None, b""), ("gene-001/Plate1/A01_s1_1", None),
           ("gene-001/Plate1/A01_s1_2", b"one"), ("gene-001/Plate1/A01_s1_2", b"two")]  # fmt: skip
    write(tmp_path / "a.parquet", odd, group=10)
    pq.write_table(pa.table({"well_id": ["a"], "feature_0": [1.0]}), tmp_path / "embeddings.parquet")
    source = sources.Parquet(tmp_path)
    name = "a.parquet:gene-001/Plate1/A01_s1_2"
    assert contents(source, PLATE) == {
        ("A01", 1, 1): "no image in its row", ("A01", 1, 2): f"two files that differ ({name}, {name})",
    }  # fmt: skip
    with source.open(*PLATE) as files:
        assert files.others == ["a.parquet:gene-001/Plate1/readme"]
    strays = ["a.parquet:A01_s1_1", "a.parquet, row group 0 (no key)", "embeddings.parquet (no column __key__, jp2)"]
    assert source.strays() == strays


def test_files_that_are_damaged(tmp_path):
    settings = dict(compression="none", use_dictionary=False, write_page_checksum=True)
    path = write(tmp_path / "a.parquet", rows(1), group=6, **settings)
    data = bytearray(path.read_bytes())
    data[data.rindex(b"gene-001/Plate1/B02_s1_3")] ^= 1  # of the image, which comes after the keys
    path.write_bytes(data)
    cut = write(tmp_path / "b.parquet", rows(2))
    cut.write_bytes(cut.read_bytes()[:-1])
    (tmp_path / "c.parquet").symlink_to(write(tmp_path.parent / f"{tmp_path.name}-c.parquet", rows(3)))
    (tmp_path / "d.parquet").write_bytes(b"")
    os.mkfifo(tmp_path / "e.parquet")
    source = sources.Parquet(tmp_path)
    assert source.plates() == [PLATE]
    found = contents(source, PLATE)
    good = {key: value for key, value in expected(1).items() if key[0] != "B02"}
    assert {key: value for key, value in found.items() if key[0] != "B02"} == good
    assert all("cannot be read" in found["B02", 1, c] and "CRC" in found["B02", 1, c] for c in range(1, 7))
    with source.open("gene-001", 2) as files, pytest.raises(BadSite) as error:
        files.read("B01", 1, 1)
    reasons = str(error.value).split("; ")
    assert reasons[0] == "c.parquet: a link out of the source folder, which --follow-links reads"
    assert [reason.split(" (")[0] for reason in reasons[1:]] == [f"{n}.parquet: cannot be read" for n in "bde"]
    path.unlink()
    with source.open(*PLATE) as files:
        assert "a.parquet: cannot be read (" in files.unreadable and not files.keys


def test_keys_that_are_damaged(tmp_path):
    settings = dict(compression="none", use_dictionary=False, write_page_checksum=True)
    path = write(tmp_path / "a.parquet", rows(1), pa.binary(), group=6, **settings)
    data = bytearray(path.read_bytes())
    data[data.index(b"gene-001/Plate1/B02_s1_3")] ^= 1
    path.write_bytes(data)
    source = sources.Parquet(tmp_path)
    assert contents(source, PLATE) == {key: value for key, value in expected(1).items() if key[0] != "B02"}
    with source.open(*PLATE) as files:
        assert files.unreadable.startswith("a.parquet, row group 1: cannot be read (")


def test_images_of_another_type(tmp_path):
    write(tmp_path / "a.parquet", [(key, 7) for key in keys(1)], pa.int64())
    assert set(contents(sources.Parquet(tmp_path), PLATE).values()) == {
        "cannot be read (column jp2 holds int64, not bytes)"
    }
    pq.write_table(pa.table({"__key__": [1, 2], "jp2": [b"", b""]}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"no \*.parquet with the columns .* \(but a.parquet, row group 0 \(no key\)\)"):
        sources.Parquet(tmp_path)


def test_the_size_is_that_of_most_images(tmp_path):
    def png(height, width):
        file = io.BytesIO()
        Image.fromarray(np.zeros((height, width), np.uint8)).save(file, "PNG")
        return file.getvalue()

    images = [None, b"no image", png(3, 5), *[png(4, 6)] * 15]
    write(tmp_path / "a.parquet", list(zip(keys(1), images)), group=18)
    assert sources.Parquet(tmp_path).size() == (4, 6)


def test_what_is_missing_is_named(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"has no \*.parquet with .* and no \*.tar with .*: give the folder"):
        sources.choose(tmp_path, sources.Parquet, sources.WebDataset)
    write(tmp_path / "a.parquet", rows(1))
    for name in [name for name in sys.modules if name.split(".")[0] == "pyarrow"]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match="pip install pyarrow"):
        sources.Parquet(tmp_path)
