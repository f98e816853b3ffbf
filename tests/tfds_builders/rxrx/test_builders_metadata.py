"""RxRx1's tables: the real ones, every form they come in, and every kind of bad row."""

import collections
import re

import pytest
import table_tools
from table_tools import exhaust, split_counts

from rxrx_jax.base.errors import UserError
from tfds_builders import prepare
from tfds_builders.common.rows import splits
from tfds_builders.rxrx.rxrx1 import design, metadata

HEADER = "site_id,well_id,cell_type,dataset,experiment,plate,well,site,well_type,sirna,sirna_id"
GOOD = "RPE-01_1_B03_1,RPE-01_1_B03,RPE,train,RPE-01,1,B03,1,treatment,s28745,513"
ROW = {
    "site_id": "RPE-01_1_B03_1", "well_id": "RPE-01_1_B03", "experiment": "RPE-01", "plate": 1, "well": "B03",
    "site": 1, "cell_type": "RPE", "well_type": "treatment", "perturbation": "s28745", "perturbation_id": 513,
    "split": "train",
}  # fmt: skip


def read(tmp_path, **tables):
    return exhaust(metadata.read(table_tools.write(tmp_path, **tables)))


def link(tmp_path, *files):
    return exhaust(metadata.read(table_tools.link(tmp_path, *files)))


@pytest.fixture(scope="module")
def whole(shared_data, tmp_path_factory):
    """The whole experiment design: 125,510 real rows."""
    return link(tmp_path_factory.mktemp("whole"), shared_data / "rxrx1/metadata_rebuilt.csv")


def test_wilds_splits_of_the_whole_design(whole):
    table = whole
    assert split_counts(table) == {"train": 40_612, "id_test": 40_612, "val": 9_854, "test": 34_432}
    assert not table.set_aside
    assert sum(row["perturbation_id"] == -1 for row in table.rows) == 22_088
    assert {row["well_type"] for row in table.rows if row["perturbation_id"] == -1} == {"treatment"}
    assert [len(names) for names in splits.WILDS_EXPERIMENTS.values()] == [33, 4, 14]
    assert {row["experiment"] for row in table.rows} == set(splits.WILDS)


def test_labels_of_the_official_slice(tmp_path, shared_data):
    table = link(tmp_path, shared_data / "rxrx1/metadata_official_slice.csv")
    assert (len(table.rows), len(table.set_aside), table.facts["source_kind"]) == (13_657, 0, "published")
    names = {row["perturbation_id"]: row["perturbation"] for row in table.rows}
    assert sorted(names) == list(range(1139)) and names[1138] == "EMPTY"
    types = collections.Counter({row["perturbation_id"]: row["well_type"] for row in table.rows}.values())
    assert types == {"treatment": 1108, "positive_control": 30, "negative_control": 1}
    assert names[855] == "s21721"


def test_kaggle_v1_agrees_with_the_published_table(whole, tmp_path, shared_data):
    kaggle = link(tmp_path, *(shared_data / "rxrx1/kaggle_v1" / name for name in metadata.KAGGLE))
    assert (kaggle.facts["source_kind"], kaggle.facts["label_space"], kaggle.set_aside) == ("kaggle", "published", [])
    by_site = {row["site_id"]: row for row in whole.rows}
    unlabelled = 0
    for row in kaggle.rows:
        other = by_site.pop(row["site_id"])
        unknown = row["perturbation_id"] == -1
        unlabelled += unknown
        expected = {
            **other,
            "perturbation": "",
            "perturbation_id": -1 if unknown else other["perturbation_id"],
        }
        assert row == expected
    assert not by_site and unlabelled == 39_794
    assert any("39,794" in note for note in kaggle.notes)


