"""Sets of crops: what is read of a folder, how batches are held out, and every mistake in one line."""

import numpy as np
import pytest
from crops_tools import read_table, write, write_table

from rxrx_jax import crops
from rxrx_jax.base.errors import UserError


@pytest.mark.parametrize("dtype, channels, files", [(np.uint8, 1, False), (np.uint16, 2, True), (np.uint8, 6, True)])
def test_a_set_becomes_a_dataset_of_arrays(tmp_path, dtype, channels, files):
    folder = write(tmp_path / "a", dtype=dtype, channels=channels, files=files, side=19)
    found = crops.read(folder)
    assert (found.folds, found.crop, found.has_controls, found.notes) == (3, 16, True, ())
    assert found.shape == (19, 19, channels) and found.training_batches(1) == 2
    assert "3 classes (the rarest, dots, has 24), 3 batches, one batch held out at a time" in crops.describe(found)
    for fold in range(3):
        dataset = crops.dataset(found, fold)
        sites, roles = dataset.sites, crops.protocol(dataset).roles
        assert dataset.classes == ["dots", "stripes", "DMSO"] and dataset.image_shape == (19, 19, channels)
        held = sites.experiment == fold
        assert np.array_equal(held, sites.split == "test")
        control = sites.well_type == "negative_control"
        assert np.array_equal(roles.scored["cross_batch"], np.flatnonzero(held & ~control))
        assert np.array_equal(roles.scored["in_batch"], np.flatnonzero((sites.split == "id_test") & ~control))
        assert np.array_equal(roles.fit, np.flatnonzero(sites.split == "train"))
        for label in range(3):  # 16 training crops of each class, a fifth of which is scored
            assert (sites.split[sites.label == label] == "id_test").sum() == 3
        image = dataset.sources["test"][0]
        assert image.dtype == np.uint8 and image.shape == (19, 19, channels)


def test_16_bits_are_scaled_by_training_images_alone():
    pixels = np.arange(4 * 100, dtype=np.uint16).reshape(4, 10, 10, 1)
    training = np.array([False, True, True, False])
    found = crops.as_8_bits(pixels * 100, training)
    assert (found[0] == 0).all() and (found[3] == 255).all()
    low, high = np.percentile(pixels[training] * 100.0, [0.1, 99.9])
    np.testing.assert_allclose(found[1:3], 255 * (pixels[1:3] * 100.0 - low) / (high - low), atol=1.01)


def test_large_images_are_averaged(tmp_path):
    pixels = np.arange(2 * 7 * 5 * 1, dtype=np.uint16).reshape(2, 7, 5, 1)
    found = crops.averaged(pixels, 2)
    assert found.shape == (2, 3, 2, 1) and found.dtype == np.uint16
    assert found[1, 2, 1, 0] == np.rint(pixels[1, 4:6, 2:4].mean())
    found = crops.read(write(tmp_path / "a", side=100, per=7))
    assert (found.factor, found.crop) == (2, 48) and "averaged over 2x2 pixels" in crops.describe(found)
    assert crops.dataset(found, 0).image_shape == (50, 50, 2)


