"""The command line: what it prints, what it refuses, and what a killed build leaves behind."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
import tensorflow_datasets as tfds
from builders_tools import REPOSITORY, SCREEN, SCREEN_FIELDS
from tensorflow_datasets.core.dataset_info import DatasetInfoFileError

from rxrx_jax.simulate import screen as simulate
from tfds_builders import prepare

SMALL = [f"--set={key}={','.join(v) if isinstance(v, tuple) else v}" for key, v in SCREEN_FIELDS.items()]
SMALL_NAME = (
    "image_size_32-plates_2-positive_controls_1-positive_wells_1-replicates_1-test_SIMB-02"
    "-train_SIMA-01+SIMB-01-treatments_4-untreated_wells_1-val_SIMA-02"
)


def environment(**more):
    return {**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONWARNINGS": "error", **more}


def command(*arguments, **variables):
    return subprocess.run(
        [sys.executable, "-m", "tfds_builders.prepare", *map(str, arguments)],
        env=environment(**variables), capture_output=True, text=True, timeout=60,
    )  # fmt: skip


def test_prepares_and_says_where_and_how_much(tmp_path):
    done = command("rxrx_sim", f"--out={tmp_path}", "--workers=2", *SMALL)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "rxrx_sim" / SMALL_NAME / "1.0.0"
    for line in (
        f"preparing {folder}",
        "train 16, id_test 16, val 16, test 16",
        "set aside  0",
        f"{folder}/report.md",
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
    (tmp_path / "out/rxrx1/default/incomplete.ABC_1.0.0").mkdir()
    again = command("rxrx1", "--source=elsewhere", f"--out={tmp_path}/out")
    assert f"it was prepared from {tmp_path}/kaggle, not from elsewhere" in again.stdout
    assert "incomplete.ABC_1.0.0 is of a killed build" in again.stdout


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["rxrx9"], ["'rxrx9'", "rxrx1, rxrx_sim"]),
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
    assert done.returncode == 1
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    assert all(word in done.stderr for word in words), done.stderr


def test_builds_without_tensorflow(tmp_path):
    code = f"""
import sys
import tensorflow_datasets as tfds
from tfds_builders.prepare import prepare
folder = prepare("rxrx_sim", out={str(tmp_path)!r}, workers=1, progress=False, **{SCREEN_FIELDS!r})
assert tfds.builder_from_directory(folder).as_data_source("train")[0]["image"].shape == (32, 32, 6)
assert not {{"tensorflow", "jax", "torch"}} & {{name.split(".")[0] for name in sys.modules}}
"""
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_workers_import_neither_tfds_nor_jax():
    code = "import sys, tfds_builders.reading, rxrx_jax.simulate.screen, tfds_builders.rxrx1.images\n"
    code += "assert not {'tensorflow_datasets', 'jax'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], env=environment(), check=True, timeout=60)


def _wait(condition, seconds=30):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return False


def _running(pid):
    try:
        return "\nState:\tZ" not in pathlib.Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


@pytest.mark.skipif(not pathlib.Path("/proc/self/task").exists(), reason="looks at child processes in /proc")
@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_build_leaves_nothing_that_opens(tmp_path, kill):
    arguments = ["rxrx_sim", f"--out={tmp_path}", "--workers=2"]
    child = subprocess.Popen(
        [sys.executable, "-m", "tfds_builders.prepare", *arguments],
        env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    folder = prepare.find("rxrx_sim", tmp_path)
    listing = pathlib.Path(f"/proc/{child.pid}/task/{child.pid}/children")
    try:
        assert _wait(lambda: any(folder.parent.glob("incomplete.*/*array_record*"))), child.communicate(timeout=1)
        assert _wait(lambda: len(listing.read_text().split()) >= 3), "two workers and Python's resource tracker"
        time.sleep(1)  # some sites are read by now, of the 20 seconds that all of them take
        workers = [int(pid) for pid in listing.read_text().split()]
    finally:
        if kill == signal.SIGINT:
            os.killpg(child.pid, kill)  # as Ctrl-C does
        else:
            child.kill()
        output = child.communicate(timeout=30)
    assert child.returncode in (-9, 130), output
    assert not folder.exists()
    for left in [folder, *folder.parent.iterdir()]:
        with pytest.raises(DatasetInfoFileError):
            tfds.builder_from_directory(left)
    assert _wait(lambda: not any(map(_running, workers)), 10), "workers outlive the build"
    if kill == signal.SIGINT:
        assert output[1].endswith(b"interrupted; nothing was kept\n") and b"Traceback" not in output[1]
        assert not list(folder.parent.iterdir())
