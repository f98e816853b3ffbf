"""Published embeddings in every form, good and bad, joined with the table of their dataset."""

import csv
import io
import json
import pathlib
import tarfile
import types

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rxrx_jax import embeddings as embeddings_file
from rxrx_jax.errors import UserError
from tfds_builders import prepare_embeddings
from tfds_builders.common.types import SITE_COLUMNS, SetAside, Table
from tfds_builders.embeddings import join as embeddings
from tfds_builders.embeddings import vectors

DIM = 3
SPLIT = {"HUVEC-01": "train", "HUVEC-02": "val", "RPE-01": "test"}


def site(experiment, plate, well, number):
    """A row as the metadata readers give it."""
    well_id = f"{experiment}_{plate}_{well}"
    name = f"s{ord(well[-1]) % 2}"
    kind = SPLIT[experiment]
    return {
        "split": "id_test" if kind == "train" and number > 1 else kind,
        "site_id": f"{well_id}_{number}",
        "well_id": well_id,
        "cell_type": experiment.split("-")[0],
        "experiment": experiment,
        "plate": plate,
        "well": well,
        "site": number,
        "well_type": "treatment",
        "perturbation": name,
        "perturbation_id": None,
        "concentration_um": float("nan") if well == "B02" else 0.1,
        "smiles": "",
        "original": {"site_id": "x"},
        "where": f"metadata.csv line {number}",
    }


ROWS = [
    site(experiment, plate, well, number)
    for experiment in SPLIT
    for plate in (1, 2, 10)
    for well in ("B02", "B03", "AA01")
    for number in (1, 2)
]
RNG = np.random.default_rng(0)
VALUES = {row["site_id"]: RNG.normal(size=DIM).astype(np.float32) for row in ROWS}
WELLS = {row["well_id"]: RNG.normal(size=DIM).astype(np.float32) for row in ROWS}


def builder(rows=ROWS, notes=()):
    return types.SimpleNamespace(
        extra_columns={"concentration_um": float, "smiles": str},
        about={"description": "d", "homepage": "h", "license": "l", "citation": "c"},
        read_table=lambda: Table(iter(rows), {"source": "here"}, list(notes)),
    )


def text(values, key="site_id", order=None):
    """The csv table of {id: values}."""
    lines = [",".join([key, *(f"feature_{i}" for i in range(DIM))])]
    lines += [",".join([name, *map(str, values[name])]) for name in order or values]
    return "\n".join(lines) + "\n"


class Made(types.SimpleNamespace):
    """columns, embedding, by_id {site_id: embedding}, set_aside [rows], unlisted [rows], about."""


def make(tmp_path, content, rows=ROWS, name="embeddings.csv"):
    """Builds from one file of this content."""
    source = tmp_path / name
    source.write_bytes(content if isinstance(content, bytes) else content.encode())
    return build(tmp_path / f"made{len(list(tmp_path.iterdir()))}", source, rows)


def build(folder, source, rows=ROWS):
    folder.mkdir()
    embeddings.build(builder(rows), vectors.find(source), folder, progress=False)
    names = {"embeddings.parquet", "metadata.json", "set_aside.csv", "unlisted.csv"}
    assert {path.name for path in folder.iterdir()} == names
    return look(folder)


def look(folder):
    columns, embedding = embeddings_file.read(folder)
    read = lambda name: list(csv.DictReader((folder / name).read_text().splitlines()))  # noqa: E731
    return Made(
        folder=folder,
        columns=columns,
        embedding=embedding,
        by_id=dict(zip(columns["site_id"], embedding)),
        set_aside=[tuple(row.values()) for row in read("set_aside.csv")],
        unlisted=[tuple(row.values()) for row in read("unlisted.csv")],
        about=json.loads((folder / "metadata.json").read_text()),
    )


def same(found, expected):
    assert found.keys() == expected.keys()
    for name, values in found.items():
        np.testing.assert_array_equal(values, expected[name], err_msg=name)


def test_every_row_gets_its_embedding_in_order(tmp_path):
    order = list(np.random.default_rng(1).permutation(list(VALUES)))
    made = make(tmp_path, text(VALUES, order=order), rows=ROWS[::-1])
    same(made.by_id, VALUES)
    assert list(made.columns) == [*SITE_COLUMNS, "concentration_um", "smiles"]
    splits = ("train", "id_test", "val", "test")
    expected = sorted(ROWS, key=lambda r: (splits.index(r["split"]), r["experiment"], r["plate"], r["well"], r["site"]))
    for name, values in made.columns.items():
        wanted = [row[name] for row in expected]
        if name == "perturbation_id":
            wanted = [int(row["perturbation"][1]) for row in expected]  # names in order
        np.testing.assert_array_equal(values, wanted, err_msg=name)
    assert made.about["dim"] == DIM and made.about["embedding_of"] == "site" and made.about["source"] == "here"
    assert made.about["counts"] == {
        "published": 54, "rows": 54, "set_aside": 0, "without_row": 0, "duplicates": 0,
        "splits": {"train": 9, "id_test": 9, "val": 18, "test": 18},
    }  # fmt: skip
    assert made.about["license"] == "l" and made.about["citation"] == "c" and made.about["homepage"] == "h"
    assert made.set_aside == [] == made.unlisted


