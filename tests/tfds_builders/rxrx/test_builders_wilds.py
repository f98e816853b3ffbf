"""WILDS' rxrx1_v1.0 from end to end: a simulated tree, bad rows and files, and the real table."""

import collections
import json
import shutil

import numpy as np
import pytest
import wilds_tools
from builders_tools import SCREEN, flat, read_csv, set_aside, write_csv
from PIL import Image
from table_tools import exhaust
from wilds_tools import file_of, write_wilds

from rxrx_jax import data
from rxrx_jax.base.errors import UserError
from rxrx_jax.simulate import screen as simulate
from tfds_builders import download, prepare
from tfds_builders.rxrx.rxrx1_wilds import metadata

ROWS = {row["site_id"]: row for row in simulate.sites(SCREEN)}
LABELS = {row["site_id"]: int(row["sirna_id"]) for row in wilds_tools.table(SCREEN)}
HEADER = "cell_type,dataset,experiment,plate,well,site,sirna_id"


def build(source, out, **settings):
    return prepare.prepare("rxrx1_wilds", source, out, 1, progress=False, **settings)


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    root = tmp_path_factory.mktemp("wilds") / "rxrx1_v1.0"
    write_wilds(SCREEN, root)
    return root


@pytest.fixture(scope="module")
def built(published, tmp_path_factory):
    return build(published, tmp_path_factory.mktemp("built"))


@pytest.fixture
def tree(published, tmp_path):
    return shutil.copytree(published, tmp_path / "tree")


def test_records_are_the_three_channels_of_every_site_in_its_split(built):
    found = flat(built)
    assert found.keys() == ROWS.keys()
    for site_id, record in found.items():
        row = ROWS[site_id]
        np.testing.assert_array_equal(record["image"], simulate.render_site(SCREEN, row)[..., :3])
        assert record["perturbation_id"] == LABELS[site_id]
        same = ("split", "experiment", "plate", "well", "site", "cell_type", "well_type")
        assert all(record[key] == row[key] for key in same)
    about = json.loads((built / "metadata.json").read_text())
    assert about["channels"] == ["nucleus", "endoplasmic reticulum", "actin"] and about["image_shape"] == [32, 32, 3]
    assert about["source_kind"] == about["split_by"][14:-1] == "WILDS rxrx1_v1.0" and set_aside(built) == []
    assert "from 0 to the published values (51, 107, 64)" in (built / "report.html").read_text()


def test_it_is_a_dataset_to_train_on(built):
    dataset = data.read_dataset(built)
    assert dataset.image_shape == (32, 32, 3) and len(dataset.classes) == 1_139
    splits = collections.Counter(dataset.sites.split.tolist())
    assert splits == collections.Counter(row["split"] for row in ROWS.values())


@pytest.mark.parametrize("encoding", ["zstd", "raw"])
def test_every_encoding_of_channels(published, built, tmp_path, encoding):
    found = flat(build(published, tmp_path, encoding=encoding))
    assert all(np.array_equal(found[name]["image"], one["image"]) for name, one in flat(built).items())


def test_the_files_as_they_are_hold_three_channels_each(published, tmp_path):
    with pytest.raises(UserError, match="rxrx1_wilds: encoding=source keeps one file per channel, and here three"):
        build(published, tmp_path, encoding="source")


def test_files_that_are_not_such_an_image_are_set_aside(tree, tmp_path):
    names = sorted(ROWS)[:5]
    grey, alpha, cut, missing, small = (file_of(tree, ROWS[name]) for name in names)
    Image.fromarray(np.zeros((32, 32), np.uint8)).save(grey)
    Image.fromarray(np.zeros((32, 32, 4), np.uint8)).save(alpha)
    cut.write_bytes(cut.read_bytes()[:-20])
    missing.unlink()
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(small)
    stray = grey.with_name("B02_s1_w1.png")
    stray.write_bytes(b"?")
    folder = build(tree, tmp_path / "out")
    assert dict(set_aside(folder)) == dict(
        zip(
            names,
            (
                "8-bit grey in place of 8-bit RGB",
                "8-bit RGBA in place of 8-bit RGB",
                "truncated PNG",
                "no image file",
                "16x16 pixels in place of 32x32",
            ),
        )
    )
    assert len(flat(folder)) == len(ROWS) - 5
    assert any("B02_s1_w1.png" in row["file"] for row in read_csv(folder / "unlisted.csv"))


def rows_of(tmp_path, *lines, **files):
    (tmp_path / "metadata.csv").write_text("\n".join([HEADER, *lines]) + "\n")
    for name, text in files.items():
        (tmp_path / f"{name}.csv").write_text(text)
    return exhaust(metadata.read(tmp_path))


