"""A csv file of SMILES: which columns are read, and what is said of cells that cannot be."""

import gzip

import numpy as np
import pytest

from rxrx_jax.base.errors import UserError
from tfds_builders.molecules import table


def write(folder, text, name="m.csv"):
    path = folder / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith("gz") else text.encode())
    return path


@pytest.mark.parametrize("name", ["m.csv", "m.csv.gz"])
@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_columns_are_found(tmp_path, name, mark):
    text = "id,SMILES,y,c\na,CCO,1.5,0\n\nb, CC ,,1\nc,nan,2,\n".replace(",", mark)
    found = table.read(write(tmp_path, text, name), targets=("*",))
    assert found.smiles == ["CCO", "CC", ""] and found.targets == ("y", "c")
    assert found.kinds == ("regression", "classification") and found.splits is None
    np.testing.assert_array_equal(found.values, np.array([[1.5, 0], [np.nan, 1], [2, np.nan]], np.float32))
    assert found.notes == ["1 columns are no targets, as they do not hold numbers alone: id"]


def test_one_column_of_smiles(tmp_path):
    found = table.read(write(tmp_path, "Drug\nCCO\n\nCC\n"))
    assert found.smiles == ["CCO", "", "CC"] and found.values.shape == (3, 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"smiles": "mol"}, r"no column 'mol' \(--smiles\); it has id, smiles, y"),
        ({"targets": ("y", "z")}, r"no column 'z' \(--targets\)"),
        ({"split": "fold"}, r"no column 'fold' \(--split\)"),
        ({"targets": ("smiles",)}, "--targets=smiles is the column of SMILES"),
    ],
)
def test_columns_that_there_are_not(tmp_path, arguments, message):
    with pytest.raises(UserError, match=message):
        table.read(write(tmp_path, "id,smiles,y\na,C,1\n"), **arguments)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("a,b\nC,1\n", "no column is called smiles; name it with --smiles=COLUMN, one of a, b"),
        ("smiles,smiles\nC,C\n", "two columns are called 'smiles'"),
        ('smiles\n"C\n', "not a csv file"),
        ("PK\x03\x04", "a zip archive or a spreadsheet"),
    ],
)
def test_files_that_are_no_tables(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        table.read(write(tmp_path, text))


def test_rows_that_cannot_be_used(tmp_path):
    text = "smiles,y,split\nC,1,Train\nCC,2,fold3\nCCC,3\nCCCC,4,valid\nCCCCC,5,TEST\n"
    found = table.read(write(tmp_path, text), targets=("y",), split="split")
    assert found.splits == ["train", "", "", "validation", "test"]
    assert found.bad == {1: "split is 'fold3' and not train, validation or test", 2: "2 cells in place of 3"}


def test_cells_that_are_no_numbers(tmp_path):
    found = table.read(write(tmp_path, "smiles,y,c\nC,high,1\nCC,inf,1\nCCC,N/A,1\nCCCC,2,\n"), targets=("y", "c"))
    assert np.isnan(found.values[:3, 0]).all() and found.values[3, 0] == 2
    assert found.notes == [
        "2 cells of y are not finite numbers and count as missing, the first is 'high' of row 0",
        "y has one value alone: no metric of it is defined that compares molecules",
        "c has one value alone: no metric of it is defined that compares molecules",
    ]
