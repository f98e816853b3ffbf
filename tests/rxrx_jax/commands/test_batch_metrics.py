"""The command: what it prints, where it puts the numbers, and what it refuses."""

import json
import shutil

import numpy as np
import pytest

from rxrx_jax import batch_metrics
from rxrx_jax.base import command, embeddings
from rxrx_jax.base.seen import Seen
from rxrx_jax.simulate import design
from rxrx_jax.training import metrics

LINES = [
    {"step": 5, "final": False, "cross_batch/site_accuracy": 0.25},
    {"step": 9, "final": True, "cross_batch/site_accuracy": 0.5, "leakage/plate_floor": 0.125},
    {"step": 9, "done": True, "code": "0"},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A finished run whose embeddings tell the perturbation and the experiment."""
    small = dict(treatments=4, replicates=2, positive_controls=2, positive_wells=2, untreated_wells=4)
    rows = design.sites(design.Screen(**small))
    names = ("split", "site_id", "well_id", "cell_type", "experiment", "plate", "site", "well_type", "perturbation_id")
    columns = {name: np.array([row[name] for row in rows]) for name in names}
    random = np.random.default_rng(0)
    x = random.normal(size=(len(rows), 8)) + 2 * random.normal(size=(40, 8))[columns["perturbation_id"]]
    x += 2 * random.normal(size=(40, 8))[np.unique(columns["experiment"], return_inverse=True)[1]]
    path = tmp_path_factory.mktemp("run")
    metadata = embeddings.provenance("C", Seen().to_bytes(names=False))
    embeddings.write(path / embeddings.NAME, columns, x.astype(np.float32), metadata)
    (path / metrics.NAME).write_text("".join(json.dumps(line) + "\n" for line in LINES))
    return path


@pytest.fixture
def run(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "run")


def start(*arguments):
    return command.run(batch_metrics.main, [str(argument) for argument in arguments])


def test_the_numbers_of_a_run_are_printed_and_recorded_with_its_others(run, capsys):
    assert start(run, "--correct", "centre_scale_experiment") == 0
    said = capsys.readouterr().out
    assert "as they are [C]\n" in said and "\ncentre_scale_experiment [TC]\n" in said
    assert said.endswith(f"recorded in {run / metrics.NAME}\n")
    lines = metrics.read(run / metrics.NAME)
    assert (lines[0], lines[2]) == (LINES[0], LINES[2])
    found = lines[1]
    assert found["cross_batch/site_accuracy"] == 0.5 and found["leakage/plate_floor"] == 0.25
    assert found["marks/batch_metrics"] == "C" and found["marks/centre_scale_experiment/batch_metrics"] == "TC"
    assert found["batch_metrics/pcr"] > 0.2 > found["centre_scale_experiment/batch_metrics/pcr"]
    assert found["batch_metrics/code"].startswith("0.")
    shown = dict(line.split()[:2] for line in said.splitlines() if line.startswith(("batch_metrics/", "leakage/")))
    for key in ("leakage/experiment_accuracy", "batch_metrics/ilisi", "batch_metrics/retrieved"):
        assert shown[key] == f"{found[f'centre_scale_experiment/{key}']:.4f}"  # the later of the two tables
    ilisi = next(line for line in said.splitlines() if line.startswith("batch_metrics/ilisi"))
    assert ilisi.split()[1:] == [f"{found['batch_metrics/ilisi']:.4f}", f"{found['batch_metrics/ilisi_shuffled']:.4f}"]


def test_again_it_changes_nothing(run, capsys):
    argv = run, "--metrics", "pcr", "lisi"
    assert start(*argv) == 0
    once = (run / metrics.NAME).read_bytes()
    assert start(*argv) == 0 and (run / metrics.NAME).read_bytes() == once
    assert b"consistency" not in once and b"leakage/experiment" not in once
    assert {path.name for path in run.iterdir()} == {metrics.NAME, embeddings.NAME}


def test_without_a_finished_run_they_are_printed_alone(run, capsys):
    text = "".join((run / metrics.NAME).read_text().splitlines(True)[:2])
    (run / metrics.NAME).write_text(text)
    assert start(run / embeddings.NAME, "--metrics=pcr") == 0
    assert capsys.readouterr().out.endswith(f"{run} is not a finished run: nothing is recorded\n")
    assert (run / metrics.NAME).read_text() == text
    (run / metrics.NAME).unlink()
    assert start(run, "--metrics=pcr") == 0 and "recorded" not in capsys.readouterr().out
    assert [path.name for path in run.iterdir()] == [embeddings.NAME]


def test_embeddings_of_unknown_origin_are_marked_so(run, capsys):
    columns, x = embeddings.read(run)
    embeddings.write(run / embeddings.NAME, columns, x)
    assert start(run, "--metrics=pcr") == 0 and capsys.readouterr().out.startswith("as they are [?]\n")


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda columns, x: (columns | {"well_type": None}, x), "leakage needs a column well_type"),
        (lambda columns, x: (columns, x * np.nan), "embeddings hold NaN or infinite values"),
        (lambda columns, x: (columns | {"experiment": np.full(len(x), "A")}, x), "no cell type has two with known"),
        (lambda columns, x: (columns | {"experiment": np.full(len(x), "")}, x), "row 0 of the embeddings has no exp"),
        (lambda columns, x: (columns | {"perturbation_id": columns["perturbation_id"] - 9}, x), "use -1 for one"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_one_line(run, change, said, capsys):
    columns, x = change(*embeddings.read(run))
    before = (run / metrics.NAME).read_bytes()
    embeddings.write(run / embeddings.NAME, {k: v for k, v in columns.items() if v is not None}, x)
    assert start(run) == 2
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1 and (run / metrics.NAME).read_bytes() == before


def test_a_metric_that_there_is_not(run, capsys):
    with pytest.raises(SystemExit):
        start(run, "--metrics", "psr")
    assert "choose from 'leakage', 'silhouette'" in capsys.readouterr().err.replace("leakage,", "'leakage',")
