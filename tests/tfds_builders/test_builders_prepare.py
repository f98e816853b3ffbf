"""The command line: what it prints and what it refuses."""

import os
import subprocess
import sys

import pytest
import tensorflow_datasets as tfds
from builders_tools import SCREEN, SCREEN_FIELDS, VERSION, build
from paths import ROOT

from rxrx_jax.base.command import run
from rxrx_jax.simulate import screen as simulate
from tfds_builders import prepare

SMALL = [f"--set={key}={','.join(v) if isinstance(v, tuple) else v}" for key, v in SCREEN_FIELDS.items()]
SMALL_NAME = (
    "image_size_32-plates_2-positive_controls_1-positive_wells_1-replicates_1-test_SIMB-02"
    "-train_SIMA-01+SIMB-01-treatments_4-untreated_wells_1-val_SIMA-02"
)


def environment(**more):
    return {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error", **more}


def command(*arguments, **variables):
    return subprocess.run(
        [sys.executable, "-m", "tfds_builders.prepare", *map(str, arguments)],
        env=environment(**variables), capture_output=True, text=True, timeout=60,
    )  # fmt: skip


def test_prepares_and_says_where_and_how_much(tmp_path):
    done = command("rxrx_sim", f"--out={tmp_path}", "--workers=2", *SMALL)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "rxrx_sim" / SMALL_NAME / VERSION
    for line in (
        f"preparing {folder}",
        "train 16, id_test 16, val 16, test 16",
        "set aside  0",
        f"{folder}/report.html",
    ):
        assert line in done.stdout, done.stdout
    assert "64/64" in done.stderr and "sites/s" in done.stderr and "MB/s" in done.stderr
    assert len(tfds.builder_from_directory(folder).as_data_source("val")) == 16

    again = command("rxrx_sim", *SMALL, TFDS_DATA_DIR=str(tmp_path))
    assert again.returncode == 0 and f"{folder} exists and is left as it is" in again.stdout
    assert "train 16, id_test 16" in again.stdout and "sites/s" not in again.stderr


def test_says_what_the_user_should_know_about_a_source(tmp_path):
    simulate.write_kaggle(SCREEN, tmp_path / "kaggle", strings=True)
    done = command("rxrx1", f"--source={tmp_path}/kaggle", f"--out={tmp_path}/out")
    assert done.returncode == 0, done.stderr
    assert "NOT the published" in done.stdout and "sites have no label" in done.stdout
    again = command("rxrx1", "--source=elsewhere", f"--out={tmp_path}/out")
    assert f"it was prepared from {tmp_path}/kaggle, not from elsewhere" in again.stdout


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["rxrx9"], ["'rxrx9'", "rxrx1, rxrx19a, rxrx19b, rxrx1_wilds, rxrx2, rxrx3, rxrx3_core, rxrx_sim"]),
        (
            ["rxrx1"],
            ["rxrx1-images.zip", "rxrx1-metadata.zip", "python -m tfds_builders.prepare rxrx1 --source=DIR"],
        ),
        (["rxrx1", "--source=nowhere"], ["nowhere is not a folder", "rxrx1-images.zip"]),
        (["rxrx_sim", "--set=colour=red"], ["'colour'", "layout"]),
        (["rxrx_sim", "--set=seed"], ["--set seed", "NAME=VALUE"]),
        (["rxrx_sim", "--set=seed=one"], ["seed='one'", "int"]),
    ],
)
def test_mistakes_are_one_line_without_a_traceback(tmp_path, arguments, words):
    done = command(*arguments, f"--out={tmp_path}")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    assert all(word in done.stderr for word in words), done.stderr


@pytest.mark.parametrize(
    "options, words",
    [
        (["--experiments=bogus"], "experiments=bogus: the source has no such experiment; it has SIMA-01, SIMA-02"),
        (["--source=x"], "rxrx_sim is simulated: leave out --source="),
    ],
)
def test_a_choice_of_nothing_leaves_nothing(tmp_path, capsys, options, words):
    (tmp_path / "there").mkdir()
    assert run(prepare.main, ["rxrx_sim", *options, *SMALL, f"--out={tmp_path}/there/out"]) == 2
    assert words in capsys.readouterr().err and not list((tmp_path / "there").iterdir())


def test_tfds_opens_a_dataset_by_its_name_alone(tmp_path):
    simulate.write_published(SCREEN, tmp_path / "tree")
    build(tmp_path / "tree", tmp_path)
    for name in ("rxrx1", "rxrx1/default", "rxrx1/default:2.0.0"):
        assert len(tfds.data_source(name, data_dir=tmp_path, split="train")) == 16
    (tmp_path / "rxrx1/.config/metadata.json").unlink()  # as a folder of an earlier version
    prepare.prepare("rxrx1", out=tmp_path, progress=False)
    assert len(tfds.data_source("rxrx1", data_dir=tmp_path, split="val")) == 16


def test_builds_without_tensorflow(tmp_path):
    code = f"""
import sys
import tensorflow_datasets as tfds
from tfds_builders.prepare import prepare
folder = prepare("rxrx_sim", out={str(tmp_path)!r}, workers=1, progress=False, **{SCREEN_FIELDS!r})
assert tfds.builder_from_directory(folder).as_data_source("train")[0]["image"].shape == (32, 32, 6)
assert not {{"tensorflow", "jax", "torch", "apache_beam"}} & {{name.split(".")[0] for name in sys.modules}}
"""
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_workers_import_no_tensorflow_and_no_jax():
    code = "import sys, tfds_builders.common.plates, tfds_builders.common.reading, tfds_builders.common.sources\n"
    code += "import tfds_builders.rxrx.rxrx_sim.reader\n"
    code += "assert not {'tensorflow', 'jax', 'apache_beam', 'bokeh'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], env=environment(), check=True, timeout=60)


def test_a_part_is_chosen_on_the_command_line(tmp_path):
    simulate.write_published(SCREEN, tmp_path / "tree")
    part = ("--experiments=SIMA-01,SIMA-02", "--plates=2", "--encoding=raw")
    done = command("rxrx1", f"--source={tmp_path}/tree", f"--out={tmp_path}/out", *part)
    assert done.returncode == 0, done.stderr
    assert "/encoding_raw-experiments_SIMA-01+SIMA-02-plates_2/" in done.stdout
    assert "train 4, id_test 4, val 8, test 0" in done.stdout
    wrong = command("rxrx1", f"--source={tmp_path}/tree", f"--out={tmp_path}/out", "--plates=7")
    assert wrong.returncode == 2 and "plates=7: the source has no such plate; it has 1, 2" in wrong.stderr


def test_strict_is_one_line_and_exit_status_2(tmp_path):
    simulate.write_published(SCREEN, tmp_path / "tree")
    next((tmp_path / "tree").glob("images/SIMB-01/Plate2/*_s2_w4.png")).unlink()
    done = command("rxrx1", f"--source={tmp_path}/tree", f"--out={tmp_path}/out", "--strict", "--workers=2")
    errors = [line for line in done.stderr.splitlines() if line and not line.startswith("rxrx1:")]
    assert done.returncode == 2 and len(errors) == 1, done.stderr
    assert errors[0].startswith("error: SIMB-01_2_") and "missing w4" in errors[0]
