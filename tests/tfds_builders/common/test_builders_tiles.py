"""Images in tiles: what is in them and beside them, which sides are refused, what is damaged, and what resumes."""

import itertools
import json
import shutil

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from builders_tools import Killed, contents, kill_at, read_csv, records
from tensorflow_datasets.proto import tf_example_pb2

from rxrx_jax.base.errors import UserError
from rxrx_jax.simulate import layouts
from tfds_builders import prepare, verify
from tfds_builders.common import encodings, plates, settings
from tfds_builders.report import page

SCREEN = dict(image_size=32, treatments=2, positive_controls=0, replicates=1, untreated_wells=1, plates=1,
              train=("SIMA-01",), val=(), test=())  # fmt: skip


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    root = tmp_path_factory.mktemp("source")
    layouts.write_rxrx3(layouts.Screen(**SCREEN), root)
    return root


def build(source, out, **fields):
    return prepare.prepare("rxrx3", source, out, 1, progress=False, **fields)


@pytest.fixture(scope="module")
def made(source, tmp_path_factory):
    """Folders by bits and tile, each prepared once."""
    found = {}

    def get(tile, bits=8):
        if (tile, bits) not in found:
            found[tile, bits] = build(source, tmp_path_factory.mktemp("made"), tile=tile, bits=bits)
        return found[tile, bits]

    return get


@pytest.mark.parametrize("bits", [8, pytest.param(16, marks=pytest.mark.slow)])
def test_tiles_are_the_squares_of_the_image_row_by_row(made, bits):
    whole, cut = records(made(0, bits)), records(made(8, bits))
    for split, images in whole.items():
        assert len(cut[split]) == 16 * len(images) > 0
        for i, record in enumerate(images):
            image = record.pop("image")
            for tile, (top, left) in enumerate(itertools.product(range(0, 32, 8), repeat=2)):
                found = cut[split][16 * i + tile]
                part = found.pop("image")
                assert part.dtype == image.dtype == f"uint{bits}"
                np.testing.assert_array_equal(part, image[top : top + 8, left : left + 8])
                assert found.pop("tile") == tile and str(found) == str(record)  # a concentration may be NaN
    assert verify.verify(made(8, bits), 1) == []


def test_what_lies_beside_the_records_is_that_of_whole_images(made):
    whole, cut = made(0), made(8)
    for name in ("sites.csv", "original.csv", "perturbations.csv", "statistics.json", "histograms.json", "repeats.csv"):
        assert (cut / name).read_bytes() == (whole / name).read_bytes(), name
    about = prepare.details(cut)
    assert (about["image_shape"], about["tile"], about["grid"]) == ([32, 32, 6], 8, [4, 4])
    assert about["records"] == prepare.details(whole)["records"] == len(read_csv(cut / "sites.csv"))
    assert "tile" not in prepare.details(whole) and about["settings"]["tile"] == 8
    size = sum(int(row["bytes"]) for row in read_csv(cut / "manifest.csv"))
    assert size == sum(len(record) for path in sorted(cut.glob("*.array_record-*")) for record in read(path))
    read_site = page.image_reader(cut)
    for index, record in enumerate(records(whole)["train"]):
        np.testing.assert_array_equal(read_site("train", index), record["image"])


def test_people_are_told(made, capsys, source):
    folder = made(8)
    assert "cut into 16 tiles of 8 x 8, a record each" in (folder / "report.html").read_text()
    told = "16 records per site, its tiles of 8x8 pixels row by row"
    assert told in (folder / "README.md").read_text() and told in (folder / "croissant.json").read_text()
    prepare.main(["rxrx3", f"--source={source}", f"--out={folder.parents[2]}", "--tile=8"])
    out = capsys.readouterr().out
    assert "exists and is left as it is" in out and "16 per site, 8x8 pixels" in out and "sites      train " in out


def test_a_side_that_is_no_divisor_is_refused_and_leaves_nothing(tmp_path, source):
    with pytest.raises(UserError) as error:
        build(source, tmp_path, tile=12)
    assert str(error.value) == (
        "--tile=12 does not divide images of 32 x 32 pixels: use 4, 8, 16 or another divisor of both, or 0 for whole "
        "images"
    )
    assert not list(tmp_path.rglob("*.building"))
    for fields, words in (
        (dict(tile=-1), "tile=-1: use a number of pixels"),
        (dict(tile="x"), "tile='x': use a number"),
        (dict(tile=8, encoding="source", bits=16), "tile=8: encoding=source keeps the published files whole"),
    ):
        with pytest.raises(UserError, match=words):
            build(source, tmp_path, **fields)


