"""One process at a time builds in a folder, on file systems of one machine or of several (NFS locks files)."""

import contextlib
import fcntl
import os
import pathlib
import shutil
from collections.abc import Iterator
from typing import IO

LOCK = "lock"


@contextlib.contextmanager
def only_one(working: pathlib.Path, progress: bool) -> Iterator[None]:
    """Makes the folder `working` and waits while another process is in it; says so if `progress`. The folder goes in
    the end when nothing but the lock is left in it."""
    with _locked(working, progress):
        try:
            yield
        finally:
            if working.exists() and [path.name for path in working.iterdir()] == [LOCK]:
                (working / LOCK).unlink()
                with contextlib.suppress(OSError):  # another process is here already, with a lock of its own
                    working.rmdir()


def clear(working: pathlib.Path) -> None:
    """Removes all but the lock."""
    for path in working.iterdir():
        if path.name != LOCK:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _locked(working: pathlib.Path, progress: bool) -> IO:
    """The open lock file; closing it lets the next process in."""
    while True:
        try:
            working.mkdir(parents=True, exist_ok=True)
            lock = (working / LOCK).open("w")
        except (FileExistsError, FileNotFoundError):  # another process has just removed the folder
            if working.is_file():
                raise
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if progress:
                print(f"waiting: another process builds {working.with_suffix('')}", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        if _is_at(lock, working / LOCK):
            return lock
        lock.close()


def _is_at(file: IO, path: pathlib.Path) -> bool:
    """Whether an open file is the one of that name: who held the lock may have removed it."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False
