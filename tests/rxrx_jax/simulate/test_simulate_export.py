"""The written forms of the simulated screen: columns, paths, labels, and pixels equal to render_site."""

import csv

import numpy as np
import pytest
from PIL import Image

from rxrx_jax.simulate.picture import montage
from rxrx_jax.simulate.screen import Screen, render_site, sites, write_kaggle, write_published

TINY = Screen(
    treatments=4, replicates=1, positive_controls=1, positive_wells=1, untreated_wells=1, image_size=32,
    train=("SIMA-01",), val=("SIMB-01",), test=("SIMC-01",),
)  # fmt: skip


def read(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def load(folder, row):
    names = [f"Plate{row['plate']}/{row['well']}_s{row['site']}_w{c}.png" for c in range(1, 7)]
    return np.stack([np.asarray(Image.open(folder / row["experiment"] / name)) for name in names], axis=-1)


def test_published_form(tmp_path):
    write_published(TINY, tmp_path)
    rows, table = sites(TINY), read(tmp_path / "metadata.csv")
    assert list(table[0]) == [
        "site_id", "well_id", "cell_type", "dataset", "experiment", "plate", "well", "site", "well_type",
        "sirna", "sirna_id",
    ]  # fmt: skip
    assert len(table) == len(rows) == 3 * 4 * 3 * 2
    for row, line in zip(rows, table):
        assert line["site_id"] == row["site_id"] and line["sirna"] == row["perturbation"]
        assert line["sirna_id"] == str(row["perturbation_id"])
        assert line["dataset"] == ("train" if row["experiment"] == "SIMA-01" else "test")
    assert len(list(tmp_path.glob("images/*/Plate?/*.png"))) == 6 * len(rows)
    for row in rows[::17]:
        np.testing.assert_array_equal(load(tmp_path / "images", row), render_site(TINY, row))
    assert read(tmp_path / "splits.csv") == [
        {"experiment": "SIMA-01", "split": "train"},
        {"experiment": "SIMB-01", "split": "val"},
        {"experiment": "SIMC-01", "split": "test"},
    ]


@pytest.mark.parametrize("strings", [False, True])
def test_kaggle_form(tmp_path, strings):
    write_kaggle(TINY, tmp_path, strings=strings)
    names = ("train", "test", "train_controls", "test_controls")
    tables = {name: read(tmp_path / f"{name}.csv") for name in names}
    assert list(tables["train"][0]) == ["id_code", "experiment", "plate", "well", "sirna"]
    assert list(tables["test"][0]) == ["id_code", "experiment", "plate", "well"]
    for name in ("train_controls", "test_controls"):
        assert list(tables[name][0]) == ["id_code", "experiment", "plate", "well", "sirna", "well_type"]
    assert {name: len(rows) for name, rows in tables.items()} == {
        "train": 4, "test": 8, "train_controls": 8, "test_controls": 16,
    }  # fmt: skip
    wells = {row["well_id"]: row for row in sites(TINY)}
    labels = {}
    for line in tables["train"] + tables["train_controls"] + tables["test_controls"]:
        row = wells[line["id_code"]]
        assert labels.setdefault(row["perturbation_id"], line["sirna"]) == line["sirna"]
    if strings:
        assert labels[5] == "UNTREATED"
        assert sorted(labels[i] for i in range(5)) == [f"sirna_{i}" for i in range(5)]
    else:
        assert labels == {i: str(i) for i in range(6)}
    assert len({line["id_code"] for rows in tables.values() for line in rows}) == len(wells)
    for row in sites(TINY)[::29]:
        folder = tmp_path / ("train" if row["experiment"] == "SIMA-01" else "test")
        np.testing.assert_array_equal(load(folder, row), render_site(TINY, row))
    assert (tmp_path / "splits.csv").exists()


def test_montage(tmp_path):
    montage(TINY, tmp_path / "sheet.png")
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert sheet.shape == (3 * 34, 6 * 34, 3) and sheet.max() > 100


def test_the_command_writes_a_tree(tmp_path, capsys):
    from rxrx_jax.base import command
    from rxrx_jax.simulate import export

    settings = ["treatments=4", "replicates=1", "image_size=32", "train=SIMA-01", "val=SIMB-01", "test=SIMC-01"]
    export.main(["--out", str(tmp_path / "tree"), "--form", "kaggle", "--set", *settings])
    assert f"to {tmp_path}/tree as kaggle" in capsys.readouterr().out
    assert (tmp_path / "tree" / "train_controls.csv").exists()
    export.main(["--out", str(tmp_path / "shards"), "--form", "rxrx3_core_webdataset", "--set", *settings])
    assert (tmp_path / "shards" / "data" / "00000.tar").exists()
    assert command.run(export.main, ["--out", str(tmp_path / "tree"), "--set", *settings]) == 2
    assert "is not empty" in capsys.readouterr().err
    assert command.run(export.main, ["--out", str(tmp_path / "new"), "--set", "seed=one"]) == 2
    assert capsys.readouterr().err == "error: seed='one': use a value of type int\n"
