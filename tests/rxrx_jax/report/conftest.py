"""A run on a tiny simulated screen with everything that its page can show, and that page."""

import json
import types

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny import SCREEN

from rxrx_jax import data
from rxrx_jax.base import embeddings
from rxrx_jax.data.builders import builders
from rxrx_jax.evaluate import predictions
from rxrx_jax.evaluate.embeddings import columns
from rxrx_jax.report import __main__ as command
from rxrx_jax.report import pictures

pictures.has_umap = lambda: False  # it compiles for as long as all of these tests take

EVIL = "<script>alert('no')</script>"


@pytest.fixture(scope="session")
def explored(tmp_path_factory):
    """run: its workdir; page: the path of its report.html; dataset; table: the columns of its embeddings, in which one
    perturbation is called `evil`; embedding: [n, 6], in which its wells are alike."""
    folder = tmp_path_factory.mktemp("explored")
    dataset = data.read_dataset(builders().prepare("rxrx_sim", out=folder / "data", progress=False, **SCREEN))
    table = columns(dataset, np.arange(len(dataset.sites)))
    table["perturbation"] = np.where(table["perturbation_id"] == 0, EVIL, table["perturbation"])
    rng = np.random.default_rng(0)
    embedding = rng.normal(size=(len(dataset.sites), 6))
    embedding[table["perturbation"] == EVIL] = [9, 9, 9, 0, 0, 0]
    run = folder / "<run>"
    run.mkdir()
    embeddings.write(run / embeddings.NAME, table, embedding.astype(np.float32))
    called = table["perturbation_id"].astype(np.int32)
    shifted = (called + 1 + table["plate"]) % len(dataset.classes)
    called = np.where(table["experiment"] == "SIMB-01", shifted, called)  # each plate is wrong in its own way
    pq.write_table(pa.table(table | {"predicted_well": called.astype(np.int32)}), run / predictions.NAME)
    config = {
        "data": {"name": "rxrx_sim", "folder": str(folder / "data"), "builder": {k: v for k, v in SCREEN.items()}},
        "protocol": {"name": "held_out_experiments"},
        "task": {"name": "classify"},
        "resolved": {"provenance": {"data": f"fingerprint {data.fingerprint(dataset)}"}},
    }
    (run / "config.json").write_text(json.dumps(config))
    final = {"step": 50, "final": True, "marks/cross_batch": "T", "leakage/experiment_accuracy": 0.9}
    final |= {"leakage/experiment_floor": 0.25, "in_batch/site_accuracy": 0.8, "cross_batch/site_accuracy": 0.5}
    final |= {"cross_batch/experiments": json.dumps({"SIMB": ["SIMB-01", "SIMB-02"]})}
    final |= {"cross_batch/site_accuracy/SIMB-01": 0.2, "cross_batch/site_accuracy/SIMB-02": 0.8}
    post_hoc = {"adabn/cross_batch/site_accuracy": 0.6, "marks/adabn/cross_batch": "T"}
    lines = [{"step": s, "loss": 3 - s / 50, "accuracy": s / 100} for s in range(10, 60, 10)]
    lines += [final | post_hoc, {"step": 50, "done": True, "parameters_sha256": "abc", "cpu_seconds": 1.0}]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    command.main([str(run)])
    page = run / "report.html"
    return types.SimpleNamespace(run=run, page=page, dataset=dataset, table=table, embedding=embedding, evil=EVIL)