def test_a_row_group_is_a_plate_of_a_split(tmp_path):
    made = make(tmp_path, text(VALUES))
    with pq.ParquetFile(made.folder / "embeddings.parquet") as file:
        keys = []
        for i in range(file.num_row_groups):
            group = file.read_row_group(i, columns=["split", "experiment", "plate"]).to_pydict()
            keys.append({tuple(values) for values in zip(*group.values())})
    assert all(len(key) == 1 for key in keys) and len(keys) == len(set.union(*keys)) == 12


def test_names_with_and_without_zeros_are_the_same_experiment(tmp_path):
    made = make(tmp_path, text({name.replace("-0", "-"): v for name, v in VALUES.items()}))
    same(made.by_id, VALUES)


@pytest.mark.parametrize("ending", ["\r\n", "\n"])
def test_harmless_differences_of_csv(tmp_path, ending):
    lines = text(VALUES).splitlines()
    lines[1:3] = ["", '"' + lines[1].replace(",", '",', 1), "  ", lines[2].replace(",", " , ")]
    expected = make(tmp_path, text(VALUES))
    made = make(tmp_path, "\ufeff" + ending.join(lines))  # a BOM and no last newline
    same(made.by_id, expected.by_id)
    header, *lines = text(VALUES).splitlines()
    content = "\n".join([header + ",experiment", *(f"{line},x" for line in lines)])
    same(make(tmp_path, content).by_id, expected.by_id)  # a column that is no value


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


def test_copies(tmp_path):
    a, b, c, d = list(VALUES)[:4]
    lines = text(VALUES).splitlines()
    lines += [lines[1], lines[1], f"{b},1,2,3", f"{c},1,nan,3"]
    lines += [f"{d},0,x,3"]
    lines[4] = f"{d},1,x,3"  # both copies bad
    made = make(tmp_path, "\n".join(lines))
    assert made.about["counts"]["duplicates"] == 2 and a in made.by_id
    np.testing.assert_array_equal(made.by_id[a], VALUES[a])
    reasons = {site_id: reason for site_id, reason, *_ in made.set_aside}
    assert reasons == {
        b: "2 embeddings that differ (embeddings.csv line 3, embeddings.csv line 58)",
        c: "2 embeddings that differ (embeddings.csv line 4, embeddings.csv line 59)",
        d: "feature_1 'x' is not a number (embeddings.csv line 5, embeddings.csv line 60)",
    }


def test_rows_without_embedding_and_embeddings_without_row(tmp_path, monkeypatch):
    monkeypatch.setattr(embeddings, "UNLISTED_NAMED", 3)
    given = {name: v for name, v in VALUES.items() if not name.startswith("RPE-01_10_")}
    extra = ["RPE-01_1_P24_1", "RPE-01_3_B02_1", "VERO-01_1_B02_1", "nothing", ""]
    given |= {name: np.zeros(DIM) for name in extra}
    made = make(tmp_path, text(given))
    assert [row[:2] for row in made.set_aside] == [
        (f"RPE-01_10_{well}_{s}", "no embedding") for well in ("AA01", "B02", "B03") for s in (1, 2)
    ]
    counts = made.about["counts"]
    assert counts["without_row"] == 5 and counts["rows"] == 48 and counts["set_aside"] == 6
    assert len(made.unlisted) == 3 and {row[0] for row in made.unlisted} < set(extra)
    assert all(row[1].startswith("embeddings.csv line ") for row in made.unlisted)


def test_rows_that_the_table_sets_aside(tmp_path):
    """They are named, and their embeddings are not without a row."""
    bad = SetAside(ROWS[0]["site_id"], "blank label (metadata.csv line 2)", "HUVEC-01", "train")
    twice = [ROWS[1] | {"cell_type": "RPE"}, ROWS[2]]
    made = make(tmp_path, text(VALUES), rows=[bad, *ROWS[1:], *twice])
    reasons = [(site_id, reason) for site_id, reason, *_ in made.set_aside]
    assert (bad.site_id, bad.reason) in reasons
    assert reasons.count((ROWS[1]["site_id"], "2 rows that disagree")) == 2
    assert sum(site_id == ROWS[2]["site_id"] and "duplicate row" in reason for site_id, reason in reasons) == 1
    assert made.unlisted == [] and made.about["counts"]["without_row"] == 0
    assert made.by_id.keys() == VALUES.keys() - {ROWS[0]["site_id"], ROWS[1]["site_id"]}


