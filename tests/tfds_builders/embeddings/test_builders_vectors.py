"""Files of published embeddings in every form, good and bad: csv, Parquet, trees and tars."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builders_embeddings_tools import ROWS, SPLIT, VALUES, WELLS, build, make, parquet, same, tar, text, tree

from rxrx_jax.base import command
from rxrx_jax.base.errors import UserError
from tfds_builders import verify
from tfds_builders.embeddings import vectors


@pytest.mark.parametrize("ending", ["\r\n", "\n"])
def test_harmless_differences_of_csv(tmp_path, ending):
    lines = text(VALUES).splitlines()
    lines[1:3] = ["", '"' + lines[1].replace(",", '",', 1), "  ", lines[2].replace(",", " , ")]
    expected = make(tmp_path, text(VALUES))
    made = make(tmp_path, "\ufeff" + ending.join(lines))  # a BOM and no last newline
    same(made.by_id, expected.by_id)
    header, *lines = text(VALUES).splitlines()
    content = "\n".join([header + ",experiment", *(f"{line},x" for line in lines)])
    same(make(tmp_path, content).by_id, expected.by_id)  # a column that is not a value


def test_small_blocks_give_the_same_bytes(tmp_path, monkeypatch):
    lines = text(VALUES).splitlines()
    lines.insert(20, "RPE-01_1_B02_1,x,y,z")
    expected = make(tmp_path, "\n".join(lines))
    assert expected.set_aside[0][1].startswith("2 embeddings that differ") and "line 21" in expected.set_aside[0][1]
    monkeypatch.setattr(vectors, "BLOCK", 150)
    made = make(tmp_path, "\n".join(lines))
    assert made.set_aside == expected.set_aside
    for name in ("embeddings.parquet", "unlisted.csv"):
        assert (made.folder / name).read_bytes() == (expected.folder / name).read_bytes()


@pytest.mark.parametrize("more", ["", "no_name,a,b,c\n"])
def test_the_text_of_a_number_gives_the_same_bits_both_ways(tmp_path, more):
    """1.0000000596046447754 is just above the middle of two float32, and the middle itself in 64 bits."""
    numbers = ["1.0000000596046447754", "-0.0", " 3e-46"]
    name = "RPE-01_1_B02_1"
    old = text({name: VALUES[name]}).splitlines()[1]
    made = make(tmp_path, text(VALUES).replace(old, ",".join([name, *numbers])) + more)
    np.testing.assert_array_equal(made.by_id[name], np.array([float(n) for n in numbers]).astype(np.float32))
    assert made.by_id[name][0] == 1 and np.signbit(made.by_id[name][1])


def test_blank_lines_count(tmp_path):
    lines = text(VALUES).splitlines()
    lines[5] = lines[5].rpartition(",")[0] + ",nan"
    lines.insert(3, "")
    assert make(tmp_path, "\n".join(lines)).set_aside[0][1].endswith("(embeddings.csv line 7)")


BAD = {
    "nan,1,2": "feature_0 is not a finite number",
    "1,,2": "feature_1 is not a finite number",
    "1,2,inf": "feature_2 is not a finite number",
    "1,-1e39,2": "feature_1 is not a finite number",  # no float32
    "1,2,1e400": "feature_2 is not a finite number",
    "1,abc,2": "feature_1 'abc' is not a number",
    "1,2,1_0": "feature_2 '1_0' is not a number",
    "1,2": "3 fields in place of 4",
    "1,2,3,4": "5 fields in place of 4",
    '1,2,"3': "not UTF-8 csv",
}


@pytest.mark.parametrize("together", [False, True])
def test_bad_values_set_their_site_aside(tmp_path, together):
    """Alone, or beside a line that sends the whole block the slow way."""
    names = list(VALUES)
    for i, (bad, reason) in enumerate(BAD.items()):
        lines = text(VALUES).splitlines()
        lines[1 + i] = f"{names[i]},{bad}"
        if together:
            lines.append("no_name,a,b,c")
        made = make(tmp_path, "\n".join(lines))
        assert len(made.set_aside) == 1, bad
        site_id, why, experiment, split = made.set_aside[0]
        row = next(row for row in ROWS if row["site_id"] == names[i])
        assert (site_id, experiment, split) == (names[i], row["experiment"], row["split"])
        assert why.startswith(reason) and f"embeddings.csv line {2 + i})" in why, why
        same(made.by_id, {name: v for name, v in VALUES.items() if name != names[i]})
        assert made.unlisted == ([("no_name", "embeddings.csv line 56")] if together else [])


def test_bytes_that_are_no_text(tmp_path):
    lines = text(VALUES).encode().splitlines()
    lines[3] = b"HUVEC-01_1_B03_1,\xff,2,3"
    lines[5] = b"\xff\xfe,1,2,3"
    made = make(tmp_path, b"\n".join(lines))
    (bad, why, *_), (none, no, *_) = sorted(made.set_aside, key=lambda row: row[1] == "no embedding")
    assert bad == "HUVEC-01_1_B03_1" and why.startswith("not UTF-8 csv") and "line 4" in why
    assert none == list(VALUES)[4] and no == "no embedding"
    assert len(made.by_id) == 52 and made.unlisted == [("\ufffd\ufffd", "embeddings.csv line 6")]


# Parquet.


def test_a_parquet_file_a_tree_and_a_tar_give_the_same(tmp_path):
    rows = [row for row in ROWS if row["site"] == 1]
    one = make(tmp_path, parquet(WELLS), rows=rows, name="OpenPhenom_rxrx3_core_embeddings.parquet")
    assert one.by_id.keys() == {f"{name}_1" for name in WELLS}
    root = tree(tmp_path / "tree")
    (root / "HUVEC-01/Plate1/._embeddings.parquet").write_bytes(b"of a file manager")
    of_tree = build(tmp_path / "a", root, rows)
    of_tar = build(tmp_path / "b", tar(root, tmp_path / "embeddings.tar"), rows)
    of_double = make(tmp_path, parquet(WELLS, dtype=np.float64), rows=rows, name="embeddings.parquet")
    for made in (of_tree, of_tar, of_double):
        assert (made.folder / "embeddings.parquet").read_bytes() == (one.folder / "embeddings.parquet").read_bytes()
    assert of_tree.about["embedding_files"] == 9 and of_tar.about["embedding_files"] == 1


def test_bad_values_in_parquet_name_their_row_and_file(tmp_path):
    rows = [row for row in ROWS if row["site"] == 1]
    names = list(WELLS)
    words = [str(v[1]) for v in WELLS.values()]
    words[2], words[4], words[5] = "abc", None, "nan"
    made = make(tmp_path, parquet(WELLS, changes={"feature_1": words}), rows=rows, name="embeddings.parquet")
    where = f"{tmp_path.name}/embeddings.parquet row "
    reasons = {site_id: reason.replace(f"{tmp_path.parent.name}/", "") for site_id, reason, *_ in made.set_aside}
    assert reasons == {
        f"{names[2]}_1": f"feature_1 'abc' is not a number ({where}3)",
        f"{names[4]}_1": f"feature_1 is not a finite number ({where}5)",
        f"{names[5]}_1": f"feature_1 is not a finite number ({where}6)",
    }
    same(made.by_id, {f"{name}_1": v for i, (name, v) in enumerate(WELLS.items()) if i not in (2, 4, 5)})
    numbers = [None if i == 3 else float(v[0]) for i, v in enumerate(WELLS.values())]
    made = make(tmp_path, parquet(WELLS, changes={"feature_0": numbers}), rows=rows, name="embeddings.parquet")
    assert [row[:1] for row in made.set_aside] == [(f"{names[3]}_1",)]


def test_files_that_are_damaged_are_one_line(tmp_path):
    root = tree(tmp_path / "tree")
    whole = tar(root, tmp_path / "embeddings.tar").read_bytes()
    single = parquet(WELLS)
    damaged = {
        "embeddings.tar": [whole[:5000], whole[:-20_480], whole[: len(whole) // 1024 * 512], b"no tar", b""],
        "embeddings.parquet": [single[:-4], single[: len(single) // 2], b"PAR1", b""],
    }
    for name, contents in damaged.items():
        for content in contents:
            with pytest.raises(UserError) as error:
                make(tmp_path, content, name=name)
            assert name in str(error.value) and "\n" not in str(error.value)
    random = np.random.default_rng(0)
    footer = len(single) - 8 - int.from_bytes(single[-8:-4], "little")  # pyarrow may not survive a wrong one
    for _ in range(100):
        content = bytearray(single)
        for at in random.integers(0, footer, 4):
            content[at] = random.integers(256)
        try:
            make(tmp_path, bytes(content), rows=ROWS, name="embeddings.parquet")
        except UserError as error:
            assert "\n" not in str(error)
    with pytest.raises(UserError, match="holds no embedding"):
        make(tmp_path, text({}))


# Files and columns.


def test_two_kinds_of_embeddings_are_not_mixed(tmp_path):
    (tmp_path / "embeddings_1.csv").write_text(text(VALUES))
    (tmp_path / "embeddings_2.csv").write_text("site_id,feature_0\nRPE-01_1_B02_1,1\n")
    with pytest.raises(UserError, match=r"embeddings_2.csv names 1 values by site_id, embeddings_1.csv 3 by site_id"):
        build(tmp_path / "made", tmp_path)


def test_a_table_in_parts(tmp_path):
    """One csv file an experiment."""
    for experiment in SPLIT:
        part = {name: v for name, v in VALUES.items() if name.startswith(experiment)}
        (tmp_path / f"rxrx19a_embeddings_{experiment}.csv").write_text(text(part))
    same(build(tmp_path / "made", tmp_path).by_id, VALUES)


def test_find(tmp_path):
    def files(*names):
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text("x")
        return [str(path.relative_to(tmp_path)) for path in vectors.find(tmp_path)]

    with pytest.raises(UserError, match="holds no file of embeddings"):
        files("metadata.csv", "rxrx1-dl-embeddings.zip", "images/HUVEC-01/Plate1/B02_s1_w1.png", ".embeddings.csv")
    assert files("rxrx2-embeddings.csv") == ["rxrx2-embeddings.csv"]
    (tmp_path / "embeddings.tar").mkdir()  # a folder
    assert files("rxrx2/Embeddings.csv") == ["rxrx2/Embeddings.csv", "rxrx2-embeddings.csv"]
    with pytest.raises(UserError, match=r"holds .*Embeddings.csv and .*embeddings.parquet: choose with --embeddings"):
        files("gene-001/Plate1/embeddings.parquet")
    assert vectors.find(tmp_path / "gene-001") == [tmp_path / "gene-001/Plate1/embeddings.parquet"]
    with pytest.raises(UserError, match="does not exist"):
        vectors.find(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"a.npz: expected a file that ends in .csv, .parquet, .tar"):
        (tmp_path / "a.npz").write_text("")
        vectors.find(tmp_path / "a.npz")


def test_columns():
    assert vectors.form(["well_id", "feature_10", *(f"feature_{i}" for i in range(10))], "f") == (
        "well_id", [f"feature_{i}" for i in range(11)]
    )  # fmt: skip
    assert vectors.form(["", "feature_2", "site_id", "plate", "well_id", "feature_1"], "f") == (
        "site_id", ["feature_1", "feature_2"]
    )  # fmt: skip
    assert vectors.form(["Unnamed: 0", "site_id", "experiment", "a", "b"], "f") == ("site_id", ["a", "b"])
    for names, words in [
        (["site_id", "feature_0", "feature_2"], "f: no column feature_1, though there is feature_2"),
        (["site_id", "feature_0", "feature_0"], "f: two columns are called 'feature_0'"),
        (["feature_0", "feature_1"], "f: no column site_id or well_id; it has feature_0"),
        (["site_id", "plate"], "f: no columns of values"),
        ([], "f: no column site_id"),
    ]:
        with pytest.raises(UserError, match=words):
            vectors.form(names, "f")


def test_a_line_without_end_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(vectors, "LONGEST_LINE", 1000)
    monkeypatch.setattr(vectors, "BLOCK", 500)
    with pytest.raises(UserError, match="a line of more than 1,000 bytes"):
        make(tmp_path, text(VALUES) + "1" * 5000)


def test_a_column_of_lists_is_named(tmp_path):
    table = pa.table({"site_id": ["a"], "embedding": pa.array([[0.1, 0.2]], pa.list_(pa.float32()))})
    pq.write_table(table, tmp_path / "embeddings.parquet")
    with pytest.raises(UserError, match="column embedding holds list<.*float>: write its values as columns"):
        list(vectors.read([tmp_path / "embeddings.parquet"]))


def test_verify_notices_a_flipped_bit_in_any_file(tmp_path, capsys):
    folder = make(tmp_path, text(VALUES)).folder
    assert command.run(verify.main, [str(folder)]) == 0 and "all files are what the build" in capsys.readouterr().out
    for path in sorted(folder.iterdir()):
        whole = path.read_bytes()
        middle = len(whole) // 2
        path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
        assert command.run(verify.main, [str(folder)]) in (1, 2) and path.name in "".join(capsys.readouterr())
        path.write_bytes(whole)
