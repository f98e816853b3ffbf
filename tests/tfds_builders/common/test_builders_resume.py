"""A build that is stopped anywhere resumes, and ends with the bytes of one that was not; full disks."""

import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import pytest
import tensorflow_datasets as tfds
from builders_tools import SCREEN_FIELDS, VERSION, Killed, contents, kill_at
from paths import ROOT
from tensorflow_datasets.core.dataset_info import DatasetInfoFileError

from rxrx_jax.simulate import screen as simulate
from tfds_builders import prepare
from tfds_builders.common import finish, plates
from tfds_builders.common.rows import plan
from tfds_builders.report import page


def build(out, **fields):
    return prepare.prepare("rxrx_sim", None, out, 1, progress=False, **{**SCREEN_FIELDS, **fields})


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What a build that is never stopped makes."""
    return contents(build(tmp_path_factory.mktemp("whole")))


# 4 experiments x 2 plates; every plate has 8 sites and one shard (val, test) or two (train, id_test): 12 shards
MOMENTS = [
    (simulate, "sites", 1),
    (plan.json, "dumps", 20),  # while the plan is written
    *[(simulate, "render_site", n) for n in (1, 5, 9, 64)],
    (plates._PlateWriter, "_finish", 7),
    *[(pathlib.Path, "replace", n) for n in (1, 2, 3, 10)],  # the plan, what it is of, 8 results
    *[(finish.os, "link", n) for n in (1, 6, 12)],  # 12 shards
    *[(finish._Tables, "add", n) for n in (1, 8)],
    (finish._Tables, "join", 1),
    (finish, "statistics", 1),
    (tfds.core.DatasetInfo, "write_to_directory", 1),
    (page, "write", 1),
    (pathlib.Path, "rename", 1),
]


@pytest.mark.parametrize("owner, name, number", MOMENTS, ids=lambda value: getattr(value, "__name__", str(value)))
def test_a_build_stopped_here_resumes(tmp_path, monkeypatch, whole, owner, name, number):
    folder = prepare.find("rxrx_sim", tmp_path, **SCREEN_FIELDS)
    with monkeypatch.context() as patch:
        calls = kill_at(patch, owner, name, number)
        with pytest.raises(Killed):
            build(tmp_path)
    assert len(calls) == number
    assert not folder.exists()
    done = len(list(folder.parent.glob("*.building/plates/*.json")))
    with monkeypatch.context() as patch:
        rendered = kill_at(patch, simulate, "render_site", 10**9)
        assert contents(build(tmp_path)) == whole
    assert len(rendered) == 64 - 8 * done  # plates with a result are not read again
    assert [path.name for path in folder.parent.iterdir()] == [VERSION]


def test_the_moments_above_cover_the_whole_build(tmp_path, monkeypatch):
    counts = {}
    with monkeypatch.context() as patch:
        for owner, name, _ in MOMENTS:
            if (owner, name) not in counts:
                counts[owner, name] = kill_at(patch, owner, name, 10**9)
        build(tmp_path)
    last = {(owner, name): max(n for o, k, n in MOMENTS if (o, k) == (owner, name)) for owner, name, _ in MOMENTS}
    assert len(counts[pathlib.Path, "replace"]) == 10 == last[pathlib.Path, "replace"]
    assert len(counts[finish.os, "link"]) == 12 == last[finish.os, "link"]
    assert len(counts[simulate, "render_site"]) == 64 == last[simulate, "render_site"]
    assert len(counts[finish._Tables, "add"]) == 8 == last[finish._Tables, "add"]
    assert len(counts[pathlib.Path, "rename"]) == 1


def test_a_shard_that_a_power_cut_took_is_built_again(tmp_path, monkeypatch, whole):
    with monkeypatch.context() as patch:
        kill_at(patch, finish._Tables, "join", 1)
        with pytest.raises(Killed):
            build(tmp_path)
    shards = sorted(tmp_path.rglob("plates/*.array_record"))
    shards[0].write_bytes(b"")
    shards[5].unlink()
    assert contents(build(tmp_path)) == whole


def test_a_file_system_without_links(tmp_path, monkeypatch, whole):
    def refuse(*args):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(finish.os, "link", refuse)
    assert contents(build(tmp_path)) == whole


def environment(**more):
    return {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error", **more}


def command(out, *more):
    settings = [f"--set={key}={','.join(v) if isinstance(v, tuple) else v}" for key, v in SCREEN_FIELDS.items()]
    return [sys.executable, "-m", "tfds_builders.prepare", "rxrx_sim", f"--out={out}", "--workers=2", *settings, *more]


def wait(condition, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.01)
    return False


def running(pid):
    try:
        return "\nState:\tZ" not in pathlib.Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def descendants(pid):
    """Returns the ids of all processes that a process started, and that these did."""
    try:
        children = [int(p) for p in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
    return children + [grandchild for child in children for grandchild in descendants(child)]


@pytest.mark.full
@pytest.mark.skipif(not pathlib.Path("/proc/self/task").exists(), reason="looks at child processes in /proc")
def test_a_build_killed_at_random_moments_ends_with_the_same_bytes(tmp_path):
    more = {"image_size": 256, "replicates": 2}
    settings = [f"--set={key}={value}" for key, value in more.items()]
    whole = contents(build(tmp_path / "whole", **more))
    folder = prepare.find("rxrx_sim", tmp_path / "killed", **{**SCREEN_FIELDS, **more})
    moments, kills = random.Random(0), 0
    while not folder.exists():
        child = subprocess.Popen(
            command(tmp_path / "killed", *settings), env=environment(), stderr=subprocess.PIPE, stdout=subprocess.PIPE
        )
        # the first kills come early, so that there are several; a build on a busy machine still comes to its end
        limit = moments.uniform(1.5, 4) * (1 + kills / 4)
        if not wait(lambda child=child: child.poll() is not None, limit):
            family = descendants(child.pid)
            child.kill()
            kills += 1
            assert wait(lambda family=family: not any(map(running, family)), 10), "workers outlive the build"
            for left in [folder, *folder.parent.glob("*")] if not folder.exists() else []:
                with pytest.raises(DatasetInfoFileError):
                    tfds.builder_from_directory(left)
        output = child.communicate(timeout=120)
        assert child.returncode in (0, -9), output
        assert kills < 40
    assert kills >= 2
    assert contents(folder) == whole


@pytest.mark.slow
def test_ctrl_c_says_that_the_build_resumes(tmp_path):
    child = subprocess.Popen(
        command(tmp_path, "--set=image_size=256"), env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        start_new_session=True,
    )  # fmt: skip
    try:
        assert wait(lambda: list(tmp_path.rglob("*.json")) and list(tmp_path.rglob("*_*.json"))), child.communicate()
    finally:
        os.killpg(child.pid, signal.SIGINT)
        output = child.communicate(timeout=120)
    assert child.returncode == 130, output[1].decode()
    assert output[1].endswith(b"start the same command again\n") and b"Traceback" not in output[1]
    again = subprocess.run(command(tmp_path, "--set=image_size=256"), env=environment(), capture_output=True, text=True)
    assert again.returncode == 0 and "resuming: " in again.stdout


def test_a_full_disk_is_one_line_and_nothing_is_lost(tmp_path):
    """A limit on the size of a file makes every write beyond it fail, as a full disk does."""
    run = command(tmp_path, "--set=image_size=128", "--workers=1")
    small_files = ["bash", "-c", "trap '' XFSZ; ulimit -f 100; exec \"$@\"", "bash"]  # 100 kB
    full = subprocess.run([*small_files, *run], env=environment(), capture_output=True, text=True)
    assert full.returncode == 2, full
    lines = [line for line in full.stderr.splitlines() if line and not line.startswith("rxrx_sim:")]
    assert len(lines) == 1 and "free some space and run the same command" in lines[0], full.stderr
    assert not list(tmp_path.rglob("dataset_info.json"))
    after = subprocess.run(run, env=environment(), capture_output=True, text=True)
    assert after.returncode == 0, after
    folder = prepare.find("rxrx_sim", tmp_path, **{**SCREEN_FIELDS, "image_size": 128})
    assert contents(folder) == contents(build(tmp_path / "whole", image_size=128))


@pytest.mark.parametrize("damage", ["", "{"])
def test_a_torn_description_of_the_build_starts_over(tmp_path, monkeypatch, whole, damage):
    with monkeypatch.context() as patch:
        kill_at(patch, finish._Tables, "join", 1)
        with pytest.raises(Killed):
            build(tmp_path)
    next(tmp_path.rglob("build.json")).write_text(damage)
    assert contents(build(tmp_path)) == whole


def test_a_leftover_beside_a_finished_folder_is_removed(tmp_path, whole):
    folder = build(tmp_path)
    left = folder.with_name(f"{folder.name}.building")
    left.mkdir()
    (left / "plan.sqlite").write_bytes(b"x")
    build(tmp_path)
    assert [path.name for path in folder.parent.iterdir()] == [VERSION] and contents(folder) == whole


def test_an_unusable_out_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    done = subprocess.run(command(tmp_path / "file"), env=environment(), capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


def test_results_are_plain_json(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        kill_at(patch, finish._Tables, "join", 1)
        with pytest.raises(Killed):
            build(tmp_path)
    results = [json.loads(path.read_text()) for path in tmp_path.rglob("plates/*.json")]
    assert sum(len(result["sites"]) for result in results) == 64
