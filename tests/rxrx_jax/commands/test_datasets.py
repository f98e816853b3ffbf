"""Images in memory are a dataset like a prepared folder of the same images."""

import json

import numpy as np
import pytest
import tiny

from rxrx_jax import data, datasets
from rxrx_jax.base.errors import UserError
from rxrx_jax.training import metrics, train
from tfds_builders import prepare
from tfds_builders.report import contents

CONFIG = "mae_vit.py:variant=XXS/16"
CHANGES = {"evaluators": {"embeddings": {}}, "protocol.name": "held_out_experiments"}


@pytest.fixture(scope="module")
def given(folder):
    """What a user has in memory: images [n, H, W, C] and a table, here those of a prepared folder."""
    found = data.read_dataset(prepare.prepare("rxrx_sim", out=folder, progress=False, **tiny.SCREEN))
    sites = found.sites
    whole = np.s_[:, :]
    images = np.stack([found.sources[split][int(i)][whole] for split, i in zip(sites.split, sites.index)])
    names = ("split", "cell_type", "experiment", "plate", "well", "site", "well_type", "perturbation")
    rows = list(contents._table(found.folder / "sites.csv", *names))
    table = dict(zip(names, map(list, zip(*rows))))
    return found, images, table | {"site": list(map(int, table["site"]))}


def test_a_dataset_of_arrays_is_that_of_the_folder(given):
    prepared, images, table = given
    found = datasets.from_arrays(images, table)
    for name in ("split", "index", "site_id", "well_id", "site", "well_type", "experiment", "plate", "cell_type"):
        assert np.array_equal(getattr(found.sites, name), getattr(prepared.sites, name)), name
    for name in ("experiments", "plates", "cell_types", "image_shape"):
        assert getattr(found, name) == getattr(prepared, name)
    for kind in ("dataset", "experiment", "plate"):
        assert np.allclose(found.mean[kind], prepared.mean[kind], rtol=1e-6)
        assert np.allclose(found.std[kind], prepared.std[kind], rtol=1e-6)
    # so that a stage on arrays knows what a stage on the folder has seen, and the other way round
    assert np.array_equal(data.pixel_digests(found), data.pixel_digests(prepared))
    names = [found.classes[label] for label in found.sites.label]
    assert names == [prepared.classes[label] for label in prepared.sites.label]


@pytest.mark.slow
def test_it_trains_to_the_same_parameters(given, folder, tmp_path):
    _, images, table = given
    one = train.run(tiny.values(CONFIG, folder, **CHANGES), tmp_path / "folder")
    found = datasets.from_arrays(images, table)
    other = train.run(tiny.values(CONFIG, folder, **CHANGES), tmp_path / "arrays", found)
    assert one["parameters_sha256"] == other["parameters_sha256"] and other["done"]
    losses = [[line["loss"] for line in metrics.read(tmp_path / run / "metrics.jsonl") if "loss" in line]
              for run in ("folder", "arrays")]  # fmt: skip
    assert losses[0] == losses[1]
    written = json.loads((tmp_path / "arrays" / "config.json").read_text())
    assert written["data"]["name"] == "arrays" and written["resolved"]["provenance"]["data"] == found.digest
    with pytest.raises(UserError, match="holds a run"):  # other images, another run
        train.run(tiny.values(CONFIG, folder, **CHANGES | {"seed": 1}), tmp_path / "arrays", found)


def test_what_is_not_said_has_defaults():
    images = np.arange(4 * 4 * 4 * 2, dtype=np.uint8).reshape(4, 4, 4, 2)
    table = {"experiment": ["b", "b", "a", "a"], "plate": [7, 7, 7, 7], "well": ["A01"] * 4}
    found = datasets.from_arrays(images, table)
    assert found.sites.site_id.tolist() == ["b_7_A01_1", "b_7_A01_2", "a_7_A01_1", "a_7_A01_2"]
    assert (found.sites.label == -1).all() and found.classes == [] and found.plates == ["a/7", "b/7"]
    assert (found.sites.split == "train").all() and found.cell_types == ["unspecified"]
    kinds = ["treatment"] * 3 + ["negative_control"]
    named = table | {"perturbation": ["z", None, float("nan"), "c"], "well_type": kinds}
    found = datasets.from_arrays(images, named)
    assert found.classes == ["z", "c"] and found.sites.label.tolist() == [0, -1, -1, 1]
    assert np.array_equal(found.sources["train"][2][0:2, 1:3], images[2, 0:2, 1:3])
    assert data.fingerprint(found) != data.fingerprint(datasets.from_arrays(images[::-1], named))


SPELLINGS = ["x", None, "NA", "None", "nan", "N/A", "-", " ", "null", "y "]
TYPES = {
    "dict": lambda table: table,
    "objects": lambda table: pandas().DataFrame(table),
    "nullable": lambda table: pandas().DataFrame(table).convert_dtypes(),
    "categories": lambda table: pandas().DataFrame(table).astype("category"),
}


