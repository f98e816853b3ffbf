"""Protocols without a table of their own, through `reproduce` on a simulated tree in the published layout with RxRx1's
experiment names: what the table prints is what a few lines say of the predictions and embeddings that the runs stored.
The network is a linear head on handcrafted features after two steps."""

import csv

import numpy as np
import protocol_tools
import pyarrow.parquet as pq
import pytest

from rxrx_jax import reproduce
from rxrx_jax.base import config_flag, embeddings
from rxrx_jax.evaluate.protocols import huvec_16_4_4
from rxrx_jax.report import runs
from rxrx_jax.training import train

TABLE = """
from rxrx_jax.report import columns
from rxrx_jax.tables import Column, Row, Run, Table

PROTOCOLS = {
    "wilds_id": "wilds_id", "wilds_mixed": "wilds_mixed", "huvec": "huvec_16_4_4",
    "cell_type": "held_out_cell_type:cell_type=RPE", "k_shot": "k_shot:cell_type=HUVEC,k=1",
    "context": "context:given=cell_type+plate",
}
COLUMNS = {role: f"{role}/site_accuracy" for role in ("in_batch", "validation", "in_batch_wells", "cross_batch")}
COLUMNS |= {name: f"/neighbours/{name}/cross_batch/site_accuracy" for name in ("knn_10", "class_mean")}
TABLE = Table(
    title="Protocols", labels=("protocol",), rows=[Row((name,), name) for name in PROTOCOLS],
    columns=[Column(name, metric, columns.mean) for name, metric in COLUMNS.items()],
    runs=[Run(name, "convnet.py:data=rxrx1,normalisation=image", overrides={"protocol.name": protocol})
          for name, protocol in PROTOCOLS.items()],
)
"""
ROLES = {
    "wilds_id": ("in_batch", "validation"), "wilds_mixed": ("in_batch", "validation"),
    "huvec": ("validation", "cross_batch"), "cell_type": ("in_batch", "validation", "cross_batch"),
    "k_shot": ("in_batch", "in_batch_wells", "cross_batch"),  # the tree has no validation experiment of other cells
    "context": ("in_batch", "validation", "cross_batch"),
}  # fmt: skip


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    """(the table's rows by protocol as dicts, the folder of the runs)."""
    folder = tmp_path_factory.mktemp("protocols")
    _, data = protocol_tools.published(folder)
    (folder / "protocols.py").write_text(TABLE)

    def run_missing(todo, out, jobs, ended):
        for run, seed in todo:
            values = config_flag.values(runs.command(run, out, seed)[3:])
            values |= {"evaluation_minibatch": 64, "log_steps": 1, "total_steps": 2, "model": {"name": "handcrafted"}}
            values["evaluators"] = {"accuracy": {}, "predictions": {}, "embeddings": {}}
            values["data"]["minibatch"], values["augment"]["crop"] = 8, 32
            values.pop("total_epochs")
            train.run(values, runs.workdir(run.name, out, seed))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "run_missing", run_missing)
        patch.setattr(huvec_16_4_4, "EVALUATORS", {"neighbours": {"k": (10,)}})  # its probe takes a minute
        reproduce.reproduce(str(folder / "protocols.py"), folder / "out", seeds=1, partial=True, data=data)
    with open(folder / "out" / "table.csv", newline="") as file:
        rows = {row["run"]: row for row in csv.DictReader(file)}
    assert all(row["protocol"] == f"{name} (partial)" for name, row in rows.items())
    return rows, folder / "out"


def stored(out, name):
    """(columns of the predictions, columns and vectors of the embeddings) of a run."""
    workdir = runs.workdir(name, out, 0)
    table = pq.read_table(workdir / "predictions.parquet").to_pydict()
    return {key: np.array(values) for key, values in table.items()}, *embeddings.read(workdir)


@pytest.mark.full
@pytest.mark.parametrize("name", ROLES)
def test_accuracies_are_those_of_the_stored_predictions(printed, name):
    rows, out = printed
    found, _, _ = stored(out, name)
    right = found["predicted"] == found["perturbation_id"]
    assert set(found["role"]) == set(ROLES[name])
    for role in ("in_batch", "validation", "in_batch_wells", "cross_batch"):
        here = found["role"] == role
        assert rows[name][role] == "" if role not in ROLES[name] else float(rows[name][role]) == right[here].mean()
    held_out = {"cell_type": ("RPE", ["RPE-01", "RPE-09"]), "k_shot": ("HUVEC", None), "huvec": ("HUVEC", ["HUVEC-21"])}
    if name in held_out:
        (cell_type, experiments), here = held_out[name], found["role"] == "cross_batch"
        assert set(found["cell_type"][here]) == {cell_type}
        assert experiments is None or sorted(set(found["experiment"][here])) == experiments


@pytest.mark.full
def test_neighbours_and_prototypes_are_those_of_the_stored_embeddings(printed):
    rows, out = printed
    found, columns, x = stored(out, "huvec")
    label, fit = columns["perturbation_id"], np.isin(columns["experiment"], ("HUVEC-01", "HUVEC-02"))
    scored = columns["experiment"] == "HUVEC-21"
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    near = np.argsort(-(unit[scored] @ unit[fit].T), axis=1, kind="stable")[:, :10]
    votes = np.stack([np.bincount(label[fit][one], minlength=1139) for one in near])
    right = (votes.argmax(1) == label[scored]).mean()
    assert float(rows["huvec"]["knn_10"]) == pytest.approx(right, abs=1.5 / scored.sum())  # equal similarities

    found, columns, x = stored(out, "k_shot")
    label, site, of_role = columns["perturbation_id"], columns["site_id"], dict(zip(found["site_id"], found["role"]))
    role = np.array([of_role.get(one, "") for one in site])
    support = (role == "") & (columns["cell_type"] == "HUVEC")
    scored, mean, deviation = role == "cross_batch", x[support].mean(0), x[support].std(0)
    z = (x - mean) / np.where(deviation > 0, deviation, 1)
    classes = np.unique(label[support])
    means = np.stack([z[support & (label == one)].mean(0) for one in classes])
    right = classes[((z[scored, None] - means) ** 2).sum(2).argmin(1)] == label[scored]
    assert len(classes) == 8 + 1 + 1 and float(rows["k_shot"]["class_mean"]) == pytest.approx(right.mean())
