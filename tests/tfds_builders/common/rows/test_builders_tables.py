"""The one csv reader behind all datasets, the checks that all rows share, and who decides about splits."""

import math
import os
import re

import pytest
import table_tools

from rxrx_jax.base.errors import UserError
from tfds_builders.common.rows import splits, tables
from tfds_builders.common.types import SetAside

COLUMNS = ("id", "a", "b")


def read(tmp_path, content):
    table_tools.write(tmp_path, t=content)
    return list(tables.read(tmp_path / "t.csv", COLUMNS))


@pytest.mark.parametrize(
    "content",
    [
        b"id,a,b\n1,x,y z\n",
        b"id,a,b\n1,x,y z",
        b"\xef\xbb\xbfid,a,b\r\n1,x,y z\r\n",
        b'"id","a","b"\n"1","x","y z"\n',
        b"id,a,b\n\n 1 , x ,y z\n\n",
        b'id, "a", "b"\n1, "x", "y z"\n',
        b"b,more,a,id\ny z,9,x,1\n",
        b",id,a,b\n0,1,x,y z\n",
    ],
    ids=["plain", "no last newline", "bom and crlf", "quoted", "spaces", "spaces and quotes", "order", "index column"],
)
def test_forms_of_one_row(tmp_path, content):
    (line,) = read(tmp_path, content)
    assert {name: line.cells[name] for name in COLUMNS} == {"id": "1", "a": "x", "b": "y z"}
    assert (line.name, line.problem) == ("1", "")
    assert line.where == ("t.csv line 3" if b"\n\n" in content else "t.csv line 2")


def test_cells_may_hold_commas_pipes_and_quotation_marks(tmp_path):
    (line,) = read(tmp_path, ["id,a,b", '1,"CC(=O) |c:1,2,t:3|","say ""a"", b"'])
    assert line.cells == {"id": "1", "a": "CC(=O) |c:1,2,t:3|", "b": 'say "a", b'}


def test_a_broken_row_costs_itself_only(tmp_path):
    lines = read(tmp_path, ["id,a,b", "1,x,y", '2,"x,y', "3,x,y", '4,"x"z,y', "5,x", "6,x,y,z", ",", '7,x,"y"'])
    assert [line.name for line in lines] == ["1", "", "3", "", "5", "6", "", "7"]
    assert [line.where for line in lines] == [f"t.csv line {n}" for n in range(2, 10)]
    broken = [line.problem for line in lines if line.problem]
    assert broken == [
        "broken quotes (unexpected end of data)",
        "broken quotes (',' expected after '\"')",
        "2 fields in place of 3",
        "4 fields in place of 3",
        "2 fields in place of 3",
    ]


@pytest.mark.parametrize(
    "content, words",
    [
        (b"", ["no column id, a, b", "must name id,a,b"]),
        (b"id,a\n1,2\n", ["no column b;"]),
        (b"id,a,b,a\n1,2,3,4\n", ["two columns a"]),
        ("id,a,b\n1,2,3\n".encode("utf-16"), ["UTF-16 text, and not UTF-8 csv: write it again as such"]),
        (b"id,a,b\n1,2,3\n" * 9000 + b"1,\xff,3\n", ["not a UTF-8 csv file"]),
        (b'id,"a,b\n1,2,3\n', ["not a UTF-8 csv file"]),
    ],
    ids=["empty", "missing", "twice", "utf-16", "a byte at the end", "broken header"],
)
def test_what_concerns_the_whole_file_is_one_line(tmp_path, content, words):
    with pytest.raises(UserError) as error:
        read(tmp_path, content)
    text = str(error.value)
    assert all(word in text for word in [*words, "t.csv"]) and "\n" not in text, text