# ------------------------------------------------------------------------------------------------- whole wells


def test_wells_of_one_site_are_the_site(tmp_path):
    rows = [row for row in ROWS if row["site"] == 1]
    made = make(tmp_path, text(WELLS, key="well_id"), rows=rows)
    same(made.by_id, {f"{name}_1": v for name, v in WELLS.items()})
    assert set(made.columns["site"]) == {1} and made.about["embedding_of"] == "well" and made.about["notes"] == []


def test_wells_of_several_sites_are_rows_of_their_own(tmp_path):
    rows = [row for row in ROWS if row["site_id"] != "HUVEC-01_1_B02_1"]  # one well has its second site only
    rows = [row | ({"smiles": "C"} if row["site_id"] == "RPE-01_1_B03_2" else {}) for row in rows]
    made = make(tmp_path, text(WELLS, key="well_id"), rows=rows)
    torn = "RPE-01_1_B03"
    assert made.set_aside == [(torn, "its sites disagree about what is in the well", "RPE-01", "test")]
    same(made.by_id, {f"{name}_0": v for name, v in WELLS.items() if name != torn})
    assert set(made.columns["site"]) == {0} and [*made.about["notes"]] == [embeddings.WHOLE_WELLS]
    # An embedding of a whole well has seen the training site: it is never in-batch.
    assert made.about["counts"]["splits"] == {"train": 9, "id_test": 0, "val": 9, "test": 8}
    mixed = [row | {"split": "train"} if row["site_id"] == "RPE-01_1_B02_2" else row for row in ROWS]
    made = make(tmp_path, text(WELLS, key="well_id"), rows=mixed)
    assert made.about["counts"]["splits"] == {"train": 10, "id_test": 0, "val": 9, "test": 8}


# ------------------------------------------------------------------------------------------------------ Parquet


def parquet(values, key="well_id", dtype=np.float32, changes=()):
    """The bytes of a Parquet file of {id: values}."""
    table = {key: list(values)}
    table |= {f"feature_{i}": np.array([v[i] for v in values.values()], dtype) for i in range(DIM)}
    buffer = io.BytesIO()
    pq.write_table(pa.table(table | dict(changes)), buffer)
    return buffer.getvalue()


def tree(root):
    """Writes EXPERIMENT/PlateN/embeddings.parquet, as RxRx3's."""
    plates = {}
    for name, value in WELLS.items():
        experiment, plate, _ = name.split("_")
        plates.setdefault((experiment, plate), {})[name] = value
    for (experiment, plate), values in plates.items():
        folder = root / experiment / f"Plate{plate}"
        folder.mkdir(parents=True)
        (folder / "embeddings.parquet").write_bytes(parquet(values))
    return root


def tar(root, path):
    with tarfile.open(path, "w") as archive:
        for name in sorted(root.iterdir()):
            archive.add(name, name.name)
    return path


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


# ------------------------------------------------------------------------------------------- files and columns


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


def test_nothing_fits(tmp_path):
    with pytest.raises(UserError) as error:
        make(tmp_path, text({"HUVEC_1": np.zeros(DIM)}))
    assert "embeddings.csv line 2 has site_id HUVEC_1, the table has site_id HUVEC-01_1_AA01_1" in str(error.value)
    with pytest.raises(UserError, match="the table has no usable row"):
        make(tmp_path, text(VALUES), rows=[])


# ------------------------------------------------------------------------------------------------- the command


@pytest.fixture
def source(shared_data, tmp_path):
    """The real table of 20 sites of RxRx1, with made-up embeddings under names as the README writes them."""
    folder = tmp_path / "source"
    folder.mkdir()
    table = (shared_data / "rxrx1/published/metadata.csv").read_text()
    (folder / "metadata.csv").write_text(table)
    names = [row["site_id"] for row in csv.DictReader(io.StringIO(table))]
    values = {name.replace("-0", "-"): np.full(DIM, i) for i, name in enumerate(names)}
    (folder / "embeddings.csv").write_text(text(values))
    return folder


def run(*arguments):
    return prepare_embeddings.main([str(argument) for argument in arguments])


