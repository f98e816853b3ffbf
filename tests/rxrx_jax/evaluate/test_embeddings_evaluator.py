"""The evaluator that writes the embeddings file of a run: its columns are those of sites.csv."""

import csv
import types

import numpy as np
import tiny

from rxrx_jax import data
from rxrx_jax.base import embeddings
from rxrx_jax.evaluate import embeddings as evaluator
from tfds_builders import prepare


def test_the_evaluator_writes_the_columns_of_sites_csv(tmp_path):
    folder = prepare.prepare("rxrx_sim", out=tmp_path, progress=False, **tiny.SCREEN)
    dataset = data.read_dataset(folder)
    rows = np.random.default_rng(0).permutation(len(dataset.sites))
    values = np.random.default_rng(1).normal(size=(len(rows), 6))
    context = types.SimpleNamespace(
        dataset=dataset,
        workdir=tmp_path,
        embeddings=lambda reading="": (rows, values + (reading != "")),
        marks=lambda rows: "T",
        ledger=None,
    )
    found = list(evaluator.evaluate(context))
    assert found == [("embeddings/sites", len(rows)), ("marks/embeddings", "T")]
    assert embeddings.read_provenance(tmp_path) is None  # without a ledger nothing is known
    columns, embedding = embeddings.read(tmp_path)
    np.testing.assert_array_equal(embedding, values.astype(np.float32))
    listed = list(csv.DictReader((folder / "sites.csv").read_text().splitlines()))
    assert list(columns) == [name for name in listed[0] if name in columns] and len(columns) == 11
    for name, found in columns.items():
        assert found.astype(str).tolist() == [listed[row][name] for row in rows], name


def test_the_evaluator_with_labels_that_the_source_withholds():
    sites = types.SimpleNamespace(**{
        name: np.array(["x_1_B02"] * 3) for name in ("split", "site_id", "well_id", "well_type")
    }, site=np.ones(3, np.int32), label=np.array([1, -1, 0], np.int32), experiment=np.zeros(3, int),
        plate=np.zeros(3, int), cell_type=np.zeros(3, int))  # fmt: skip
    dataset = types.SimpleNamespace(
        sites=sites, experiments=["E"], plates=["E/12"], cell_types=["C"], classes=["no", "yes"]
    )
    found = evaluator.columns(dataset, np.arange(3))
    assert found["perturbation"].tolist() == ["yes", "", "no"] and found["perturbation_id"].tolist() == [1, -1, 0]
    assert found["plate"].tolist() == [12] * 3 and found["well"].tolist() == ["B02"] * 3