def test_reading_streams(tmp_path):
    content = b"id,a,b\n" + b"1,2,3\n" * 9000 + b"1,\xff,3\n"
    lines = tables.read(table_tools.write(tmp_path, t=content) / "t.csv", COLUMNS)
    assert next(lines).name == "1"  # long before the line that cannot be read
    with pytest.raises(UserError, match="not a UTF-8 csv file"):
        list(lines)


def test_the_table_of_a_folder(tmp_path):
    with pytest.raises(UserError, match="has no a.csv or b.csv: get it"):
        tables.find(tmp_path, ("a.csv", "b.csv"), "get it")
    (tmp_path / "below").mkdir()
    (tmp_path / "below/b.csv").touch()
    with pytest.raises(UserError, match="b.csv .there is one in .*below: use --source=.*below.: get it"):
        tables.find(tmp_path, ("a.csv", "b.csv"), "get it")
    (tmp_path / "b.csv").touch()
    assert tables.find(tmp_path, ("a.csv", "b.csv"), "get it") == tmp_path / "b.csv"
    (tmp_path / "a.csv").touch()
    with pytest.raises(UserError, match="has both a.csv and b.csv: keep one"):
        tables.find(tmp_path, ("a.csv", "b.csv"), "get it")


def test_wells_of_both_plates():
    assert (len(tables.WELLS_384.names), len(tables.WELLS_1536.names)) == (16 * 24, 32 * 48)
    assert {"A01", "P24"} <= tables.WELLS_384.names and not {"Q01", "A25", "AA01", "A1", "a01"} & tables.WELLS_384.names
    assert {"A01", "Z48", "AA01", "AF48"} <= tables.WELLS_1536.names
    assert not {"AG01", "A49", "A00", "BA01", "AF1"} & tables.WELLS_1536.names


SITE = {"site_id": "gene-001_2_AF48_1", "well_id": "gene-001_2_AF48", "experiment": "gene-001", "plate": 2,
        "well": "AF48", "site": 1}  # fmt: skip


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"experiment": "gene-1"},
        {"site_id": "gene-01_2_AF48_1", "well_id": "gene-1_2_AF48"},
        {"plate": "2.0", "site": "1.0"},
    ],
)
def test_a_site_is_named(changes):
    cells = {**{key: str(value) for key, value in SITE.items()}, **changes}
    assert tables.identify(cells, tables.SITE_COLUMNS, tables.WELLS_1536) == SITE


@pytest.mark.parametrize(
    "changes, reason",
    [
        *[({name: ""}, f"blank {name}") for name in SITE],
        ({"plate": "0"}, "plate '0' is not a positive integer"),
        ({"plate": "-1"}, "plate '-1' is not a positive integer"),
        ({"plate": "2.5"}, "plate '2.5' is not a positive integer"),
        ({"plate": "\u0662"}, "is not a positive integer"),
        ({"site": "first"}, "site 'first' is not a positive integer"),
        ({"well": "AG48"}, "well 'AG48' is not a well of A01..AF48"),
        ({"well": "A1"}, "well 'A1' is not a well"),
        ({"well": "AE48"}, "well_id gene-001_2_AF48 does not match its other columns, gene-001_2_AE48"),
        ({"plate": "3"}, "well_id gene-001_2_AF48 does not match its other columns, gene-001_3_AF48"),
        ({"experiment": "../gene-001"}, "experiment '../gene-001' is not a name of an experiment"),
        ({"experiment": "a/b"}, "experiment 'a/b' is not a name of an experiment"),
        ({"experiment": "a\0b"}, "experiment 'a\\x00b' is not a name of an experiment"),
        ({"experiment": "x" * 101}, f"experiment '{'x' * 100}' is not a name of an experiment"),
        ({"experiment": "gene-002"}, "well_id gene-001_2_AF48 does not match its other columns, gene-002_2_AF48"),
        ({"site": "2"}, "site_id gene-001_2_AF48_1 does not match its other columns, gene-001_2_AF48_2"),
        ({"site_id": "gene-001_2_AF48"}, "site_id gene-001_2_AF48 does not match"),
        ({"well_id": "AF48"}, "well_id AF48 does not match"),
    ],
)
def test_a_row_whose_names_disagree_names_no_site(changes, reason):
    cells = {**{key: str(value) for key, value in SITE.items()}, **changes}
    assert reason in tables.identify(cells, tables.SITE_COLUMNS, tables.WELLS_1536)