def test_the_command_on_real_rows(source, tmp_path, capsys):
    arguments = ("rxrx1", f"--source={source}", f"--out={tmp_path / 'out'}")
    assert run(*arguments) == 0
    folder = prepare_embeddings.find("rxrx1", tmp_path / "out")
    assert folder.parts[-3:-1] == ("rxrx1_embeddings", "default") and folder.parent.parent.parent == tmp_path / "out"
    made = look(folder)
    assert made.about["counts"]["splits"] == {"train": 8, "id_test": 8, "val": 4, "test": 0}
    table = {
        row["site_id"]: i for i, row in enumerate(csv.DictReader((source / "metadata.csv").read_text().splitlines()))
    }
    assert {name: value[0] for name, value in made.by_id.items()} == table
    assert set(made.columns["perturbation"]) == {"EMPTY"} and set(made.columns["perturbation_id"]) == {1138}
    shown = capsys.readouterr()
    assert "rows       train 8, id_test 8, val 4, test 0" in shown.out and f"probe_embeddings {folder}" in shown.out
    assert "MB/s" in shown.err or "B/s" in shown.err
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    before = (folder / "metadata.json").stat().st_mtime_ns
    assert run(*arguments, "--embeddings=nowhere") == 0  # nothing is read any more
    assert "exists and is left as it is" in capsys.readouterr().out
    assert (folder / "metadata.json").stat().st_mtime_ns == before


@pytest.mark.parametrize("exception", [KeyboardInterrupt, UserError("x"), OSError(28, "No space left on device")])
def test_a_stopped_build_leaves_nothing(source, tmp_path, monkeypatch, capsys, exception):
    def stop(*args):
        raise exception

    monkeypatch.setattr(embeddings, "_write", stop)
    arguments = ("rxrx1", f"--source={source}", f"--out={tmp_path / 'out'}")
    assert run(*arguments) == (130 if exception is KeyboardInterrupt else 1)
    assert capsys.readouterr().err.count("error: ") == (exception is not KeyboardInterrupt)
    assert [p for p in (tmp_path / "out").rglob("*") if p.is_file()] == []
    monkeypatch.undo()
    assert run(*arguments) == 0


def test_two_processes_at_once(source, tmp_path, monkeypatch):
    """The one that comes second keeps what the first has made."""
    folder = prepare_embeddings.find("rxrx1", tmp_path / "out")
    whole = embeddings.build

    def overtaken(builder, files, working, progress):
        whole(builder, files, working, progress)
        folder.mkdir()
        (folder / "metadata.json").write_text("of the other")

    monkeypatch.setattr(embeddings, "build", overtaken)
    prepare_embeddings.prepare("rxrx1", source, out=tmp_path / "out", progress=False)
    assert (folder / "metadata.json").read_text() == "of the other"
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_mistakes_of_the_command(source, tmp_path, capsys):
    for arguments, words in [
        (("nothing", f"--source={source}"), "no dataset is called 'nothing'"),
        (("rxrx1", f"--source={tmp_path / 'nowhere'}"), "nowhere does not exist"),
        (("rxrx1", f"--source={source}", f"--embeddings={tmp_path / 'x.csv'}"), "x.csv does not exist"),
        (("rxrx1", f"--source={tmp_path}", f"--embeddings={source}"), "metadata.csv"),
    ]:
        assert run(*arguments, f"--out={tmp_path / 'out'}") == 1
        error = capsys.readouterr().err
        assert words in error.splitlines()[-1] and error.count("error: ") == 1
    left = tmp_path / "out/rxrx1_embeddings/default"
    version = prepare_embeddings.find("rxrx1", tmp_path / "out").name
    (left / f"incomplete.abc_{version}").mkdir(parents=True)
    assert run("rxrx1", f"--source={source}", f"--out={tmp_path / 'out'}") == 0
    assert "is of a killed build: delete it if none runs" in capsys.readouterr().out


def test_details_of_something_else(tmp_path):
    with pytest.raises(UserError, match="is not a folder that prepare_embeddings made"):
        prepare_embeddings.details(tmp_path)


def test_rxrx3_rows_with_a_tree_of_plates(shared_data, tmp_path):
    """Six real rows of RxRx3's table, with blinded genes, controls and SMILES; embeddings by well."""
    source = tmp_path / "source"
    source.mkdir()
    content = (shared_data / "rxrx3/rxrx3_readme_example_rows.csv").read_text()
    (source / "metadata.csv").write_text(content)
    names = [row["well_id"] for row in csv.DictReader(io.StringIO(content))]
    for i, name in enumerate(names):
        experiment, plate, _ = name.split("_")
        folder = source / "embeddings" / experiment / f"Plate{plate}"
        folder.mkdir(parents=True)
        (folder / "embeddings.parquet").write_bytes(parquet({name: np.full(DIM, i), f"{name[:-2]}99": np.zeros(DIM)}))
    made = look(prepare_embeddings.prepare("rxrx3", source, out=tmp_path / "out", progress=False))
    assert {name: value[0] for name, value in made.by_id.items()} == {f"{n}_1": i for i, n in enumerate(names)}
    row = made.columns["site_id"].tolist().index("compound-001_19_D20_1")
    assert made.columns["smiles"][row].startswith("CC1=[N+](") and made.columns["concentration_um"][row] == 0.25
    assert made.about["counts"]["without_row"] == 6 and made.about["embedding_of"] == "well"
    assert pathlib.Path(made.about["embeddings"][0]).name == "embeddings.parquet"
