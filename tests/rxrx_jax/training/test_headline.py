"""The whole path at the scale of a ViT-S: a tree in RxRx1's layout and WILDS's split, masked autoencoder,
batch-adversarial fine-tuning, linear probes and cross-batch table, on two processes, with a kill in every stage."""

import csv
import json
import signal
import time

import numpy as np
import pytest
from hosts_tools import finish, start

from rxrx_jax import reproduce, tables
from rxrx_jax.base import embeddings, seen
from rxrx_jax.base.config import load
from rxrx_jax.report import runs
from rxrx_jax.simulate.screen import Screen, write_published
from rxrx_jax.training import metrics
from tfds_builders import prepare
from tfds_builders.common.rows import splits

pytestmark = pytest.mark.full
# Numbered as WILDS divides HUVEC and RPE, whose names they take in the tree: 6 experiments of 2 plates of 4 wells.
SCREEN = Screen(
    image_size=48, treatments=4, positive_controls=1, replicates=1, positive_wells=1, untreated_wells=1, plates=2,
    train=("SIMA-01", "SIMA-02", "SIMB-01"), val=("SIMA-17",), test=("SIMA-18", "SIMB-09"),
)  # fmt: skip
CELL_TYPES = {"SIMA": "HUVEC", "SIMB": "RPE"}
SITES = {"train": 24, "id_test": 24, "val": 16, "test": 32}
SCORED = {"in_batch": 24, "validation": 16, "cross_batch": 32}
STEPS, SAVED, BROKEN = 6, 4, 5  # of a stage: in all, at the last checkpoint before, and when one host is killed
VICTIMS = {"mae": 1, "dann": 0, "probe_dann": 1}  # stage: the host that is killed; 0 is the one that writes
PROVENANCE = ("code", "data", "device", "flax", "jax", "numpy", "python")
# What a user would write: the recipes of the papers, cut down to minutes of two cores. The encoder is a whole ViT-S.
TABLE = """
from rxrx_jax.report import columns
from rxrx_jax.tables import Column, Row, Run, Table

SHORT = {{
    "data.folder": {folder!r}, "data.minibatch": 8, "augment.crop": 32, "model.dtype": "float32", "total_epochs": 2.0,
    "evaluation_minibatch": 16, "log_steps": 1, "checkpoint_steps": 2, "watchdog_timeout_seconds": 120.0,
}}
TABLE = Table(
    title="A ViT-S on a screen in RxRx1's layout",
    labels=("method", "normalisation"),
    runs=[
        Run("mae", "mae_vit.py:rxrx1,variant=S/16", overrides=SHORT | {{"task.decoder": (64, 1, 4)}}),
        Run("dann", "dann_vit.py:rxrx1,variant=S/16", "mae", SHORT | {{"optim.warmup_epochs": 0.5}}),
        Run("probe", "linear_probe.py:rxrx1,variant=S/16", "mae", SHORT),
        Run("probe_dann", "linear_probe.py:rxrx1,variant=S/16,normalisation=plate", "dann", SHORT),
    ],
    rows=[
        Row(("MAE, then DANN", "image"), "dann"),
        Row(("linear probe trained by SGD: MAE", "image"), "probe"),
        Row(("linear probe: MAE", "image"), "probe", "probe/pretrained/none/"),
        Row(
            ("linear probe: MAE, standardised per experiment", "image"),
            "probe",
            "probe/pretrained/centre_scale_experiment/",
        ),
        Row(("linear probe: MAE, then DANN", "plate"), "probe_dann", "probe/pretrained/none/"),
    ],
    columns=[
        Column("marks", summary=columns.marks),
        Column("in-batch", "in_batch/site_accuracy", columns.mean, strip="in"),
        Column("cross-batch", "cross_batch/site_accuracy", columns.spread, strip="cross"),
        Column("95 % interval", "cross_batch/site_accuracy", columns.interval, key="ci", strip="interval"),
    ],
)
"""