def test_names_of_experiments():
    names = {"HUVEC-1": "HUVEC-01", "HUVEC-01": "HUVEC-01", "HUVEC-24": "HUVEC-24", "HUVEC-100": "HUVEC-100",
             "gene-1": "gene-001", "gene-01": "gene-001", "compound-004": "compound-004", "a-b-7": "a-b-07",
             "HUVEC": "HUVEC", "7": "7"}  # fmt: skip
    assert {name: splits.canonical(name) for name in names} == names
    assert splits.canonical is tables.canonical


@pytest.mark.parametrize(
    "text, value",
    [("0.25", 0.25), ("10", 10.0), ("1e-05", 1e-5), ("2.5E-3", 0.0025), (".5", 0.5), ("1.", 1.0), ("0", 0.0)],
)
def test_concentrations(text, value):
    assert tables.concentration(text) == value


@pytest.mark.parametrize("text", ["-1", "inf", "nan", "1,5", "1 uM", "1e999", "0x10", "1_0"])
def test_what_is_not_a_concentration(text):
    assert tables.concentration(text) is None and math.isnan(tables.concentration(""))


def sites(tmp_path, *lines):
    names = ",".join([*SITE, "cell_type"])
    lines = tables.read(table_tools.write(tmp_path, t=[names, *lines]) / "t.csv", tuple(names.split(",")))
    describe = lambda cells, site: "no good" if site["well"] == "B02" else {"extra": cells["site"]}  # noqa: E731
    split_of = lambda experiment, site: f"{experiment}/{site}"  # noqa: E731
    return list(tables.sites(lines, tables.SITE_COLUMNS, tables.WELLS_384, split_of, describe))


def test_rows_of_a_table(tmp_path):
    good = "X-1_1_B01_1,X-1_1_B01,X-1,1,B01,1,Y"
    row, *aside = sites(tmp_path, good, good.replace("B01", "B02"), good[:-1], good.replace("B01,1", "B03,1"), "?", "")
    assert row == {
        "site_id": "X-01_1_B01_1", "well_id": "X-01_1_B01", "experiment": "X-01", "plate": 1, "well": "B01", "site": 1,
        "cell_type": "Y", "extra": "1", "split": "X-01/1", "where": "t.csv line 2",
        "original": {"site_id": "X-1_1_B01_1", "well_id": "X-1_1_B01", "experiment": "X-1", "plate": "1",
                     "well": "B01", "site": "1", "cell_type": "Y"},
    }  # fmt: skip
    assert aside == [
        SetAside("X-01_1_B02_1", "no good (t.csv line 3)", "X-01", "X-01/1"),
        SetAside("X-01_1_B01_1", "blank cell_type (t.csv line 4)", "X-01", "X-01/1"),
        SetAside("X-1_1_B01_1", "well_id X-1_1_B01 does not match its other columns, X-01_1_B03 (t.csv line 5)"),
        SetAside("?", "1 fields in place of 7 (t.csv line 6)"),
    ]


def test_wilds_splits():
    assert [len(names) for names in splits.WILDS_EXPERIMENTS.values()] == [33, 4, 14] and len(splits.WILDS) == 51
    found = {(name, site): splits.by_site(splits.WILDS, name, site)
             for name in ("RPE-01", "HUVEC-17", "U2OS-05") for site in (1, 2)}  # fmt: skip
    assert list(found.values()) == ["train", "id_test", "val", "val", "test", "test"]
    with pytest.raises(UserError, match="experiment X-01 is not in WILDS's split: .*splits.csv.*experiment,split"):
        splits.by_site(splits.WILDS, "X-01", 1)


