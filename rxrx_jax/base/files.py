"""Files on a local disk or in an object store (gs://): where they are, and writing them whole."""

import contextlib
import errno
import io
import typing
from collections.abc import Iterator

from etils import epath

from rxrx_jax.base.errors import UserError

# No space left, in the operating system's words, which tensorstore repeats.
FULL = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "at the quota", errno.EFBIG: "no file may be that large"}


def locate(path: epath.PathLike) -> epath.Path:
    """An absolute path, or the address in an object store as it is."""
    path = epath.Path(path)
    return path if is_remote(path) else path.expanduser().absolute()


def is_remote(path: epath.PathLike) -> bool:
    """Whether a path is in an object store, where a file appears when it is complete and nothing can be appended or
    renamed at once."""
    return "://" in str(path)


def write(path: epath.PathLike, content: str | bytes) -> None:
    """Writes a file, which appears when complete. Raises UserError when the disk is full."""
    with writing(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def writing(path: epath.PathLike) -> Iterator[typing.BinaryIO]:
    """A file to write into, which appears under its name when complete (in an object store, held in memory until then).
    Raises UserError when the disk is full."""
    path = epath.Path(path)
    with room(path):
        if is_remote(path):
            yield (file := io.BytesIO())
            path.write_bytes(file.getvalue())
        else:
            partial = path.with_name(path.name + ".partial")
            with partial.open("wb") as file:
                yield file
            partial.replace(path)


@contextlib.contextmanager
def room(path: epath.PathLike, kept: str = "") -> Iterator[None]:
    """Around writing to `path`: an error for lack of space is raised as UserError. `kept` says what is
    not lost."""
    try:
        yield
    except Exception as error:
        if not (why := lack_of_room(error)):
            raise
        raise UserError(f"no room for {path} ({why}){kept}; free some space, then the same command resumes") from error


def lack_of_room(error: BaseException) -> str:
    """The reason in FULL if an error reports a lack of space, else ""."""
    for number, words in FULL.items():
        if getattr(error, "errno", None) == number or f"os_error_code='{number}'" in str(error):
            return words
    return ""