def test_kaggle_relaunch(tmp_path, shared_data):
    table = link(tmp_path, *(shared_data / "rxrx1/kaggle_relaunch" / name for name in metadata.KAGGLE))
    assert (len(table.rows), len(table.set_aside)) == (125_518, 0)
    assert table.facts["label_space"] == "kaggle-relaunch"
    assert any("NOT the published" in note for note in table.notes)
    labels = {row["perturbation"]: row["perturbation_id"] for row in table.rows}
    assert labels["sirna_250"] == 250 and labels["UNTREATED"] == 1138 and labels[""] == -1
    assert {row["well_type"] for row in table.rows if row["perturbation_id"] == 1138} == {"negative_control"}


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "".join(f'"{f}"' if f not in ",\n" else f for f in _tokens(text)).encode(),
        lambda text: b"\xef\xbb\xbf" + text.encode(),
        lambda text: text.replace("\n", "\r\n").encode(),
        lambda text: text.replace("RPE-01", "RPE-1").encode(),
        lambda text: text.replace(",513", ",513.0").replace(",1,B03,1,", ",1.0,B03,1.0,").encode(),
        lambda text: text.replace(",RPE,", ", RPE ,").encode(),
        lambda text: "\n".join(f"{i},{line}" for i, line in enumerate(text.splitlines())).encode(),
    ],
    ids=["quoted", "bom", "crlf", "short names", "pandas floats", "spaces", "index column"],
)
def test_forms_of_the_same_row(tmp_path, change):
    table = read(tmp_path, metadata=change(f"{HEADER}\n{GOOD}\n"))
    assert table.rows == [ROW] and not table.set_aside


def _tokens(text):
    return re.findall(r"[^,\n]+|[,\n]", text)


@pytest.mark.parametrize(
    "old, new, reason",
    [
        (",513", ",1139", "label 1139 is not in 0..1138"),
        (",513", ",-2", "label -2 is not in 0..1138"),
        (",513", ",x", "label x is not in 0..1138"),
        (",513", ",1120", "label 1120 is not one of a treatment"),
        ("s28745,513", ",", "blank label"),
        (",513", ",", "blank label"),
        ("treatment", "control", "well_type 'control' is not one of"),
        ("treatment", "", "well_type ''"),
        (",RPE,", ",,", "blank cell_type"),
        (",RPE,", ",HUVEC,", "cell_type 'HUVEC' is not that of experiment RPE-01"),
        (",train,", ",,", "dataset '' is not train or test"),
        (",1,B03", ",,B03", "blank plate"),
        (",1,B03", ",0,B03", "plate '0' is not a positive integer"),
        (",1,B03", ",one,B03", "plate 'one' is not a positive integer"),
        (",B03,1,", ",B03,,", "blank site"),
        (",B03,1,", ",3B,1,", "well '3B'"),
        (",B03,1,", ",B04,1,", "well_id RPE-01_1_B03 does not match"),
        ("B03_1,", "B03_2,", "site_id RPE-01_1_B03_2 does not match"),
        (",RPE-01,", ",,", "blank experiment"),
        (",513", "", "10 fields in place of 11"),
        (",513", ",513,9", "12 fields in place of 11"),
    ],
)
def test_a_bad_row_is_set_aside_by_name(tmp_path, old, new, reason):
    bad = GOOD.replace(old, new, 1)
    other = GOOD.replace("B03", "B04")
    table = read(tmp_path, metadata=[HEADER, bad, other])
    assert [row["site_id"] for row in table.rows] == ["RPE-01_1_B04_1"]
    assert len(table.set_aside) == 1
    assert reason in table.set_aside[0].reason and "line 2" in table.set_aside[0].reason
    assert table.set_aside[0].site_id.startswith("RPE-01_1_B03_")


def test_a_row_without_a_name_is_reported_by_its_line(tmp_path):
    table = read(tmp_path, metadata=[HEADER, GOOD, ",".join([""] * 11)])
    assert [(item.site_id, item.reason) for item in table.set_aside] == [
        ("metadata.csv line 3", "blank site_id (metadata.csv line 3)")
    ]


def test_duplicates_are_passed_on_with_where_they_are(tmp_path):
    table = read(tmp_path, metadata=[HEADER, GOOD, GOOD, GOOD.replace(",513", ",514")])
    assert [row["perturbation_id"] for row in table.rows] == [513, 513, 514]
    assert table.where == ["metadata.csv line 2", "metadata.csv line 3", "metadata.csv line 4"]


def test_the_original_row_is_kept_as_it_was_published(tmp_path):
    table = read(
        tmp_path, metadata=[HEADER + ",more", GOOD.replace("RPE-01", "RPE-1").replace(",RPE,", ", RPE ,") + ", x"]
    )
    published = dict(zip(HEADER.split(","), GOOD.replace("RPE-01", "RPE-1").split(",")))
    # skipped: spaces after a comma, which stand before a quotation mark
    assert table.originals == [{**published, "cell_type": "RPE ", "more": "x"}] and table.rows == [ROW]


