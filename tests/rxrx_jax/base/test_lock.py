"""One process at a time in a folder: nothing that has ended holds it."""

import errno
import fcntl
import pathlib
import signal
import subprocess
import sys

import pytest

from rxrx_jax.base import lock

HOLD = """
import pathlib, sys, time
from rxrx_jax.base import lock
with lock.only_one(pathlib.Path(sys.argv[1]), print):
    print("held", flush=True)
    time.sleep(60)
"""


class Taken(Exception):
    pass


def refuse(holder):
    raise Taken(holder)


def hold(folder):
    with lock.only_one(folder, refuse):
        pass


def test_who_holds_it_is_named_and_no_stale_lock_blocks(tmp_path):
    folder = tmp_path / "runs" / "a"
    process = subprocess.Popen([sys.executable, "-c", HOLD, folder], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(Taken, match=f"^process {process.pid} on "):
            hold(folder)
        assert (folder / "lock").exists()  # the one that was refused leaves it
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert (folder / "lock").exists()
    hold(folder)
    assert not list(folder.iterdir())  # the folder was there before


def test_what_was_made_goes_unless_something_is_in_it(tmp_path):
    hold(tmp_path / "runs" / "a")
    assert not list(tmp_path.iterdir())
    with pytest.raises(KeyError), lock.only_one(tmp_path / "runs" / "a", refuse):
        raise KeyError
    assert not list(tmp_path.iterdir())
    with lock.only_one(tmp_path / "runs" / "a", refuse):
        (tmp_path / "runs" / "a" / "kept").touch()
    assert [path.name for path in (tmp_path / "runs" / "a").iterdir()] == ["kept"]


def test_where_files_cannot_be_locked_it_says_so(tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(lock.Unsupported, match=r"a: its file system does not lock files \(No locks available\)"):
        hold(tmp_path / "a")
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_a_folder_is_an_error_and_no_endless_loop(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "nowhere" / "at all")
    (tmp_path / "file").touch()
    for path, error in (
        (tmp_path / "link", FileExistsError),
        (tmp_path / "file", FileExistsError),
        (tmp_path / "file" / "a", NotADirectoryError),
        (pathlib.Path("/proc/nothing/here"), FileNotFoundError),
    ):
        with pytest.raises(error):
            hold(path)
