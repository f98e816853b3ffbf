"""One process at a time in a folder, on file systems of one machine or of several (NFS locks files).

The system lets go of a lock when its process ends, however it ends: none is ever stale.
"""

import contextlib
import errno
import fcntl
import os
import pathlib
import socket
from collections.abc import Callable, Iterator
from typing import IO

from rxrx_jax.base import files
from rxrx_jax.base.errors import UserError

NAME = "lock"
UNSUPPORTED = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)  # what flock fails with where files cannot be locked
TRIES = 1000


class Unsupported(UserError):
    """The file system does not lock files."""


@contextlib.contextmanager
def only_one(folder: pathlib.Path, taken: Callable[[str], None]) -> Iterator[None]:
    """Makes the folder and holds its lock, a file in it that goes in the end, with the folders that were made if
    nothing else is left in them.

    Args: taken, called while another process holds the lock, with "process 12 on NAME"; it may raise, else this one
    waits. Raises Unsupported where files cannot be locked.
    """
    with files.not_left_empty(folder), _open(folder, taken) as file:
        with contextlib.suppress(OSError):  # a full disk
            os.ftruncate(file.fileno(), 0)
            os.write(file.fileno(), f"process {os.getpid()} on {socket.gethostname()}".encode())
        try:
            yield
        finally:
            if _is_at(file, folder / NAME):
                (folder / NAME).unlink()


def holder(folder: pathlib.Path) -> str:
    """Who holds the lock of a folder, as "process 12 on NAME", without waiting; "" for nobody, and where files cannot
    be locked. A process that starts in the moment of looking finds the lock taken."""
    try:
        with (folder / NAME).open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return file.read() or "a process that has just started"
    except OSError:
        pass
    return ""


def _open(folder: pathlib.Path, taken: Callable[[str], None]) -> IO:
    """The lock file, open and locked."""
    for left in reversed(range(TRIES)):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file = (folder / NAME).open("a+")
        except (FileExistsError, FileNotFoundError):  # another process has just removed the folder
            if not left or folder.is_file():
                raise
            continue
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                taken(file.read())
                fcntl.flock(file, fcntl.LOCK_EX)
            if _is_at(file, folder / NAME):
                return file
            file.close()
        except BaseException as error:
            file.close()
            if isinstance(error, OSError) and error.errno in UNSUPPORTED:
                (folder / NAME).unlink()
                raise Unsupported(f"{folder}: its file system does not lock files ({error.strerror})") from error
            raise
    raise UserError(f"{folder} is removed by other processes again and again")


def _is_at(file: IO, path: pathlib.Path) -> bool:
    """Whether an open file is the one of that name: who held the lock has removed it, and may have moved its folder."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False
