"""Profiles are read as they were written, from every format and from tables of others; what cannot be used is named."""

import dataclasses
import gzip

import numpy as np
import pandas
import pytest
from map_tools import screen

from rxrx_jax.base.errors import UserError
from rxrx_jax.maps import foreign, table

SUFFIXES = (".parquet", ".csv", ".h5ad")


@pytest.fixture(scope="module")
def profiles():
    found = screen()
    return dataclasses.replace(found, features=found.features.astype(np.float32))


def same(found, expected):
    np.testing.assert_array_equal(found.features.astype(np.float32), expected.features)  # text has no width
    for name, values in expected.columns.items():
        np.testing.assert_array_equal(found.find(name), values, err_msg=name)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("names", ["rxrx_jax", "cytominer"])
def test_every_format_is_read_as_it_was_written(profiles, tmp_path, suffix, names):
    if suffix == ".h5ad":
        pytest.importorskip("anndata", reason="anndata is not installed")
    path = tmp_path / f"screen{suffix}"
    table.write(profiles, path, names)
    same(table.read(path), profiles)
    assert list(tmp_path.iterdir()) == [path]


def test_parquet_to_h5ad_to_parquet(profiles, tmp_path):
    anndata = pytest.importorskip("anndata", reason="anndata is not installed")
    table.write(profiles, tmp_path / "a.parquet")
    table.write(table.read(tmp_path / "a.parquet"), tmp_path / "b.h5ad")
    table.write(table.read(tmp_path / "b.h5ad"), tmp_path / "c.parquet")
    same(table.read(tmp_path / "c.parquet"), profiles)
    found = anndata.read_h5ad(tmp_path / "b.h5ad")
    np.testing.assert_array_equal(found.X, profiles.features)
    assert found.obs["perturbation"].tolist() == profiles.columns["perturbation"].tolist()
    frame = pandas.read_parquet(tmp_path / "c.parquet")
    np.testing.assert_array_equal(np.stack(frame["embedding"]), profiles.features)


def test_a_sparse_matrix_and_integers(tmp_path):
    anndata = pytest.importorskip("anndata", reason="anndata is not installed")
    import scipy.sparse

    x = np.array([[0, 1, 2], [3, 0, 0]])
    index = pandas.Index(["a", "b"])
    about = pandas.DataFrame({"gene": pandas.Categorical(["TP53", "MYC"])}, index=index)
    anndata.AnnData(scipy.sparse.csr_matrix(x), about).write_h5ad(tmp_path / "a.h5ad")
    found = table.read(tmp_path / "a.h5ad")
    np.testing.assert_array_equal(found.features, x)
    assert found.features.dtype == np.float64 and found.column("gene").tolist() == ["TP53", "MYC"]


def test_tables_of_others(tmp_path):
    """pycytominer's names; a numbered run beside other columns; text that looks like a number stays text."""
    path = tmp_path / "profiles.csv.gz"
    rows = "Metadata_Plate,Metadata_target_gene,Cells_Area,Nuclei_Area\n007,TP53,1,2.5\n010,MYC,3,\n"
    path.write_bytes(gzip.compress(rows.encode()))
    found = table.read(path)
    assert found.names == ("Cells_Area", "Nuclei_Area") and found.column("plate").tolist() == ["007", "010"]
    assert found.column("target_gene").tolist() == ["TP53", "MYC"] and np.isnan(found.features[1, 1])
    (tmp_path / "b.csv").write_text("gene,count_1,dose,feature_0,feature_1,feature_2\nA,1,.5,1,2,3\nB,2,,4,5,6\n")
    found = table.read(tmp_path / "b.csv")
    assert found.names == ("feature_0", "feature_1", "feature_2") and set(found.columns) == {"gene", "count_1", "dose"}
    assert found.columns["count_1"].dtype == np.int64


