"""RxRx1's builder from end to end: simulated trees in every layout, bad input, and the real files."""

import json
import shutil

import numpy as np
import pytest
import tensorflow_datasets as tfds
from builders_tools import (
    SCREEN,
    SPLITS,
    build,
    digests,
    flat,
    read_csv,
    records,
    same,
    set_aside,
    write_csv,
)  # fmt: skip
from PIL import Image

from rxrx_jax.base.errors import UserError
from rxrx_jax.simulate import screen as simulate
from tfds_builders import prepare
from tfds_builders.common import plates

ROWS = {row["site_id"]: row for row in simulate.sites(SCREEN)}
LABEL = ("perturbation_id",)


@pytest.fixture(scope="session")
def published(tmp_path_factory):
    """A tree in the published layout; tests that change it take `tree`."""
    root = tmp_path_factory.mktemp("published")
    simulate.write_published(SCREEN, root)
    return root


@pytest.fixture(scope="session")
def built(published, tmp_path_factory):
    """The prepared folder of that tree."""
    return build(published, tmp_path_factory.mktemp("built"))


@pytest.fixture
def tree(published, tmp_path):
    """A copy of the tree to change."""
    return shutil.copytree(published, tmp_path / "tree")


def image_file(root, site_id, channel, folder="images"):
    row = ROWS[site_id]
    return root / folder / row["experiment"] / f"Plate{row['plate']}" / f"{row['well']}_s{row['site']}_w{channel}.png"


def test_records_are_the_rendered_sites(built):
    found = flat(built)
    assert found.keys() == ROWS.keys() and len(found) == 64
    for site_id, record in found.items():
        row = ROWS[site_id]
        assert np.array_equal(record["image"], simulate.render_site(SCREEN, row)), site_id
        assert all(record[key] == row[key] for key in record if key != "image"), site_id


def test_tables_beside_the_records(built):
    listed = read_csv(built / "sites.csv")
    got = records(built)
    for split in SPLITS:
        rows = [row for row in listed if row["split"] == split]
        assert [row["site_id"] for row in rows] == [record["site_id"] for record in got[split]]
        assert [row["site_id"] for row in rows] == [k for k, v in ROWS.items() if v["split"] == split]
    for row in listed:
        assert row == {key: str(ROWS[row["site_id"]][key]) for key in row}
    classes = {(str(r["perturbation_id"]), r["perturbation"], r["well_type"]) for r in ROWS.values()}
    assert [tuple(row.values()) for row in read_csv(built / "perturbations.csv")] == sorted(classes)
    assert set_aside(built) == []
    assert "Nothing: every site" in (built / "report.html").read_text()


def check_statistics(folder, pictures):
    """Compares statistics.json with numpy on {site row: image} of the records."""
    statistics = json.loads((folder / "statistics.json").read_text())
    groups = {("dataset", None): [image for row, image in pictures if row["split"] == "train"]}
    for row, image in pictures:
        groups.setdefault(("experiment", row["experiment"]), []).append(image)
        groups.setdefault(("plate", f"{row['experiment']}/{row['plate']}"), []).append(image)
    assert statistics["channels"] == 6
    assert {k for level, k in groups if level == "experiment"} == statistics["experiment"].keys()
    assert {k for level, k in groups if level == "plate"} == statistics["plate"].keys()
    for (level, name), group in groups.items():
        entry = statistics[level] if name is None else statistics[level][name]
        pixels = np.stack(group).astype(np.float64)
        assert entry["sites"] == len(group)
        np.testing.assert_allclose(entry["mean"], pixels.mean((0, 1, 2)), rtol=1e-9)
        np.testing.assert_allclose(entry["std"], pixels.std((0, 1, 2)), rtol=1e-9)


def test_statistics(built):
    check_statistics(built, [(row, simulate.render_site(SCREEN, row)) for row in ROWS.values()])


def test_kaggle_integers_give_the_same_records(built, tmp_path):
    simulate.write_kaggle(SCREEN, tmp_path / "kaggle")
    expected, got = flat(built), flat(build(tmp_path / "kaggle", tmp_path))
    assert got.keys() == expected.keys()
    for site_id, record in got.items():
        unknown = record["split"] in ("val", "test") and record["well_type"] == "treatment"
        assert same(record, expected[site_id], LABEL if unknown else ()), site_id
        assert (record["perturbation_id"] == -1) == unknown