def test_splits_by_experiment(tmp_path):
    assert splits.read_file(tmp_path) is None
    assert splits.by_experiment(None, "X-01", 2) == "train"
    table_tools.write(tmp_path, splits=["split,experiment", "train,X-1", "val,X-02", "test,X-3", "train,X-01"])
    kinds = splits.read_file(tmp_path)
    assert kinds == {"X-01": "train", "X-02": "val", "X-03": "test"}
    found = [splits.by_experiment(kinds, f"X-0{i}", site) for i in (1, 2, 3) for site in (1, 4)]
    assert found == ["train", "train", "val", "val", "test", "test"]
    with pytest.raises(UserError, match="experiment X-04 is not in splits.csv"):
        splits.by_experiment(kinds, "X-04", 1)


@pytest.mark.parametrize(
    "lines, words",
    [
        (["experiment,split", "A-1,dev"], ["line 2", "'dev'", "val"]),
        (["experiment,split", ",train"], ["line 2", "''"]),
        (["experiment,split", "A-1,train", "A-01,val"], ["line 3", "A-01 is both train and val"]),
        (["experiment,split", "A-1"], ["line 2", "1 fields in place of 2"]),
        (["name,split", "A-1,train"], ["no column experiment", "experiment,split"]),
        (["experiment", "A-1"], ["no column split"]),
    ],
)
def test_a_bad_splits_csv_is_an_error(tmp_path, lines, words):
    table_tools.write(tmp_path, splits=lines)
    with pytest.raises(UserError) as error:
        splits.read_file(tmp_path)
    assert all(word in str(error.value) for word in [*words, "splits.csv"]) and "\n" not in str(error.value)


def test_a_field_that_no_program_reads_costs_its_row(tmp_path):
    for cell, problem in (("y" * 131_072, "a field of 131,072 characters"), ("y" * 32_768, "a field of 32,768"),
                          ("y\0", "a control character"), ("y\x85", "a control character")):  # fmt: skip
        good, bad = read(tmp_path, f"id,a,b\n1,x,{'y' * 32_767}\n2,x,{cell}\n".encode())
        assert good.problem == "" and bad.name == "2" and bad.problem.startswith(problem) and not bad.cells
    (line,) = read(tmp_path, f"id,a,b\n{'1' * 131_073},x,y\n".encode())
    assert line.problem.startswith("broken quotes") and len(line.name) <= 100


@pytest.mark.parametrize("mark", [";", "\t", "|"])
def test_another_separator_is_named(tmp_path, mark):
    with pytest.raises(UserError, match=re.escape(f"its columns are separated by {mark!r}: write it again")):
        read(tmp_path, f"id{mark}a{mark}b\n".encode())


def test_spellings_of_missing_are_blanks_and_counted(tmp_path):
    texts = ["None", "NaN", "NA", "N/A", "null", "-", "nan", "", "NAT", "nullA"]
    table_tools.write(tmp_path, t=["id,a,b", *(f"{text or 'x'},{text},{text}" for text in texts)])
    notes = []
    lines = list(tables.blanked(tables.read(tmp_path / "t.csv", COLUMNS), ("a", "gene"), notes))
    assert [line.cells["a"] for line in lines] == [""] * 8 + ["NAT", "nullA"]
    assert [line.cells["b"] for line in lines] == texts  # not a label
    counts = ", ".join(f"a {text!r} (1 row)" for text in sorted(texts[:7]))
    assert notes == [f"Read as blank, not as a name: {counts}."]


def test_a_pipe_in_place_of_a_table_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "splits.csv")
    with pytest.raises(UserError, match="splits.csv is not a regular file; give a csv file"):
        splits.read_file(tmp_path)
    with pytest.raises(UserError, match="t.csv cannot be read"):
        list(tables.read(tmp_path / "t.csv", COLUMNS))