def test_metadata_of_rxrx3_are_joined_by_well(tmp_path):
    (tmp_path / "e.csv").write_text("well_id,feature_0,feature_1\ngene-001_1_A01,1,2\ngene-001_1_A02,3,4\n")
    head = "well_id,experiment_name,plate,address,gene,treatment,SMILES,concentration,perturbation_type,cell_type\n"
    lines = ["gene-001_1_A02,gene-001,1,A02,SRC,SRC_guide_2,,,CRISPR,HUVEC\n",
             "gene-001_1_A01,gene-001,1,A01,,EMPTY_control,,,CRISPR,HUVEC\n"]  # fmt: skip
    metadata = tmp_path / "m.csv"
    metadata.write_text(head + "".join(lines))
    found = table.read(tmp_path / "e.csv", metadata=metadata)
    assert found.column("perturbation").tolist() == ["EMPTY_control", "SRC_guide_2"]
    assert found.column("experiment").tolist() == ["gene-001"] * 2 and found.column("well").tolist() == ["A01", "A02"]
    metadata.write_text(head + lines[0])
    with pytest.raises(UserError, match="m.csv has no row of well_id gene-001_1_A01$"):
        table.read(tmp_path / "e.csv", metadata=metadata)
    metadata.write_text(head + lines[0] + lines[1] + lines[0])
    with pytest.raises(UserError, match="m.csv has two rows of well_id gene-001_1_A02$"):
        table.read(tmp_path / "e.csv", metadata=metadata)
    metadata.write_text("other,thing\n1,2\n")
    with pytest.raises(UserError, match="m.csv shares no column with .*e.csv"):
        table.read(tmp_path / "e.csv", metadata=metadata)


def test_files_of_plates_are_read_together(tmp_path):
    (tmp_path / "a.csv").write_text("Metadata_Plate,Metadata_x,f,g,h\n1,a,1,2,3\n")
    (tmp_path / "b.csv").write_text("Metadata_Plate,h,f\n007,6,4\n008,9,7\n")
    found = table.read(tmp_path / "a.csv", tmp_path / "b.csv")
    assert found.names == ("f", "h") and found.columns.keys() == {"Metadata_Plate"}
    np.testing.assert_array_equal(found.features, [[1, 3], [4, 6], [7, 9]])
    assert found.column("plate").tolist() == ["1", "007", "008"]
    (tmp_path / "c.csv").write_text("Metadata_Plate,q\n1,6\n")
    with pytest.raises(UserError, match="a.csv and .*c.csv have no feature in common"):
        table.read(tmp_path / "a.csv", tmp_path / "c.csv")


def damaged_parquet(path):
    table.write(screen(), path)
    path.write_bytes(path.read_bytes()[:-20])


FILES = {
    "none.parquet": (None, "does not exist"),
    "a.txt": ("x", r"expected a file named \*.parquet, \*.csv, \*.csv.gz, \*.h5ad"),
    "pointer.parquet": ("version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a Git LFS pointer"),
    "pointer.csv": ("version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a Git LFS pointer"),
    "pointer.h5ad": ("version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a Git LFS pointer"),
    "damaged.parquet": (damaged_parquet, "cannot be read"),
    "damaged.h5ad": ("not HDF5", "cannot be read"),
    "empty.csv": ("", "cannot be read"),
    "rows.csv": ("gene,feature_0,feature_1\n", "has no rows"),
    "plain.csv": ("gene,dose\nA,1\n", "has no embeddings: neither Metadata_"),
    "twice.csv": ("Metadata_gene,a,a\nA,1,2\n", "has two columns named a"),
    "text.csv": ("Metadata_gene,a,b\nA,1,2\nB,x,3\n", "column a: .*'x'"),
    "objects.parquet": (
        lambda path: pandas.DataFrame({"Metadata_g": ["A"], "a": [1.0], "b": ["x"]}).to_parquet(path),
        "column b holds .*string and not numbers",
    ),  # fmt: skip
}


@pytest.mark.parametrize("name", FILES)
def test_what_is_not_a_table_is_one_line(name, tmp_path):
    content, words = FILES[name]
    path = tmp_path / name
    if callable(content):
        content(path)
    elif content is not None:
        path.write_text(content)
    if name.endswith("h5ad"):
        pytest.importorskip("anndata", reason="anndata is not installed")
    with pytest.raises(UserError, match=words) as caught:
        table.read(path)
    assert name in str(caught.value) and "\n" not in str(caught.value)


