"""The tables of published results from a simulated tree in the published layout, with RxRx1's experiment names: what
`reproduce` prints is what a few lines say of the predictions that the runs stored."""

import csv

import numpy as np
import protocol_tools
import pyarrow.parquet as pq
import pytest

from rxrx_jax import reproduce, tables
from rxrx_jax.base import config_flag
from rxrx_jax.report import runs
from rxrx_jax.training import train


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return protocol_tools.published(tmp_path_factory.mktemp("rxrx1"))


def in_miniature(run, out, seed) -> dict:
    """The config of a run with a tiny network, few images and few steps."""
    values = config_flag.values(runs.command(run, out, seed)[3:])
    values["data"] |= {"minibatch": 8, "groups_per_minibatch": min(values["data"]["groups_per_minibatch"], 2)}
    values["augment"]["crop"] = 32
    values["optim"] = {"name": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 0.0, "clip_norm": 0.0}
    values |= {"evaluation_minibatch": 16, "log_steps": 1, "accumulate": 1, "total_steps": 4}
    if "decoder" in values["task"]:
        values["task"]["decoder"] = (16, 1, 2)
    if values["model"]["name"] == "vit":
        values["model"] |= {"variant": "XXS/8", "dtype": "float32"}
    else:
        values["model"] = {"name": "convnet", "widths": (4,)}
    if values.pop("evaluate_epochs", None):
        values["evaluate_steps"] = 2
    if not run.starts_from:
        values["init"]["path"] = ""
    values.pop("total_epochs")
    return values


def reproduced(monkeypatch, name, tree, out, rows):
    """table.csv as dicts, of rows whose runs are trained in this process; printed twice, with the same bytes."""

    def run_missing(todo, out, jobs, ended):
        todo = [(run, seed) for run, seed in todo if not runs.is_done(run, out, seed)]
        for run, seed in sorted(todo, key=lambda job: job[0].starts_from is not None):
            train.run(in_miniature(run, out, seed), runs.workdir(run.name, out, seed))

    monkeypatch.setattr(runs, "run_missing", run_missing)
    files = [out / file for file in ("table.md", "table.tex", "table.csv", "runs.md")]
    printed = []
    for _ in range(2):
        reproduce.reproduce(name, out, seeds=1, partial=True, data=tree[1], rows=rows)
        printed.append([file.read_bytes() for file in files])
    assert printed[0] == printed[1] and (out / "report.html").exists()
    with open(out / "table.csv", newline="") as file:
        found = list(csv.DictReader(file))
    chosen = [int(number) - 1 for number in rows.split(",")]
    trained = {run.name for run in tables.chain(tables.load(name), [tables.load(name).rows[i] for i in chosen])}
    for row in found:  # a number that was not measured is an empty cell
        first = row[tables.load(name).labels[0]]
        assert (row["seeds"] == "1") == (row["run"] in trained) == first.endswith("(partial)")
    return [found[i] for i in chosen]


def predictions(out, run):
    table = pq.read_table(runs.workdir(run, out, 0) / "predictions.parquet")
    return {key: np.array(values) for key, values in table.to_pydict().items()}


@pytest.mark.full
def test_wilds(monkeypatch, tree, tmp_path):
    erm, coral = reproduced(monkeypatch, "wilds", tree, tmp_path, "1,3")
    for row, run in ((erm, "erm"), (coral, "coral")):
        found = predictions(tmp_path, run)
        right = found["predicted"] == found["perturbation_id"]
        roles = {"test_ood": "cross_batch", "test_id": "in_batch", "validation": "validation"}
        for column, role in roles.items():
            assert float(row[column]) == pytest.approx(right[found["role"] == role].mean())
    assert (erm["published_test_ood"], erm["published_test_ood_sd"]) == ("0.299", "0.004")
    text = (tmp_path / "runs.md").read_text()
    assert "| 1, 15 | erm |  | 0 | [erm-seed0](<runs/erm-seed0>)" in text and "manifest" in text


@pytest.mark.full
def test_cellsignal_to_a_submission(monkeypatch, tree, tmp_path):
    (row,) = reproduced(monkeypatch, "cellsignal", tree, tmp_path, "2")
    with open(tree[0] / "metadata.csv", newline="") as file:
        truth = {well["well_id"]: well["sirna_id"] for well in csv.DictReader(file)}
    with open(runs.workdir("erm-controls", tmp_path, 0) / "submission.csv", newline="") as file:
        given = {line["id_code"]: line["sirna"] for line in csv.DictReader(file)}
    public = [truth[well] == label for well, label in given.items() if well.startswith("HUVEC-17")]
    private = {well: truth[well] == label for well, label in given.items() if not well.startswith("HUVEC-17")}
    others = [right for well, right in private.items() if not well.startswith("HUVEC-18")]
    assert float(row["public_hungarian"]) == pytest.approx(np.mean(public))
    assert float(row["private_hungarian"]) == pytest.approx(np.mean(list(private.values())))
    assert float(row["private_without_huvec_18"]) == pytest.approx(np.mean(others))
    assert "TC" in (tmp_path / "table.md").read_text()


@pytest.mark.full
def test_separated_and_stratified_four_numbers_each(monkeypatch, tree, tmp_path):
    separated, stratified = reproduced(monkeypatch, "cvprw2023", tree, tmp_path, "1,5")
    for row, run, words in ((separated, "baseline", "separated"), (stratified, "baseline-stratified", "stratified")):
        found = predictions(tmp_path, run)
        _, first = np.unique(found["well_id"], return_index=True)
        treated = found["well_type"] == "treatment"
        site, well = (found[key] == found["perturbation_id"] for key in ("predicted", "predicted_well"))
        assert float(row[f"{words}_site"]) == pytest.approx(site.mean())
        assert float(row[f"{words}_well"]) == pytest.approx(well[first].mean())
        assert float(row[f"{words}_site_no_controls"]) == pytest.approx(site[treated].mean())
        assert float(row[f"{words}_well_no_controls"]) == pytest.approx(well[first][treated[first]].mean())
    assert separated["stratified_site"] == "" == stratified["separated_site"]  # never in one column


@pytest.mark.full
def test_probes_of_a_chain(monkeypatch, tree, tmp_path, small_models):
    """Every printed number is balanced over classes, and the best block is the one that validation chooses."""
    rows = reproduced(monkeypatch, "mae_probe", tree, tmp_path, "1,2,3,10,11")
    best, last, untrained, handcrafted, spatial = (float(row["cross_batch_balanced"]) for row in rows)
    assert all(0 <= value <= 1 for value in (best, last, untrained, handcrafted, spatial))
    assert [row["marks"] for row in rows] == [""] * 5
