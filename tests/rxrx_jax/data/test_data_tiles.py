"""Images in tiles: every window is that of whole records, bit for bit, and reads no more tiles than it needs."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from rxrx_jax import data
from rxrx_jax.base.errors import UserError
from rxrx_jax.data.records import Encoded, Records, Tiles
from rxrx_jax.data.sampler import ControlSampler, Repeated, Sampler
from rxrx_jax.simulate import layouts
from tfds_builders import prepare
from tfds_builders.common import encodings

SIDE, TILE, CROP = 96, 48, 40  # strips of 32 rows end within a tile
SCREEN = dict(image_size=SIDE, treatments=2, positive_controls=0, replicates=1, untreated_wells=1, plates=1,
              train=("SIMA-01",), val=(), test=("SIMB-01",))  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root, made = tmp_path_factory.mktemp("tiles"), {}
    layouts.write_rxrx3(layouts.Screen(**SCREEN), root / "source")

    def get(**fields):
        key = json.dumps(fields)
        if key not in made:
            made[key] = prepare.prepare("rxrx3", root / "source", root, 1, progress=False, **fields)
        return made[key]

    return get


@pytest.fixture(scope="module")
def both(folders):
    """The dataset as whole records and as tiles."""
    return data.read_dataset(folders(tile=0)), data.read_dataset(folders(tile=TILE))


def minibatches(dataset, steps=6, crops=1, channels=()):
    dataset = data.with_channels(dataset, channels)
    samplers = {
        "train": data.make_sampler(dataset, data.select(dataset), 4, "experiment", 2, 3, crops=crops),
        "held_out": data.make_sampler(dataset, data.select(dataset, splits="test"), 2, "plate", 0, 4, crops=crops),
    }
    return list(data.training_minibatches(dataset, samplers, steps, 0, CROP, 7))


def equal(a, b):
    assert a.keys() == b.keys()
    for key, value in a.items():
        np.testing.assert_array_equal(value, b[key], err_msg=key)


def test_a_dataset_in_tiles_is_that_of_whole_records(both):
    whole, cut = both
    assert cut.image_shape == whole.image_shape == (SIDE, SIDE, 6)
    assert {k: len(v) for k, v in cut.sources.items()} == {k: len(v) for k, v in whole.sources.items()}
    equal(dataclasses.asdict(cut.sites), dataclasses.asdict(whole.sites))
    np.testing.assert_array_equal(data.pixel_digests(cut), data.pixel_digests(whole))


@pytest.mark.parametrize("channels, crops", [((), 1), ((4, 0, 1), 1), ((2, 3), 2)])
def test_crops_are_those_of_whole_records_in_their_order(both, channels, crops):
    found = [minibatches(dataset, crops=crops, channels=channels) for dataset in both]
    assert len(found[0]) == 6
    for a, b in zip(*found, strict=True):
        for stream in ("train", "held_out"):
            equal(a[stream], b[stream])
            assert a[stream]["image"].shape[1:] == (CROP, CROP, len(channels) or 6) and a[stream]["valid"].all()


def test_evaluation_has_whole_images_and_centres(both):
    for crop in (None, CROP):
        for a, b in zip(*(data.evaluation_minibatches(d, data.select(d), 4, crop) for d in both), strict=True):
            equal(a, b)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("encoding", ["delta", "zstd"])
def test_every_window_is_bit_exact(bits, encoding):
    random = np.random.default_rng(bits)
    images = random.integers(0, 2**bits, (2, 3, 96, 144)).astype(f"uint{bits}")  # [n, C, H, W], 2 x 3 tiles each
    feature = encodings.image_feature(encoding, (TILE, TILE, 3), bits, True)
    parts = [
        encodings.encode(encoding, tile, [], None, True) for image in images for tile in encodings.cut(image, TILE)
    ]
    records = [Encoded(feature, part if encoding == "delta" else part.tobytes()) for part in parts]
    cut = Tiles(Listed(records, f"uint{bits}"), (96, 144, 3), TILE)
    assert len(cut) == 2
    for i, image in enumerate(images.transpose(0, 2, 3, 1)):
        assert cut[i][:, :].dtype == image.dtype
        np.testing.assert_array_equal(cut[i][:, :], image)
        for _ in range(20):
            top, bottom = sorted(random.choice(97, 2, replace=False).tolist())
            left, right = sorted(random.choice(145, 2, replace=False).tolist())
            np.testing.assert_array_equal(cut[i][top:bottom, left:right], image[top:bottom, left:right])
        np.testing.assert_array_equal(cut[i][30:60, 47:, [2, 0]], image[30:60, 47:, [2, 0]])


class Listed(list):
    """Records in memory."""

    def __init__(self, records, dtype):
        super().__init__(records)
        self.dtype = np.dtype(dtype)


def test_a_window_at_every_place_of_two_tiles():
    """Rows and columns where strips and tiles begin and end."""
    image = np.random.default_rng(1).integers(0, 256, (2, 40, 80), np.uint8)  # [C, H, W], two tiles side by side
    coded = [encodings.encode_tile(tile) for tile in encodings.cut(image, 40)]
    out = np.empty((12, 50, 2), np.uint8)
    feature = encodings.DeltaTile(shape=(40, 40, 2), dtype=np.uint8)
    for top in range(29):
        for left in (0, 1, 15, 30):
            columns = [slice(left, 40), slice(0, left + 10)]
            feature.decode_beside(coded, slice(top, top + 12), columns, slice(None), out)
            expected = image[:, top : top + 12, left : left + 50].transpose(1, 2, 0)
            np.testing.assert_array_equal(out, expected)


def test_a_crop_reads_the_tiles_it_touches_and_no_others(both, monkeypatch):
    _, cut = both
    asked, original = [], Tiles.tile
    monkeypatch.setattr(Tiles, "tile", lambda self, i, n: asked.append(n) or original(self, i, n))
    image = cut.sources["train"][1]
    for window, expected in (
        ((slice(0, 48), slice(0, 48)), [0]),
        ((slice(0, 40), slice(10, 50)), [0, 1]),
        ((slice(40, 80), slice(50, 90)), [1, 3]),
        ((slice(47, 49), slice(47, 49)), [0, 1, 2, 3]),
        ((slice(48, 88), slice(48, 88)), [3]),
    ):
        asked.clear()
        image[window]
        assert asked == expected


def test_a_damaged_tile_is_named_and_the_others_are_read(folders, tmp_path, capfd):
    folder = shutil.copytree(folders(tile=TILE), tmp_path / "x")
    path = sorted(folder.glob("*-train.array_record-*"))[0]
    whole = path.read_bytes()
    source = data.read_dataset(folder).sources["train"]
    place = whole.index(bytes(source.tile(1, 2).data)[100:140])  # of the second image, below on the left
    path.write_bytes(whole[:place] + bytes([whole[place] ^ 8]) + whole[place + 1 :])
    dataset = data.read_dataset(folder)
    image = dataset.sources["train"][1]
    image[:48, :], image[48:, 48:]
    with pytest.raises(ValueError, match="^tile 2: Corrupted"):
        image[40:60, 0:10]
    rows = data.select(dataset, splits="train")
    with pytest.raises(UserError, match=rf"{dataset.sites.site_id[rows[1]]} .* cannot be read: tile 2: .*verify"):
        list(data.evaluation_minibatches(dataset, rows, 2))
    (found,) = data.evaluation_minibatches(dataset, rows[:2], 2, go_on=True)
    assert found["valid"].tolist() == [True, False] and not found["image"][1].any()
    assert capfd.readouterr().err.count("tile 2: ") == 1


def test_bytes_that_are_no_image_name_their_tile(both, monkeypatch):
    _, cut = both
    source, original = cut.sources["train"], Tiles.tile

    def broken(self, index, number):
        tile = original(self, index, number)
        return dataclasses.replace(tile, data=bytes(tile.data)[:-5]) if number == 3 else tile

    monkeypatch.setattr(Tiles, "tile", broken)
    with pytest.raises(ValueError, match="^tile 3: "):
        source[0][:, :]
    assert source[0][:48, :].shape == (48, SIDE, 6)


# Several crops of one record.


def test_a_record_is_read_once_for_all_of_its_crops(both, monkeypatch):
    whole, _ = both
    read, original = [], Records.__getitem__
    monkeypatch.setattr(Records, "__getitem__", lambda self, i: read.append(i) or original(self, i))
    dataset = dataclasses.replace(whole)
    rows = np.repeat(data.select(dataset, splits="train")[:2], 3)
    corners = np.random.default_rng(0).integers(0, SIDE - CROP, (6, 2))
    found = data.read_minibatch(dataset, dataset.sites, rows, CROP, corners)
    assert sorted(read) == [0, 1] and found["row"].tolist() == rows.tolist()
    for lane, (top, left) in enumerate(corners):
        image = original(dataset.sources["train"], lane // 3)[:, :]
        np.testing.assert_array_equal(found["image"][lane], image[top : top + CROP, left : left + CROP])


def test_a_minibatch_has_each_of_its_records_as_many_times(both):
    dataset = both[0]
    for found in minibatches(dataset, steps=8, crops=2):
        assert (found["train"]["experiment"][::2] == found["train"]["experiment"][1::2]).all()
        assert (found["train"]["image"][::2] != found["train"]["image"][1::2]).any((1, 2, 3)).all()
    one, group = Sampler(np.arange(20), np.repeat([0, 1], 10), 4, 2, 5), np.repeat([0, 1], 10)
    many = Repeated(one, 3)
    assert many.size == 12 and many.unit == 1 and many.groups == 2
    for step in range(4):
        assert many.rows(step).tolist() == np.repeat(one.rows(step), 3).tolist()
    assert one.steps_per_epoch == 5 and many.steps_per_epoch == 2  # as of 12 of the 20 images by themselves
    controls = ControlSampler(many, np.arange(20), group, ["a", "b"], 4, 0)
    assert group[controls.rows(0)].tolist() == np.repeat(group[one.rows(0)[::2]], 2).tolist()


def test_numbers_of_crops_that_do_not_fit_are_refused(both):
    dataset, rows = both[0], np.arange(3)
    for crops in (0, 3, 8, 1.5, -1):
        with pytest.raises(UserError, match=f"data.crops_per_record={crops}: use a divisor of the minibatch, 4"):
            data.make_sampler(dataset, rows, 4, "experiment", 0, 0, crops=crops)
    with pytest.raises(UserError, match="data.pairs=perturbation needs data.crops_per_record=1, not 2"):
        data.make_sampler(dataset, rows, 4, "experiment", 0, 0, "perturbation", crops=2)