def test_rows_that_cannot_be_trusted_are_set_aside(tmp_path):
    good = "HUVEC,train,HUVEC-01,1,B03,1,5"
    bad = {
        "HUVEC,tset,HUVEC-01,1,B04,1,5": "dataset 'tset' is not one of train, val, test",
        "HUVEC,test,HUVEC-01,1,B05,1,5": "dataset test is not that of the other sites of HUVEC-01, train",
        "RPE,train,HUVEC-01,1,B06,1,5": "cell_type 'RPE' is not that of experiment HUVEC-01",
        "HUVEC,train,HUVEC-01,1,B07,1,": "blank label",
        "HUVEC,train,HUVEC-01,1,B08,1,1139": "label 1139 is not in 0..1138",
        "HUVEC,train,HUVEC-01,1,B09,1,x": "label x is not in 0..1138",
        "HUVEC,train,HUVEC-01,1,Z09,1,5": "well 'Z09' is not a well of A01..P24",
        "HUVEC,tset,HUVEC-99,1,B04,1,5": "dataset 'tset' is not one of train, val, test",
    }
    table = rows_of(tmp_path, good, good.replace("B03", "B02"), *bad)
    assert [row["well"] for row in table.rows] == ["B03", "B02"]
    assert [row.reason.rpartition(" (")[0] for row in table.set_aside] == list(bad.values())
    kinds = {"5": "treatment", "1108": "positive_control", "1137": "positive_control", "1138": "negative_control"}
    for label, kind in kinds.items():
        (row,) = rows_of(tmp_path, f"HUVEC,train,HUVEC-01,1,B03,2,{label}").rows
        assert (row["well_type"], row["split"], row["site_id"]) == (kind, "id_test", "HUVEC-01_1_B03_2")


def test_a_kind_of_well_that_the_label_is_not_of(tmp_path):
    (tmp_path / "metadata.csv").write_text(f"{HEADER},well_type\nHUVEC,train,HUVEC-01,1,B03,1,5,negative_control\n")
    (row,) = exhaust(metadata.read(tmp_path)).set_aside
    assert row.reason.startswith("label 5 is not one of a negative_control")


def test_a_table_with_other_splits_is_another_version(tmp_path):
    with pytest.raises(UserError, match="HUVEC-17 is test there and val in WILDS rxrx1_v1.0: .* is the dataset rxrx1$"):
        rows_of(tmp_path, "HUVEC,test,HUVEC-17,1,B03,1,5")
    table = rows_of(tmp_path, "HUVEC,val,HUVEC-17,1,B03,1,5", splits="experiment,split\nHUVEC-17,train\n")
    assert table.rows[0]["split"] == "train" and table.facts["split_by"] == "splits.csv of the source"
    (tmp_path / "metadata.csv").write_text("experiment,plate,well,site,cell_type,dataset\n")
    with pytest.raises(UserError, match="metadata.csv: no column sirna_id"):
        metadata.read(tmp_path)


def test_a_table_that_is_not_whole_says_how_many_are_missing(tmp_path):
    notes = rows_of(tmp_path, "HUVEC,val,HUVEC-17,1,B03,1,5").notes
    assert notes[0].startswith("Sites in the table differ from the published numbers: train 0 of 40,612, id_test 0 of")


def test_the_real_table_has_the_published_splits(shared_data, tmp_path):
    """The whole design as WILDS' table has it: its own column, and a label in place of those that were withheld."""
    from tfds_builders.common.rows import splits

    rows = read_csv(shared_data / "rxrx1" / "metadata_rebuilt.csv")
    assert len(rows) == 125_510
    for row in rows:
        row["dataset"] = splits.WILDS[row["experiment"]]
        if not row["sirna_id"]:
            row["sirna_id"] = "0"
    write_csv(tmp_path / "metadata.csv", rows)
    counts, notes = collections.Counter(), (table := metadata.read(tmp_path)).notes
    for row in table.rows:
        assert isinstance(row, dict), row
        counts[row["split"]] += 1
    assert counts == metadata.SITES and not [note for note in notes if "published numbers" in note]


def test_the_command_that_fetches_it(tmp_path, capsys):
    assert download.main(["rxrx1_wilds", f"--to={tmp_path}"]) == 2
    said = capsys.readouterr().out
    assert "CC BY-NC-SA 4.0" in said and "wilds.get_dataset('rxrx1'" in said
    assert said.splitlines()[-1].endswith(f"prepare rxrx1_wilds --source={tmp_path}/rxrx1_v1.0")