def test_pictures_stay_whole(tmp_path):
    folder = write(tmp_path / "a", per=20, well=lambda b, c, i: f"A{i // 10 + 1}", frame=lambda b, c, i: i // 2)
    found = crops.read(folder)
    chosen = crops.within(found, 1)
    assert 0 < chosen.sum() < 40 and not chosen[found.fold == 1].any()
    assert not set(found.picture[chosen]) & set(found.picture[~chosen])
    assert len(set(found.picture)) == 3 * 10  # classes share pictures here
    wells = crops.dataset(found, 1).sites.well_id
    assert len(set(wells)) == 30


def test_many_batches_are_folds_of_batches(tmp_path):
    found = crops.read(write(tmp_path / "a", batches=12, per=2, side=16))
    assert found.folds == 5 and "12 batches, 5 folds of whole batches" in crops.describe(found)
    assert all(len(set(found.fold[found.batch == batch])) == 1 for batch in set(found.batch))
    assert not found.has_controls  # two in each


def test_what_is_left_out_is_said(tmp_path, monkeypatch):
    folder = write(tmp_path / "a", batches=4, per=10)
    rows = read_table(folder)
    kept = [row for row in rows if row["batch"] != "b3" or row["class"] == "DMSO"]
    write_table(folder, [row | {"class": "rare" if i == 0 else row["class"]} for i, row in enumerate(kept)])
    monkeypatch.setattr(crops, "MOST_IMAGES", 60)
    found = crops.read(folder)
    assert len(found.label) == 60 and set(found.batch) == {"b0", "b1", "b2"} and "rare" not in found.label
    assert found.notes == (
        "1 images left out: rare, fewer than 20 images",
        "10 images left out: b3, with controls alone",
        "29 images left out: thinned to 60, evenly over batches and classes",
    )
    assert all(18 <= (found.label == name).sum() <= 22 for name in ("dots", "DMSO", "stripes"))


def test_controls_may_be_named_by_a_column(tmp_path):
    of = lambda b, c, i: "negative_control" if c == "dots" else "treatment"  # noqa: E731
    found = crops.read(write(tmp_path / "a", well_type=of))
    assert set(found.label[found.control]) == {"dots"}


def changed(folder, **cells):
    """Writes the set and changes cells of its third row."""
    write(folder)
    rows = read_table(folder)
    rows[2] |= cells
    write_table(folder, rows)
    return folder


def without(folder, column):
    write(folder)
    write_table(folder, [{k: v for k, v in row.items() if k != column} for row in read_table(folder)])
    return folder


def saved(folder, name="b1.npz", **arrays):
    write(folder)
    np.savez(folder / name, **arrays)
    return folder


def relabelled(folder, change):
    write(folder)
    write_table(folder, [change(row) for row in read_table(folder)])
    return folder


def bare(folder):
    np.save(write(folder) / "b2.npz", PIXELS)
    (folder / "b2.npz.npy").rename(folder / "b2.npz")
    return folder


def spoiled(folder):
    (write(folder) / "b2.npz").write_bytes(b"PK no archive")
    return folder


PIXELS = np.zeros((24, 16, 16, 2), np.uint8)
MISTAKES = {
    "has no column batch; it has class, row, file": lambda f: without(f, "batch"),
    "has no column file, and there are 3 .npz files": lambda f: without(f, "file"),
    "line 4: row 24, and b0.npz has 24 images": lambda f: changed(f, row="24"),
    "line 4: row -1, and b0.npz has 24 images": lambda f: changed(f, row="-1"),
    "line 4: row 'x' is not a number": lambda f: changed(f, row="x"),
    "line 4: class is empty": lambda f: changed(f, **{"class": " "}),
    "line 4: batch is empty": lambda f: changed(f, batch="N/A"),
    "names the file '../b0.npz', which is not in": lambda f: changed(f, file="../b0.npz"),
    "b2.npz is damaged or has no array 'images'": spoiled,
    "b2.npz is damaged or has no array .*'images'": bare,
    "b1.npz is damaged or has no array 'images'": lambda f: saved(f, pixels=PIXELS),
    r"images are float64\[24, 16, 16, 2\]: expected uint8 or uint16": lambda f: saved(f, images=PIXELS / 1.0),
    r"images are uint8\[16, 16, 7\]: expected 1 to 6": lambda f: saved(f, images=np.zeros((24, 16, 16, 7), np.uint8)),
    r"images are uint8\[8, 16, 2\]: .* sides of at least 16": lambda f: saved(f, images=PIXELS[:, ::2]),
    r"holds uint8\[16, 17, 2\] and another": lambda f: saved(f, images=np.zeros((24, 16, 17, 2), np.uint8)),
    "fewer than two batches": lambda f: write(f, batches=1, per=30),
    "fewer than two classes with 10 images": lambda f: write(f, classes=("dots",)),
    "class odd is in batch b1 alone": lambda f: relabelled(
        f, lambda row: row | ({"class": "odd"} if row["batch"] == "b1" and row["class"] != "DMSO" else {})
    ),
    "well_type 'no': expected treatment": lambda f: write(f, well_type=lambda *_: "no"),
}


@pytest.mark.parametrize("message", MISTAKES)
def test_mistakes_are_one_line(tmp_path, monkeypatch, message):
    monkeypatch.setattr(crops, "LEAST_IMAGES", 10)
    folder = MISTAKES[message](tmp_path / "set")
    with pytest.raises(UserError, match=message) as caught:
        crops.read(folder)
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)


def test_a_folder_without_sets(tmp_path):
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(UserError, match="no metadata.csv there or in a folder of it"):
            crops.find(folder)
    write(tmp_path / "b"), write(tmp_path / "a")
    assert crops.find(tmp_path) == [tmp_path / "a", tmp_path / "b"] and crops.find(tmp_path / "a") == [tmp_path / "a"]
    (tmp_path / "a" / "b0.npz").unlink()
    with pytest.raises(UserError, match="names the file 'b0.npz', which is not in"):
        crops.read(tmp_path / "a")


def test_the_real_sets_can_be_held_out_batch_by_batch(shared_data):
    data = shared_data / "real_cells"
    if not data.is_dir():
        pytest.skip(f"no real crops: {data} is not a folder")
    for folder in crops.find(data):
        found = crops.read(folder)
        assert found.folds in (3, 4, 5) and len(found.label) > 1000
        for fold in range(found.folds):
            assert set(found.label[found.fold != fold]) == set(found.label)
            held_out = crops.within(found, fold)
            assert 0.05 < held_out[found.fold != fold].mean() < 0.25
            assert not set(found.picture[held_out]) & set(found.picture[~held_out])