def test_kaggle_tree_with_the_published_table_gives_the_same_files(built, published, tmp_path):
    simulate.write_kaggle(SCREEN, tmp_path / "kaggle", strings=True)
    shutil.copy(published / "metadata.csv", tmp_path / "kaggle")
    assert digests(build(tmp_path / "kaggle", tmp_path)) == digests(built)


def test_kaggle_strings_are_another_label_space(built, tmp_path):
    simulate.write_kaggle(SCREEN, tmp_path / "kaggle", strings=True)
    folder = build(tmp_path / "kaggle", tmp_path)
    expected, got = flat(built), flat(folder)
    labels = set()
    for site_id, record in got.items():
        assert same(record, expected[site_id], LABEL), site_id
        if record["perturbation_id"] != -1:
            labels.add((record["perturbation_id"], expected[site_id]["perturbation_id"]))
    assert len(labels) == len({a for a, _ in labels}) == len({b for _, b in labels}) == SCREEN.classes
    assert prepare.details(folder)["label_space"] == "kaggle-relaunch"
    assert "NOT the published" in (folder / "report.html").read_text()
    assert prepare.details(build(tmp_path / "kaggle", tmp_path))["notes"]


def test_short_experiment_names_give_the_same_files(built, tree, tmp_path):
    for folder in (tree / "images").iterdir():
        folder.rename(folder.with_name(folder.name.replace("-0", "-")))
    (tree / "images/SIMA-1/Plate1").rename(tree / "elsewhere")
    (tree / "images/SIMA-01").mkdir()
    (tree / "elsewhere").rename(tree / "images/SIMA-01/Plate1")  # one experiment under both names
    table = (tree / "metadata.csv").read_text().replace("SIMB-01", "SIMB-1")
    (tree / "metadata.csv").write_text(table)
    expected, got = digests(built), digests(build(tree, tmp_path))
    assert expected.pop("original.csv") != got.pop("original.csv")  # the names as they were published
    assert got == expected


def test_workers_do_not_change_a_byte(built, published, tmp_path):
    assert digests(build(published, tmp_path, workers=2)) == digests(built)


def test_a_small_shuffle_buffer_does_not_matter(built, published, tmp_path, monkeypatch):
    from tensorflow_datasets.core import shuffle

    monkeypatch.setattr(shuffle, "MAX_MEM_BUFFER_SIZE", 1000)  # TFDS's other builders need TensorFlow beyond it
    assert digests(build(published, tmp_path)) == digests(built)


def test_many_shards_hold_the_same_records(built, published, tmp_path, monkeypatch):
    monkeypatch.setattr(plates, "SHARD_BYTES", 5 * 32 * 32 * 6)
    folder = build(published, tmp_path)
    lengths = {name: split.shard_lengths for name, split in tfds.builder_from_directory(folder).info.splits.items()}
    # a plate has 4 wells: 4 sites of train and of id_test, 8 of val and test; a shard never holds two plates
    assert lengths == {"train": [4] * 4, "id_test": [4] * 4, "val": [5, 3] * 2, "test": [5, 3] * 2}
    expected = flat(built)
    assert all(same(record, expected[key]) for key, record in flat(folder).items())
    assert (folder / "sites.csv").read_text() == (built / "sites.csv").read_text()