def test_test_treatments_may_come_without_a_label(tmp_path):
    test = GOOD.replace("RPE-01", "RPE-09").replace("train", "test")
    blank = test.replace("s28745,513", ",")
    control = blank.replace("treatment", "positive_control").replace("B03", "B04")
    table = read(tmp_path, metadata=[HEADER, blank, control])
    assert [(row["perturbation_id"], row["perturbation"], row["split"]) for row in table.rows] == [(-1, "", "test")]
    assert "blank label" in table.set_aside[0].reason
    assert any("1 sites have no label" in note for note in table.notes)


KAGGLE = {
    "train": ["id_code,experiment,plate,well,sirna", "RPE-1_1_B03,RPE-1,1,B03,513"],
    "train_controls": ["id_code,experiment,plate,well,sirna,well_type",
                       "RPE-01_1_B02,RPE-01,1,B02,1138,negative_control"],
    "test": ["id_code,experiment,plate,well", "RPE-08_2_B03,RPE-08,2,B03"],
    "test_controls": ["id_code,experiment,plate,well,sirna,well_type",
                      "RPE-09_1_C03,RPE-09,1,C03,1120,positive_control"],
}  # fmt: skip


def test_kaggle_tables_make_two_sites_a_well(tmp_path):
    table = read(tmp_path, **KAGGLE)
    got = [(row["site_id"], row["cell_type"], row["well_type"], row["perturbation_id"], row["split"])
           for row in table.rows]  # fmt: skip
    assert got == [
        ("RPE-01_1_B03_1", "RPE", "treatment", 513, "train"),
        ("RPE-01_1_B03_2", "RPE", "treatment", 513, "id_test"),
        ("RPE-01_1_B02_1", "RPE", "negative_control", 1138, "train"),
        ("RPE-01_1_B02_2", "RPE", "negative_control", 1138, "id_test"),
        ("RPE-08_2_B03_1", "RPE", "treatment", -1, "val"),
        ("RPE-08_2_B03_2", "RPE", "treatment", -1, "val"),
        ("RPE-09_1_C03_1", "RPE", "positive_control", 1120, "test"),
        ("RPE-09_1_C03_2", "RPE", "positive_control", 1120, "test"),
    ]


def test_metadata_csv_goes_before_kaggle_tables(tmp_path):
    table = read(tmp_path, metadata=[HEADER, GOOD], **KAGGLE)
    assert table.facts["source_kind"] == "published" and table.rows == [ROW]


def test_missing_kaggle_table_is_noted(tmp_path):
    table = read(tmp_path, **{k: v for k, v in KAGGLE.items() if k != "test_controls"})
    assert len(table.rows) == 6
    assert any("test_controls.csv" in note for note in table.notes)


def test_labels_of_two_releases_are_refused(tmp_path):
    tables = {**KAGGLE, "train": [KAGGLE["train"][0], "RPE-01_1_B03,RPE-01,1,B03,sirna_7"]}
    with pytest.raises(UserError, match="label 1138 is an integer and sirna_7"):
        read(tmp_path, **tables)


def test_splits_csv_replaces_wilds(tmp_path):
    second = GOOD.replace("RPE-01", "MINE-1").replace(",RPE,", ",MINE,")
    own = ["experiment,split", "RPE-01,test", "MINE-01,train"]
    table = read(tmp_path, metadata=[HEADER, GOOD, second], splits=own)
    assert [(row["experiment"], row["split"]) for row in table.rows] == [
        ("RPE-01", "test"),
        ("MINE-01", "train"),
    ]


@pytest.mark.parametrize(
    "tables, words",
    [
        (
            {"metadata": [HEADER, GOOD.replace("RPE-01", "NEW-01")]},
            ["NEW-01", "splits.csv", "experiment,split"],
        ),
        (
            {"metadata": [HEADER, GOOD], "splits": ["experiment,split", "RPE-02,train"]},
            ["RPE-01", "splits.csv"],
        ),
        (
            {"metadata": [HEADER, GOOD], "splits": ["experiment,split", "RPE-01,dev"]},
            ["line 2", "'dev'", "val"],
        ),
        (
            {"metadata": [HEADER, GOOD], "splits": ["experiment,split", "RPE-1,val", "RPE-01,test"]},
            ["line 3", "both"],
        ),
        (
            {"metadata": [HEADER, GOOD], "splits": ["name,split", "RPE-01,val"]},
            ["splits.csv", "experiment,split"],
        ),
        ({"metadata": [HEADER.replace("sirna_id", "label"), GOOD]}, ["metadata.csv", "sirna_id"]),
        ({"metadata": b""}, ["metadata.csv", "no column site_id"]),
        ({"metadata": f"{HEADER}\n{GOOD}".encode("utf-16")}, ["metadata.csv", "UTF-8"]),
        (
            {},
            [
                "neither metadata.csv nor",
                "rxrx1-images.zip",
                "rxrx1-metadata.zip",
                "tfds_builders.prepare rxrx1",
                "believed",
            ],
        ),
    ],
)
def test_a_bad_table_is_one_line(tmp_path, tables, words):
    with pytest.raises(UserError) as error:
        read(tmp_path, **tables)
    assert all(word in str(error.value) for word in words), error.value
    assert "\n" not in str(error.value)