def write_tree(root) -> None:
    """The simulated screen in RxRx1's own experiments and labels, which WILDS divides, so without splits.csv."""
    write_published(SCREEN, root)
    (root / "splits.csv").unlink()
    for folder in list((root / "images").iterdir()):
        folder.rename(folder.with_name(in_rxrx1(folder.name)))
    rows = list(csv.DictReader(in_rxrx1((root / "metadata.csv").read_text()).splitlines()))
    labels = {SCREEN.treatments: "1108", SCREEN.classes - 1: "1138"}  # the positive control, and untreated
    with open(root / "metadata.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(row | {"sirna_id": labels.get(int(row["sirna_id"]), row["sirna_id"])} for row in rows)


def in_rxrx1(text: str) -> str:
    for ours, theirs in CELL_TYPES.items():
        text = text.replace(ours, theirs)
    return text


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    root = tmp_path_factory.mktemp("rxrx1")
    write_tree(root / "tree")
    return prepare.prepare("rxrx1", root / "tree", root / "data", 1, progress=False)


@pytest.fixture(scope="module")
def table(prepared, tmp_path_factory):
    """The path of the user's table."""
    path = tmp_path_factory.mktemp("mine") / "mine.py"
    path.write_text(TABLE.format(folder=str(prepared.parents[2])))
    return path


def config_of(run, out) -> dict:
    """The values that `runs.command` gives the trainer."""
    values = load(run.seeded(0))
    start = {"init.path": str(runs.workdir(run.starts_from, out, 0))} if run.starts_from else {}
    for key, value in (run.overrides | start).items():
        *parents, last = key.split(".")
        node = values
        for parent in parents:
            node = node[parent]
        assert last in node, key
        node[last] = value
    return values


def killed(workdir, values, victim: int) -> None:
    """A run on two hosts of which one is killed when its newest checkpoint is that of step SAVED."""
    hosts = start(workdir, values, processes=2, faults=[(victim, "faults:at_minibatch", BROKEN, "sleep", 600)])
    end = time.monotonic() + 300
    while not (workdir / "checkpoints" / str(SAVED)).is_dir():
        assert time.monotonic() < end and all(p.is_alive() for p in hosts.processes), hosts.log(0) + hosts.log(1)
        time.sleep(0.05)
    hosts.signal(victim, signal.SIGKILL)
    codes = hosts.wait(120)
    assert codes[victim] == -signal.SIGKILL and codes[1 - victim] != 0
    assert not metrics.finished(workdir / metrics.NAME)


def complete(workdir, values) -> str:
    """A run on two hosts to its end; what it printed."""
    workdir.parent.mkdir(parents=True, exist_ok=True)
    codes, hosts = finish(workdir, values, processes=2)
    assert codes == [0, 0], hosts.log(0) + hosts.log(1)
    return hosts.log()


@pytest.fixture(scope="module")
def out(table, tmp_path_factory):
    """The folder of the table, with all its runs: those of VICTIMS were killed once and restarted."""
    out = tmp_path_factory.mktemp("out")
    for run in tables.load(str(table)).runs:
        workdir, values = runs.workdir(run.name, out, 0), config_of(run, out)
        workdir.parent.mkdir(exist_ok=True)
        if run.name in VICTIMS:
            killed(workdir, values, VICTIMS[run.name])
        log = complete(workdir, values)
        assert (f"resuming {workdir} from step {SAVED}" in log) == (run.name in VICTIMS), log
    return out


def workdirs(out) -> dict:
    return {name: runs.workdir(name, out, 0) for name in ("mae", "dann", "probe", "probe_dann")}


def final(workdir) -> dict:
    return next(line for line in metrics.read(workdir / metrics.NAME) if line.get("final"))


def losses(workdir) -> list:
    return [(line["step"], line["loss"]) for line in metrics.read(workdir / metrics.NAME) if "loss" in line]


def test_the_tree_is_prepared_whole_in_the_split_of_wilds(prepared):
    assert prepare.split_sizes(prepared) == SITES
    about = prepare.details(prepared)
    assert (about["split_by"], about["label_space"], about["set_aside"]) == ("WILDS rxrx1_v1.0", "published", 0)
    with open(prepared / "sites.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["experiment"]: splits.WILDS[row["experiment"]] for row in rows} == {
        row["experiment"]: row["split"].replace("id_test", "train") for row in rows
    }
    assert {row["cell_type"] for row in rows} == set(CELL_TYPES.values())


@pytest.mark.parametrize("name", ["mae", "dann"])
def test_a_stage_that_lost_a_host_ends_with_the_same_bits(name, table, out, tmp_path):
    run = next(run for run in tables.load(str(table)).runs if run.name == name)
    workdir, whole = workdirs(out)[name], tmp_path / f"{name}-seed0"
    assert "resuming" not in complete(whole, config_of(run, out))
    ends = [metrics.finished(folder / metrics.NAME) for folder in (workdir, whole)]
    assert ends[0]["parameters_sha256"] == ends[1]["parameters_sha256"]
    assert ends[0]["parameters"] > 21e6  # a ViT-S
    assert losses(workdir) == losses(whole) and [step for step, _ in losses(workdir)] == list(range(2, STEPS + 1))
    assert final(workdir) == final(whole)
    assert (workdir / seen.NAME).read_bytes() == (whole / seen.NAME).read_bytes()


def test_every_site_is_scored_and_embedded_once(out):
    for name, workdir in workdirs(out).items():
        found = final(workdir)
        counts = {key: value for key, value in found.items() if key.endswith("/sites") and key != "embeddings/sites"}
        assert counts == {key: SCORED[key.split("/")[-2]] for key in counts} and (counts or name == "mae")
        assert "unreadable" not in found and metrics.finished(workdir / metrics.NAME)["unreadable"] == 0
        if name in ("mae", "dann"):
            columns, vectors = embeddings.read(workdir)
            assert len(set(columns["site_id"])) == len(columns["site_id"]) == sum(SITES.values()) == len(vectors)
            assert np.isfinite(vectors).all() and vectors.shape[1] == 384


def test_what_was_seen_is_united_over_the_stages(out):
    found = {name: seen.read(workdir / seen.NAME) for name, workdir in workdirs(out).items()}
    counts = {name: (of.count("labels"), of.count("images"), of.count("controls")) for name, of in found.items()}
    assert counts == {  # the last has plate statistics of all sites
        "mae": (0, 24, 0), "dann": (24, 24, 0), "probe": (24, 24, 0), "probe_dann": (24, sum(SITES.values()), 0),
    }  # fmt: skip
    assert {name: of.stages() for name, of in found.items()} == {
        "mae": [], "dann": ["dann-seed0 (classify)"], "probe": ["probe-seed0 (probe)"],
        "probe_dann": ["dann-seed0 (classify)"],  # which has used the same labels before it
    }  # fmt: skip
    assert not any(of.unknown for of in found.values())


def test_marks_say_who_used_held_out_images(out):
    for name, workdir in workdirs(out).items():
        found = {key: mark for key, mark in final(workdir).items() if key.startswith("marks/")}
        plate = name == "probe_dann"
        assert found and found == {key: "T" if plate or "/centre_scale_experiment/" in key else "" for key in found}
        assert metrics.finished(workdir / metrics.NAME)["transductive"] is plate


def test_provenance_is_in_the_config_and_in_the_last_line(out):
    of_all = []
    for workdir in workdirs(out).values():
        resolved = json.loads((workdir / "config.json").read_text())["resolved"]
        last = metrics.finished(workdir / metrics.NAME)
        assert resolved["provenance"] == {key: last[key] for key in PROVENANCE}
        assert "provenance_before" not in resolved and resolved["provenance"]["device"] == "2 x cpu"
        of_all.append(resolved["provenance"])
    assert all(one == of_all[0] for one in of_all)


def test_the_table_is_made_of_the_runs_as_they_are(table, out, capsys):
    before = {workdir: (workdir / metrics.NAME).read_bytes() for workdir in workdirs(out).values()}
    lines = reproduce.reproduce(str(table), out)
    printed = capsys.readouterr()
    assert "4 runs are done, 0 to do" in printed.out and "stale" not in printed.err
    assert before == {workdir: (workdir / metrics.NAME).read_bytes() for workdir in before}
    with open(out / "table.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [line.marks for line in lines] == [row["marks"] for row in rows] == ["", "", "", "T", "T"]
    for row in rows:
        found = final(workdirs(out)[row["run"]])
        for column, role in (("in_batch", "in_batch"), ("cross_batch", "cross_batch")):
            assert float(row[column]) == found[f"{row['prefix']}{role}/site_accuracy"]
        low, high = (found[f"{row['prefix']}cross_batch/site_accuracy_ci_{end}"] for end in ("low", "high"))
        assert [float(row["ci_low"]), float(row["ci_high"])] == pytest.approx([low, high])
    assert (out / "report.html").stat().st_size > 10_000 and (out / "table.md").exists()