def break_images(tree):
    """Damages one site per kind of damage; returns {site_id: its reason}."""
    sites = iter(list(ROWS)[1::4])
    expected = {}

    def damage(reason):
        site_id = next(sites)
        expected[site_id] = reason
        return lambda channel: image_file(tree, site_id, channel)

    def save(path, array, mode=None):
        image = Image.fromarray(array)
        (image.convert(mode) if mode else image).save(path)

    grey = np.full((32, 32), 7, np.uint8)
    file = damage("missing w2, w5")
    file(2).unlink()
    file(5).unlink()
    file = damage("no image files")
    for channel in range(1, 7):
        file(channel).unlink()
    damage("w1: empty file")(1).write_bytes(b"")
    file = damage("w3: truncated PNG")(3)
    file.write_bytes(file.read_bytes()[:-40])
    file = damage("w4: truncated PNG")(4)
    file.write_bytes(file.read_bytes()[:20])
    file = damage("w6: corrupt PNG (checksum of chunk IDAT)")(6)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    damage("w1: neither PNG nor JPEG 2000")(1).write_bytes(b"GIF89a" + bytes(100))
    save(damage("w2: 16x16 pixels in place of 32x32")(2), grey[:16, :16])
    save(damage("w2: 32x16 pixels in place of 32x32")(2), grey[:16])
    save(damage("w5: 16-bit grey in place of 8-bit grey")(5), grey.astype(np.uint16))
    save(damage("w5: 8-bit RGB in place of 8-bit grey")(5), np.stack([grey] * 3, -1))
    save(damage("w5: 8-bit palette in place of 8-bit grey")(5), grey, "P")
    save(damage("w5: 1-bit grey in place of 8-bit grey")(5), grey, "1")
    file = damage("w1: empty file; w2: neither PNG nor JPEG 2000")
    file(1).write_bytes(b"")
    file(2).write_bytes(b"x")
    file = damage("w3: cannot be read (Is a directory)")(3)
    file.unlink()
    file.mkdir()
    return expected


def test_bad_images_are_set_aside_and_touch_nothing_else(built, tree, tmp_path):
    expected = break_images(tree)
    assert len(expected) == 15
    folder = build(tree, tmp_path, workers=2)
    assert dict(set_aside(folder)) == expected and len(set_aside(folder)) == 15
    whole, got = flat(built), flat(folder)
    assert got.keys() == whole.keys() - expected.keys()
    assert all(same(record, whole[key]) for key, record in got.items())
    text = (folder / "report.html").read_text()
    assert all(site in text and reason in text for site, reason in expected.items())
    assert prepare.details(folder)["set_aside"] == 15
    kept = [(row, simulate.render_site(SCREEN, row)) for site, row in ROWS.items() if site not in expected]
    check_statistics(folder, kept)


def test_the_first_image_does_not_decide_the_size_alone(tree, tmp_path):
    first = next(iter(ROWS))
    Image.fromarray(np.zeros((48, 48), np.uint8)).save(image_file(tree, first, 1))
    folder = build(tree, tmp_path)
    assert set_aside(folder) == [(first, "w1: 48x48 pixels in place of 32x32")]


def test_image_size_can_be_set(published, tmp_path):
    with pytest.raises(
        UserError, match="no site can be used; 64 set aside, the first is SIMA-01_1_.* 32x32 .* 512x512"
    ):
        prepare.prepare("rxrx1", published, tmp_path, 1, progress=False, image_size=512)
    assert not (tmp_path / "rxrx1/image_size_512").exists()


def test_bad_rows_are_set_aside_and_touch_nothing_else(built, tree, tmp_path):
    rows = read_csv(tree / "metadata.csv")
    rows[0]["sirna_id"] = "1139"
    rows[5]["well_type"] = ""
    rows += [dict(rows[9]), {**rows[20], "sirna_id": "2"}, {**rows[20], "sirna_id": "3"}]
    write_csv(tree / "metadata.csv", rows)
    folder = build(tree, tmp_path)
    got = sorted(set_aside(folder))
    assert got == sorted([
        (rows[0]["site_id"], "label 1139 is not in 0..1138 (metadata.csv line 2)"),
        (rows[5]["site_id"], "well_type '' is not one of treatment, positive_control, negative_control "
                             "(metadata.csv line 7)"),
        (rows[9]["site_id"], "duplicate row (metadata.csv line 66)"),
        *[(rows[20]["site_id"], "3 rows that disagree")] * 3,
    ])  # fmt: skip
    whole, left = flat(built), flat(folder)
    assert left.keys() == whole.keys() - {rows[i]["site_id"] for i in (0, 5, 20)}
    assert all(same(record, whole[key]) for key, record in left.items())
    assert prepare.details(folder)["unlisted"] == 0