def test_a_table_of_something_else_is_an_error_at_once(tmp_path):
    with pytest.raises(UserError, match="no column site_id"):
        metadata.read(table_tools.write(tmp_path, metadata=["well_id,experiment_name", "a,b"]))


def test_a_missing_source_says_what_to_download(tmp_path):
    with pytest.raises(UserError, match="is not a folder: .*download rxrx1-images.zip"):
        metadata.read(tmp_path / "nowhere")
    with pytest.raises(UserError, match="rxrx1 is built from downloaded files: .*prepare rxrx1 --source=DIR"):
        metadata.read(None)


def test_a_table_one_folder_below_is_named(tmp_path):
    (tmp_path / "rxrx1").mkdir()
    table_tools.write(tmp_path / "rxrx1", metadata=[HEADER, GOOD])
    with pytest.raises(UserError, match="use --source=.*/rxrx1"):
        metadata.read(tmp_path)


def test_classes_of_the_settings(tmp_path):
    table = exhaust(metadata.read(table_tools.write(tmp_path, metadata=[HEADER, GOOD]), classes=10))
    assert table.table.classes == 10 and "label 513 is not in 0..9" in table.set_aside[0].reason


def test_what_only_the_whole_table_tells(whole):
    table = whole
    assert len(table.facts["design_deviations"]) == 21 and all(
        "HUVEC-01 " not in s for s in table.facts["design_deviations"]
    )
    text = " ".join(table.notes)
    assert "21 of 51 experiments deviate" in text and "same 4 groups of 277 treatments" in text
    assert "HUVEC-18 (held out) has the layout of RPE-03 (train), its plates 1, 2, 3, 4 are plates 4, 1, 2, 3" in text


def test_the_real_table_has_the_published_counts(whole):
    labels = {row["perturbation_id"] for row in whole.rows if row["well_type"] != "negative_control"} - {-1}
    plates = {(row["experiment"], row["plate"]) for row in whole.rows}
    counts = {"sites": len(whole.rows), "experiments": len({name for name, _ in plates}), "plates": len(plates),
              "perturbations": len(labels)}  # fmt: skip
    assert prepare.builder_class("rxrx1").published == counts


def test_the_real_table_repeats_one_layout_three_times(whole):
    layouts = {}
    for row in whole.rows:
        design.add(layouts, row)
    assert design.same_layouts(layouts) == [
        ("HUVEC-07", "HUVEC-18", {1: 3, 2: 4, 3: 1, 4: 2}),
        ("HUVEC-07", "RPE-03", {1: 2, 2: 3, 3: 4, 4: 1}),
        ("HUVEC-18", "RPE-03", {1: 4, 2: 1, 3: 2, 4: 3}),
    ]
    assert sorted(map(len, design.plate_groups(layouts))) == [277] * 4
    wells = [len(wells) for plates in layouts.values() for wells in plates.values()]
    assert len(wells) == 204 and sum(count < 308 for count in wells) == 30


def test_other_trees_have_a_design_of_their_own(tmp_path):
    table = read(
        tmp_path, metadata=[HEADER, GOOD.replace("RPE-01", "MINE-01")], splits=["experiment,split", "MINE-1,val"]
    )
    assert "design_deviations" not in table.facts and not table.notes and split_counts(table) == {"val": 1}


def test_a_spelling_of_missing_is_no_label(tmp_path):
    withheld = GOOD.replace("train", "test").replace("s28745,513", "NaN,None")
    found = read(tmp_path, metadata=[HEADER, withheld, GOOD.replace("s28745,513", "null,-")])
    assert [row["perturbation_id"] for row in found.rows] == [-1] and "blank label" in found.set_aside[0].reason
    start = "Read as blank, not as a name: sirna 'NaN' (1 row), sirna 'null' (1 row), sirna_id"
    assert found.notes[0].startswith(start)