def test_large_images_are_cut_where_nothing_else_is_said():
    side = lambda *size: encodings.tile_side(None, size, "delta")  # noqa: E731
    assert side(2048, 2048) == side(2048, 1024) == 256 and side(1024, 1024) == side(512, 512) == 0
    assert side(1080, 1080) == 270 and side(1080, 1920) == 0 and side(2160, 2160) == 270 and side(2053, 2053) == 0
    assert encodings.tile_side(None, (2048, 2048), "source") == encodings.tile_side(0, (2048, 2048), "delta") == 0


def test_a_folder_from_before_tiles_is_that_of_the_default():
    assert "tile" not in settings.as_json((settings.Records(),))
    assert settings.as_json((settings.Records(tile=0),))["tile"] == 0


def read(path):
    reader = ArrayRecordReader(str(path))
    return [reader.read([i])[0] for i in range(reader.num_records())]


def change_tile(path, number, change):
    old = read(path)
    writer = ArrayRecordWriter(str(path), "group_size:1,uncompressed")
    for i, record in enumerate(old):
        message = tf_example_pb2.Example.FromString(record)
        if i == number:
            change(message.features.feature)
        writer.write(message.SerializeToString(deterministic=True))
    writer.close()


def cut_image(features):
    features["image"].bytes_list.value[0] = features["image"].bytes_list.value[0][:-9]


def rename(features):
    features["tile"].int64_list.value[0] = 3


def test_verify_names_the_damaged_tile(made, tmp_path):
    folder = shutil.copytree(made(8), tmp_path / "x")
    path = sorted(folder.glob("*-train.array_record-*"))[0]
    whole, site = path.read_bytes(), read_csv(folder / "sites.csv")[1]["site_id"]
    for change, words in ((cut_image, "cannot be decoded"), (rename, "tile is 3, in sites.csv '5'")):
        change_tile(path, 16 + 5, change)
        found = verify.verify(folder, 1)
        assert found[0].startswith(f"{path.name} record 21 ({site}, tile 5): ") and words in found[0]
        assert found[1] == f"{path.name} record 16 ({site}): its bytes are not those of manifest.csv"
        path.write_bytes(whole)
    place = whole.index(read(path)[16 + 5]) + 300
    path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    assert f"{path.name} record 21 ({site}, tile 5): cannot be read" in verify.verify(folder, 1)[0]
    path.write_bytes(whole)
    rows = len(read(path))
    ArrayRecordWriter(str(path), "group_size:1,uncompressed").close()
    assert f"{path.name}: holds 0 records in place of {rows}" in verify.verify(folder, 1)


@pytest.mark.parametrize(
    "owner, name, number",
    [
        (plates._PlateWriter, "_encode", 20),
        pytest.param(plates.ArrayRecordWriter, "close", 1, marks=pytest.mark.slow),
    ],
)
def test_a_stopped_build_resumes_with_whole_images(made, source, tmp_path, monkeypatch, owner, name, number):
    with monkeypatch.context() as patch:
        kill_at(patch, owner, name, number)
        with pytest.raises(Killed):
            build(source, tmp_path, tile=8)
    again = build(source, tmp_path, tile=8)
    assert contents(again) == contents(made(8))


@pytest.mark.slow
def test_a_stopped_build_of_other_tiles_starts_over(made, source, tmp_path, monkeypatch):
    """That of the default is in the same folder, whatever side the code chooses."""
    monkeypatch.setattr(encodings, "WHOLE", 16)
    monkeypatch.setattr(encodings, "TILES", (16, 32))
    with monkeypatch.context() as patch:
        kill_at(patch, plates, "_check", 3)
        with pytest.raises(Killed):
            build(source, tmp_path)
    monkeypatch.setattr(encodings, "TILES", (8, 16))
    folder = build(source, tmp_path)
    assert folder.parent.name == "default" and prepare.details(folder)["tile"] == 8
    assert [path.read_bytes() for path in sorted(folder.glob("*.array_record-*"))] == [
        path.read_bytes() for path in sorted(made(8).glob("*.array_record-*"))
    ]


def test_shards_end_between_sites(source, tmp_path, monkeypatch):
    monkeypatch.setattr(plates, "SHARD_BYTES", 2 * 32 * 32 * 6)
    folder = build(source, tmp_path, tile=8)
    info = json.loads((folder / "dataset_info.json").read_text())
    assert info["splits"][0]["shardLengths"] == ["32", "16"] and verify.verify(folder, 1) == []
