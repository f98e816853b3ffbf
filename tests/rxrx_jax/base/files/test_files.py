"""Files that appear when complete, and the errors for a full disk."""

import errno
import gc
import subprocess

import numpy as np
import pytest
from checkpoint_tools import CLOCK, assert_same_bits, make_state, names, shapes_of
from etils import epath

from rxrx_jax.base import embeddings, files
from rxrx_jax.base.errors import UserError
from rxrx_jax.training import metrics
from rxrx_jax.training.checkpoint import Checkpoints

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture
def small(tmp_path):
    """A file system of its own, and a function that leaves so many bytes free on it."""
    folder = tmp_path / "small"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", folder], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no file system of one's own can be mounted here: {done.stderr.strip()}")

    def leave(free):
        used = subprocess.run(["df", "-B1", "--output=used", folder], capture_output=True, text=True, check=True).stdout
        size = int(used.split()[-1]) + free
        subprocess.run(["mount", "-o", f"remount,size={size}", folder], check=True)

    yield folder, leave
    gc.collect()  # what Orbax has given up complains
    subprocess.run(["umount", folder], check=True)


def test_a_file_appears_when_complete(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(RuntimeError):
        with files.writing(path) as file:
            file.write(b"half")
            raise RuntimeError
    assert path.read_text() == "old"
    files.write(path, "new")
    assert path.read_text() == "new"
    files.write(path, b"\x00")
    assert path.read_bytes() == b"\x00"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_where_a_path_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/somebody")
    assert files.locate("run") == epath.Path(tmp_path / "run")
    assert files.locate("~/run") == epath.Path("/home/somebody/run")
    assert str(files.locate("gs://bucket/run")) == "gs://bucket/run"
    assert files.is_remote("gs://bucket/run") and files.is_remote(epath.Path("gs://bucket/run"))
    assert not files.is_remote("run") and not files.is_remote(epath.Path("run"))


@pytest.mark.parametrize(
    "error, message",
    [
        (
            OSError(errno.ENOSPC, "No space"),
            "no room for here .the disk is full.; free some space, then the same command",
        ),
        (OSError(errno.EDQUOT, "Quota"), "no room for here .at the quota.; free some space"),
        (
            ValueError("RESOURCE_EXHAUSTED: Failed [os_error_code='28']"),
            "no room for here .the disk is full.; free some space",
        ),
    ],
)
def test_no_room_is_an_error_of_the_user(error, message):
    with pytest.raises(UserError, match=message), files.room("here"):
        raise error


def test_other_errors_stay_what_they_are():
    for error in (OSError(errno.EIO, "I/O"), ValueError("RESOURCE_EXHAUSTED: out of memory"), KeyError("28")):
        with pytest.raises(type(error)) as found, files.room("here"):
            raise error
        assert found.value is error


@pytest.mark.parametrize("when", ["at the next save", "on leaving"])
def test_a_full_disk_keeps_the_checkpoint_before(small, when):
    folder, leave = small
    shapes = shapes_of(make_state(0))
    with Checkpoints(folder / "checkpoints", 2) as checkpoints:
        checkpoints.save(make_state(1, seed=1), CLOCK)
    leave(8192)
    message = (
        f"^no room for {folder}/checkpoints .the disk is full.: the checkpoint of step 2 is not saved, that of step 1 "
        "is kept; free some space, then the same command resumes"
    )
    with pytest.raises(UserError, match=message):
        with Checkpoints(folder / "checkpoints", 2) as checkpoints:
            assert int(checkpoints.restore(shapes)[0].step) == 1
            checkpoints.save(make_state(2, seed=2), CLOCK)
            if when == "at the next save":
                checkpoints.save(make_state(3, seed=3), CLOCK)
                pytest.fail("the save before has failed")
    assert names(folder) == ["1"]
    leave(1 << 20)
    with Checkpoints(folder / "checkpoints", 2) as checkpoints:
        assert_same_bits(checkpoints.restore(shapes)[0], make_state(1, seed=1))
        checkpoints.save(make_state(2, seed=2), CLOCK)
    assert names(folder) == ["1", "2"]


def test_a_full_disk_before_the_first_checkpoint_says_that_there_is_none(small):
    folder, leave = small
    leave(8192)
    with pytest.raises(UserError, match="checkpoint of step 1 is not saved, and no earlier one exists; free"):
        with Checkpoints(folder / "checkpoints", 2) as checkpoints:
            checkpoints.save(make_state(1), CLOCK)


def test_an_error_of_the_run_is_not_hidden_by_a_full_disk(small):
    folder, leave = small
    leave(8192)
    with pytest.raises(ZeroDivisionError):
        with Checkpoints(folder / "checkpoints", 2) as checkpoints:
            checkpoints.save(make_state(1), CLOCK)
            raise ZeroDivisionError


def test_a_full_disk_stops_whatever_else_a_run_writes(small):
    folder, leave = small
    with pytest.raises(UserError, match=f"no room for {folder}/metrics.jsonl .the disk is full"):
        with metrics.Writer(folder, 0) as writer:
            leave(4096)
            for step in range(1000):
                writer.write(step, {"loss": 1.0})
    sites = {"site_id": np.array([f"site_{i}" for i in range(1000)])}
    with pytest.raises(UserError, match=f"no room for {folder}/embeddings.parquet .the disk is full"):
        embeddings.write(folder / embeddings.NAME, sites, np.random.default_rng(0).normal(size=(1000, 50)))
    assert not (folder / embeddings.NAME).exists()


def test_sums_are_those_of_sha256sum_and_name_what_changed(tmp_path):
    for name, content in (("a.csv", "1"), ("b c.json", "{}"), (files.SUMS, "old")):
        (tmp_path / name).write_text(content)
    files.write_sums(tmp_path, ["b c.json", "a.csv", files.SUMS])
    done = subprocess.run(["sha256sum", "-c", "--strict", files.SUMS], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == "a.csv: OK\nb c.json: OK\n"
    assert files.changed(tmp_path, None, "copy it", True) == []
    (tmp_path / "a.csv").write_text("2")
    (tmp_path / "b c.json").unlink()
    assert files.changed(tmp_path, None, "copy it", True) == [
        "a.csv is not what was written (its SHA-256 is not that of SHA256SUMS)",
        "b c.json is missing, which SHA256SUMS names",
    ]
    (tmp_path / "d").touch()
    assert files.changed(tmp_path, ["d"], "copy it", True) == ["d is not named in SHA256SUMS"]
    (tmp_path / files.SUMS).write_text("x  a.csv\n")
    with pytest.raises(UserError, match="SHA256SUMS is damaged; copy it$"):
        files.changed(tmp_path, ["d"], "copy it", True)
    (tmp_path / files.SUMS).unlink()
    assert files.changed(tmp_path, ["d"], "copy it", False) == []
    assert files.changed(tmp_path, ["d"], "copy it", True) == ["SHA256SUMS is missing"]


@pytest.mark.parametrize("content, words", [
    (b"", "is damaged"), (b"{", "is damaged"), (b"\xff", "is damaged"), (b"[1]", "not a JSON object"),
    (b"[" * 100_000, "is damaged"), (b"NaN", "not a JSON object"),
])  # fmt: skip
def test_what_is_not_a_json_object_is_one_line(tmp_path, content, words):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(UserError, match=rf"^[^\n]*x.json [^\n]*{words}[^\n]*; copy it$"):
        files.read_json(tmp_path / "x.json", "copy it")


def test_a_table_that_is_not_one_is_one_line_that_names_it(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b'\xef\xbb\xbfx,y\r\n1,"two\nlines"\r\n')
    assert files.read_csv(path, ("y", "x")) == [{"x": "1", "y": "two\nlines"}]
    for content, words in (
        (b"x,y\n1,2\n3\n", "a.csv, line 3: not as many cells as there are columns"),
        (b"x,y\n1,2,3\n", "a.csv, line 2: not as many cells"),
        (b"x,z\n1,2\n", "a.csv has no column y; it has x, z"),
        (b"", "a.csv has no column x; it has none"),
        (b"x,y\n\xff,1\n", "a.csv cannot be read: "),
        (b'x,y\n1,"2\n', "a.csv cannot be read: unexpected end of data"),
    ):
        path.write_bytes(content)
        with pytest.raises(UserError, match=words) as caught:
            files.read_csv(path, ("x", "y"))
        assert "\n" not in str(caught.value)
