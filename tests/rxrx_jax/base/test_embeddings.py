"""The embeddings file: round trips, parts of it, and damage."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from paths import ROOT

from rxrx_jax.base import embeddings
from rxrx_jax.base.errors import UserError


def table(experiments=("A-01", "A-02", "B-01"), plates=(1, 2, 10), wells=5):
    """columns and embedding [n, 4], sorted by experiment and plate."""
    keys = [(e, p, w) for e in experiments for p in plates for w in range(wells)]
    experiment, plate, well = map(np.array, zip(*keys))
    columns = {
        "site_id": np.array([f"{e}_{p}_B{w:02d}_1" for e, p, w in keys]),
        "experiment": experiment,
        "plate": plate,
        "concentration": np.where(well == 0, np.nan, well / 10),
        "smiles": np.array(["", "C", "CC=C \u03bc"])[well % 3],
    }
    return columns, np.random.default_rng(0).normal(size=(len(keys), 4)).astype(np.float32)


def same(found, expected):
    (columns, embedding), (wanted, values) = found, expected
    np.testing.assert_array_equal(embedding, values)
    assert embedding.dtype == np.float32 and list(columns) == list(wanted)
    for name in wanted:
        np.testing.assert_array_equal(columns[name], wanted[name], err_msg=name)


@pytest.fixture
def small_groups(monkeypatch):
    monkeypatch.setattr(embeddings, "GROUP", 1)


def test_what_is_written_is_read(tmp_path):
    columns, embedding = table()
    embeddings.write(tmp_path / "embeddings.parquet", columns, embedding)
    for path in (tmp_path, tmp_path / "embeddings.parquet", str(tmp_path)):
        same(embeddings.read(path), (columns, embedding))
    read, _ = embeddings.read(tmp_path)
    kinds = {name: values.dtype for name, values in read.items()}
    assert kinds == {"site_id": object, "experiment": object, "plate": np.int32, "concentration": np.float64,
                     "smiles": object}  # fmt: skip
    assert {type(value) for value in read["smiles"]} == {str}
    assert [path.name for path in tmp_path.iterdir()] == ["embeddings.parquet"]


def test_plain_parquet_readers_see_the_schema(tmp_path):
    columns, embedding = table()
    embeddings.write(tmp_path / "e.parquet", columns, embedding)
    found = pq.read_table(tmp_path / "e.parquet")
    assert found.schema.field("embedding").type == pa.list_(pa.field("element", pa.float32(), False), 4)
    np.testing.assert_array_equal(np.array(found["embedding"].to_pylist(), np.float32), embedding)
    assert found["site_id"].to_pylist() == columns["site_id"].tolist()


def test_no_rows(tmp_path):
    columns, embedding = table()
    none = {name: values[:0] for name, values in columns.items()}
    embeddings.write(tmp_path / "e.parquet", none, embedding[:0])
    read, values = embeddings.read(tmp_path / "e.parquet")
    assert values.shape == (0, 4) and all(len(v) == 0 for v in read.values())


def test_two_rows_of_a_site_are_refused(tmp_path):
    columns, embedding = table()
    columns["site_id"][[7, 30]] = columns["site_id"][3]
    embeddings.write(tmp_path / "e.parquet", columns, embedding)
    with pytest.raises(UserError, match="e.parquet has two rows of site A-01_1_B03_1, the second in row 7: keep one"):
        embeddings.read(tmp_path / "e.parquet")
    same(embeddings.read(tmp_path / "e.parquet", "B-01"), tuple_of(columns, embedding, columns["experiment"] == "B-01"))
    columns["site_id"][:] = ""  # none is named
    embeddings.write(tmp_path / "e.parquet", columns, embedding)
    same(embeddings.read(tmp_path / "e.parquet"), (columns, embedding))


def tuple_of(columns, embedding, kept):
    return {name: values[kept] for name, values in columns.items()}, embedding[kept]


def test_a_written_file_is_whole_or_not_there(tmp_path):
    columns, embedding = table()
    with pytest.raises(ValueError, match="columns of .44, 45. rows for 45 embeddings"):
        embeddings.write(tmp_path / "e.parquet", columns | {"plate": columns["plate"][1:]}, embedding)
    with pytest.raises(pa.ArrowException):
        bad = columns | {"smiles": np.array([1, *columns["smiles"][1:]], object)}
        embeddings.write(tmp_path / "e.parquet", bad, embedding)
    assert not (tmp_path / "e.parquet").exists()


def test_row_groups_end_with_a_plate(tmp_path, monkeypatch):
    columns, embedding = table()
    counts = {}
    for size in (1, 6, 1000):
        monkeypatch.setattr(embeddings, "GROUP", size)
        embeddings.write(tmp_path / "e.parquet", columns, embedding)
        metadata = pq.read_metadata(tmp_path / "e.parquet")
        counts[size] = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
        same(embeddings.read(tmp_path / "e.parquet"), (columns, embedding))
    assert counts == {1: [5] * 9, 6: [10, 10, 10, 10, 5], 1000: [45]}


@pytest.mark.parametrize(
    "experiments, plates, groups",
    [
        (["A-02"], None, 3),
        ("A-02", None, 3),
        (["B-01", "A-01"], None, 6),
        (None, ["A-02/10"], 1),
        (None, "B-01/2", 1),
        (None, ["A-01/1", "B-01/10"], 2),
        (["A-01"], ["A-01/1", "A-01/2"], 2),
        ([], None, 0),
        (None, None, 9),
    ],
)
def test_a_part_reads_its_row_groups_only(tmp_path, small_groups, monkeypatch, experiments, plates, groups):
    columns, embedding = table()
    embeddings.write(tmp_path / "e.parquet", columns, embedding)
    read = []
    whole = pq.ParquetFile.read_row_group
    monkeypatch.setattr(pq.ParquetFile, "read_row_group", lambda self, i: read.append(i) or whole(self, i))
    found = embeddings.read(tmp_path / "e.parquet", experiments, plates)
    names = [f"{e}/{p}" for e, p in zip(columns["experiment"], columns["plate"])]
    keep = np.ones(len(names), bool)
    keep &= experiments is None or np.isin(columns["experiment"], experiments)
    keep &= plates is None or np.isin(names, plates)
    same(found, ({name: values[keep] for name, values in columns.items()}, embedding[keep]))
    assert len(read) == groups


def test_a_part_of_a_file_in_one_row_group(tmp_path):
    columns, embedding = table()
    order = np.random.default_rng(0).permutation(len(embedding))
    columns, embedding = {name: values[order] for name, values in columns.items()}, embedding[order]
    embeddings.write(tmp_path / "e.parquet", columns, embedding)
    keep = (columns["experiment"] == "A-02") & (columns["plate"] == 10)
    found = embeddings.read(tmp_path / "e.parquet", plates=["A-02/10"])
    same(found, ({name: values[keep] for name, values in columns.items()}, embedding[keep]))
    keep = columns["experiment"] == "B-01"
    found = embeddings.read(tmp_path / "e.parquet", experiments=["B-01"])
    same(found, ({name: values[keep] for name, values in columns.items()}, embedding[keep]))


@pytest.mark.parametrize(
    "selection, words",
    [
        ({"experiments": ["A-01", "C-01"]}, "e.parquet has no experiment 'C-01'"),
        ({"experiments": ["A-011"]}, "has no experiment 'A-011'"),
        ({"plates": ["A-01/3"]}, "has no plate 'A-01/3'"),
        ({"plates": ["A-01/x", "A-01/1"]}, "has no plate 'A-01/x'"),
        ({"plates": ["1"]}, "has no plate '1'"),
        ({"experiments": ["A-01"], "plates": ["A-02/1"]}, "has no"),
    ],
)
def test_a_part_that_is_not_there(tmp_path, small_groups, selection, words):
    columns, embedding = table()
    embeddings.write(tmp_path / "e.parquet", columns, embedding)
    with pytest.raises(UserError, match=words):
        embeddings.read(tmp_path / "e.parquet", **selection)


def test_files_that_are_something_else(tmp_path):
    with pytest.raises(UserError, match="nowhere does not exist"):
        embeddings.read(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"embeddings.parquet does not exist"):
        embeddings.read(tmp_path)
    for kind in (pa.list_(pa.float32()), pa.list_(pa.float64(), 2), None):
        table = {"site_id": ["a"]} | ({"embedding": pa.array([[1.0, 2.0]], kind)} if kind else {})
        pq.write_table(pa.table(table), tmp_path / "e.parquet")
        with pytest.raises(UserError, match="e.parquet is not an embeddings file: it needs a column 'embedding'"):
            embeddings.read(tmp_path / "e.parquet")
    values = pa.array([[1.0, 2.0], None], pa.list_(pa.float32(), 2))
    pq.write_table(pa.table({"site_id": ["a", None], "embedding": values}), tmp_path / "e.parquet")
    with pytest.raises(UserError, match="rows without an embedding|Expected all lists"):
        embeddings.read(tmp_path / "e.parquet")
    with pytest.raises(UserError, match="has no column experiment"):
        embeddings.read(tmp_path / "e.parquet", experiments=["A-01"])
    full = pa.array([[1.0, 2.0], [3.0, 4.0]], pa.list_(pa.float32(), 2))
    pq.write_table(pa.table({"site_id": ["a", None], "embedding": full}), tmp_path / "e.parquet")
    columns, embedding = embeddings.read(tmp_path / "e.parquet")  # of another program: a null is blank text
    assert columns["site_id"].tolist() == ["a", ""] and embedding.tolist() == [[1, 2], [3, 4]]


def test_damage_is_noticed(tmp_path):
    """Also inside the numbers: pages have checksums. (The footer has none, and pyarrow may not survive a wrong one.)"""
    columns, embedding = table()
    path = tmp_path / "e.parquet"
    embeddings.write(path, columns, embedding)
    whole = path.read_bytes()
    footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    noticed = 0
    for at in np.random.default_rng(0).integers(4, footer, 100):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        try:
            _, values = embeddings.read(path)
            np.testing.assert_array_equal(values, embedding)
        except UserError as error:
            assert "e.parquet cannot be read" in str(error) and "\n" not in str(error)
            noticed += 1
    assert noticed > 50
    for content in (b"", b"PAR1", whole[:-1], whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(UserError, match="cannot be read"):
            embeddings.read(path)


def test_nothing_of_the_project_names_the_old_file():
    sources = [path for folder in ("rxrx_jax", "tests", "configs") for path in (ROOT / folder).rglob("*.py")]
    old = "embeddings." + "npz"
    assert len(sources) > 100
    assert [str(path) for path in [*sources, ROOT / "README.md"] if old in path.read_text()] == []