def pandas():
    return pytest.importorskip("pandas")  # comes with the extra [anndata]


@pytest.mark.parametrize("kind", TYPES)
def test_a_table_is_read_as_the_builders_read_a_csv_file(kind, capsys):
    images = np.random.default_rng(0).integers(0, 256, (10, 4, 4, 2)).astype(np.uint8)
    table = {
        "experiment": ["a"] * 10,
        "plate": [7] * 10,
        "well": ["A1", "A01", "a001", *(f"B{i}" for i in range(1, 8))],
    }
    table = TYPES[kind](table | {"perturbation": SPELLINGS, "cell_type": ["U2OS", None, "NA"] + ["U2OS"] * 7})
    found = datasets.from_arrays(images, table)
    assert found.classes == ["x", "y"] and found.sites.label.tolist() == [0, *[-1] * 8, 1]
    assert found.sites.site_id.tolist()[:4] == ["a_7_A01_1", "a_7_A01_2", "a_7_A01_3", "a_7_B01_1"]
    assert found.cell_types == ["U2OS", "unspecified"] and found.sites.cell_type.tolist() == [0, 1, 1, *[0] * 7]
    if kind != "dict":
        missing = table.assign(plate=pandas().array([7] * 9 + [None], dtype="Int64"))
        with pytest.raises(UserError, match="table: plate of row 9 is empty"):
            datasets.from_arrays(images, missing)
        with pytest.raises(UserError, match="table has 2 columns plate; keep one"):
            datasets.from_arrays(images, pandas().concat([table, table[["plate"]]], axis=1))
    assert capsys.readouterr().err == ""


def test_equal_images_are_counted(capsys):
    """Those of one value are not; each channel of rows 0 and 4 has the sums of the other's."""
    images = np.random.default_rng(0).integers(0, 256, (6, 4, 4, 2)).astype(np.uint8)
    images[3] = images[2] = 5
    images[4] = images[0][::-1]
    images[5] = images[1]
    table = {"experiment": ["a"] * 6, "plate": ["1"] * 6, "well": [f"A0{i}" for i in range(1, 7)]}
    datasets.from_arrays(images, table)
    pair = "a_1_A06_1 ({}) and a_1_A02_1 (train)\n"
    assert capsys.readouterr().err == "images that equal that of an earlier row: 1, such as " + pair.format("train")
    datasets.from_arrays(images, table | {"split": ["train"] * 5 + ["test"]})
    first, second = capsys.readouterr().err.splitlines(keepends=True)
    assert first.startswith(
        "WARNING: images in one split that equal one in a different split, so that scores are partly memory: 1"
    )
    assert first.endswith(pair.format("test")) and second.endswith(pair.format("test"))


OK = {"experiment": ["a", "b"], "plate": ["1", "1"], "well": ["A01", "A01"]}
MISTAKES = {
    "float": (np.zeros((2, 4, 4, 1)), OK, "images are float64[2, 4, 4, 1]: expected uint8"),
    "no channel": (np.zeros((2, 4, 4), np.uint8), OK, "images are uint8[2, 4, 4]"),
    "no plate": (None, {"experiment": ["a", "b"]}, "table has no column plate; it has experiment"),
    "rows": (None, OK | {"well": ["A01"]}, "table has 1 rows of well for 2 images"),
    "empty": (None, OK | {"plate": ["1", None]}, "table: plate of row 1 is empty"),
    "split": (None, OK | {"split": ["train", "dev"]}, "table: split 'dev': expected train, id_test, val, test"),
    "twice": (None, OK | {"experiment": ["a", "a"], "site": [1, 1]}, "table: a_1_A01_1 (experiment, plate"),
    "no well": (None, OK | {"well": ["A01", "zzz"]}, "table: well 'zzz' of row 1 is not a well of A01..AF48"),
    "one name": (
        None,
        OK | {"experiment": ["a", "a_1"], "plate": ["1_1", "1"]},
        "table: two plates would have the name",
    ),
    "large site": (None, OK | {"site": [1, 2**32 + 1]}, "table: the column site must hold integers from 0 to 999,999"),
    "site": (None, OK | {"site": ["x", "y"]}, "table: the column site must hold integers"),
}


@pytest.mark.parametrize(("images", "table", "why"), MISTAKES.values(), ids=list(MISTAKES))
def test_mistakes_are_one_line(images, table, why):
    images = np.zeros((2, 4, 4, 1), np.uint8) if images is None else images
    with pytest.raises(UserError) as caught:
        datasets.from_arrays(images, table)
    assert str(caught.value).startswith(why) and "\n" not in str(caught.value)