def test_invalid_rows_and_features_are_named_or_counted(profiles):
    x = profiles.features.copy()
    for change, words in (
        ((3, 2, np.nan), "well_id w3 has a NaN or infinite value of embedding_2; --drop-invalid"),
        ((5, 1, np.inf), "well_id w5 has a NaN or infinite value of embedding_1"),
        ((7, slice(None), 0), "well_id w7 has only zeros"),
        ((slice(None), 4, 2.0), "feature embedding_4 is the same in every row"),
    ):
        bad = x.copy()
        bad[change[0], change[1]] = change[2]
        with pytest.raises(UserError, match=words):
            table.check(dataclasses.replace(profiles, features=bad))
    bad = x.copy()
    bad[:, 4], bad[3, 2], bad[7] = 2, np.nan, 0
    found, dropped = table.check(dataclasses.replace(profiles, features=bad), drop=True)
    assert dropped == {
        "rows not finite": 1, "rows of zeros": 1, "rows that are there twice": 0, "constant features": 1
    }  # fmt: skip
    kept = np.delete(np.arange(len(x)), [3, 7])
    np.testing.assert_array_equal(found.features, np.delete(x[kept], 4, axis=1))
    assert found.column("well_id").tolist() == [f"w{i}" for i in kept] and "embedding_4" not in found.names
    with pytest.raises(UserError, match="no row or no feature is left"):
        table.check(dataclasses.replace(profiles, features=np.full_like(x, np.nan)), drop=True)


@pytest.mark.parametrize("ids", [{"well_id"}, {"site_id"}, {"well_id", "site"}, set()])
def test_a_row_that_is_there_twice_is_named_or_counted(profiles, ids):
    """By its site, its well, or, where a table has neither, by all that it holds."""
    columns = {name: values.copy() for name, values in profiles.columns.items() if name != "well_id"}
    names = {"well_id": profiles.columns["well_id"], "site_id": profiles.columns["well_id"],
             "site": np.arange(len(profiles))}  # fmt: skip
    columns |= {name: names[name] for name in ids}
    own = dataclasses.replace(profiles, columns=columns)
    twice = own.take(np.append(np.arange(len(own)), 3))
    with pytest.raises(
        UserError, match="is there twice, .* 3.*; --drop-invalid leaves one out and counts it$"
    ) as caught:
        table.check(twice)
    assert not ids or "_id w3 is" in str(caught.value)
    found, dropped = table.check(twice, drop=True)
    np.testing.assert_array_equal(found.features, own.features)
    assert dropped["rows that are there twice"] == 1
    other = dataclasses.replace(twice, features=twice.features + np.eye(len(twice))[-1][:, None])
    if ids:
        with pytest.raises(UserError, match="and they differ: remove one$"):
            table.check(other, drop=True)
    else:
        assert table.check(other)[1]["rows that are there twice"] == 0


def test_sites_of_a_well_are_not_one_row(profiles):
    columns = profiles.columns | {
        "well_id": np.repeat("w0", len(profiles)).astype(object),
        "site": np.arange(len(profiles)),
    }
    assert len(table.check(dataclasses.replace(profiles, columns=columns))[0]) == len(profiles)


def test_a_missing_column_is_named_with_those_there_are(profiles):
    with pytest.raises(
        UserError, match="has no column plate; it has concentration_um, experiment, perturbation, well_id"
    ):
        profiles.column("plate")
    assert foreign.value_columns(["a", "b"]) == [] and foreign.value_columns(["a1", "b"]) == []


def test_codes_number_the_combinations():
    text, number = np.array(["b", "a", "b", "a"], object), np.array([1.0, np.nan, 2.0, np.nan])
    codes, first = table.codes([text, number])
    assert codes.tolist() == [1, 0, 2, 0] and first.tolist() == [1, 0, 2]