def test_images_without_a_row_are_listed(built, tree, tmp_path):
    rows = read_csv(tree / "metadata.csv")
    gone = rows.pop(3)
    write_csv(tree / "metadata.csv", rows)
    extra = tree / "images/SIMA-01/Plate1/Z99_s1_w1.png"
    extra.write_bytes(b"")
    extra.with_name("._B02_s1_w1.png").write_bytes(b"")
    (tree / "images/SIMA-01/notes.txt").write_text("")
    folder = build(tree, tmp_path)
    listed = [row["file"] for row in read_csv(folder / "unlisted.csv")]
    gone_files = [str(image_file(tree, gone["site_id"], channel).relative_to(tree)) for channel in range(1, 7)]
    assert sorted(listed) == sorted([*gone_files, "images/SIMA-01/Plate1/Z99_s1_w1.png", "images/SIMA-01/notes.txt"])
    assert all(name in (folder / "report.html").read_text() for name in listed)
    assert len(flat(folder)) == 63 and gone["site_id"] not in flat(folder)


def test_shards_without_a_record_are_left_out(built, tree, tmp_path, monkeypatch):
    monkeypatch.setattr(plates, "SHARD_BYTES", 5 * 32 * 32 * 6)
    val = [key for key, row in ROWS.items() if row["split"] == "val"]
    test = [key for key, row in ROWS.items() if row["split"] == "test"]
    for site_id in val + test[2:9]:
        image_file(tree, site_id, 1).write_bytes(b"")
    folder = build(tree, tmp_path)
    info = tfds.builder_from_directory(folder).info
    assert {name: split.shard_lengths for name, split in info.splits.items()} == {
        "train": [4] * 4, "id_test": [4] * 4, "test": [2, 5, 2],
    }  # fmt: skip
    assert len(list(folder.glob("*.array_record*"))) == 11
    assert [record["site_id"] for record in records(folder)["test"]] == test[:2] + test[9:]
    assert prepare.split_sizes(folder)["val"] == 0
    assert flat(folder).keys() == flat(built).keys() - set(val) - set(test[2:9])


@pytest.mark.parametrize("layout", ["published", "kaggle"])
def test_nothing_usable_is_an_error(tree, tmp_path, layout):
    if layout == "kaggle":
        shutil.rmtree(tree / "images")
        with pytest.raises(UserError, match="has no folder images, train or test: give the folder"):
            build(tree, tmp_path / "out")
    else:
        for folder in (tree / "images").iterdir():
            shutil.rmtree(folder)
        with pytest.raises(UserError, match="no image there can be read"):
            build(tree, tmp_path / "out")
    assert not list((tmp_path / "out").rglob("dataset_info.json"))


def test_the_builder_opens_what_it_built(built):
    builder = prepare.builder_class("rxrx1")(data_dir=built.parents[2])
    assert builder.info.features["image"].shape == (32, 32, 6)
    assert len(builder.as_data_source("train")) == 16
    info = tfds.builder_from_directory(built).info
    assert "CC BY-NC-SA 4.0" in (built / "LICENSE").read_text() and "Recursion" in (built / "LICENSE").read_text()
    assert info.homepage == "https://www.rxrx.ai/rxrx1" and "sypetkowski2023rxrx1" in info.citation


def test_real_files(shared_data, tmp_path):
    source = shared_data / "rxrx1/published"
    if not source.is_dir():
        pytest.skip(f"{source} is not there")
    folder = build(source, tmp_path, workers=2)
    assert prepare.split_sizes(folder) == {"train": 8, "id_test": 0, "val": 2, "test": 0}
    bad = set_aside(folder)
    assert len(bad) == 10 and {reason for _, reason in bad} == {"missing w5, w6"}
    assert all(site.endswith("_2") for site, _ in bad)
    got = records(folder)
    assert {split: len(items) for split, items in got.items()} == {"train": 8, "val": 2}
    pictures = []
    for split, items in got.items():
        for record in items:
            row = {**record, "split": split}
            files = [
                source / "images" / row["experiment"] / f"Plate{row['plate']}" / f"B02_s{row['site']}_w{c}.png"
                for c in range(1, 7)
            ]
            raw = np.stack([np.asarray(Image.open(file)) for file in files], -1)
            assert raw.shape == (512, 512, 6) and np.array_equal(raw, record["image"])
            assert (record["perturbation_id"], record["well_type"]) == (1138, "negative_control")
            pictures.append((row, raw))
    check_statistics(folder, pictures)
    assert [row["perturbation_id"] for row in read_csv(folder / "perturbations.csv")] == ["1138"]
