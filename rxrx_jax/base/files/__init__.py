"""Files on a local disk or in an object store (gs://): where they are, writing them whole, and whether they still
hold what was written."""

import contextlib
import csv
import errno
import hashlib
import io
import json
import os
import pathlib
import re
import stat
import typing
from collections.abc import Iterable, Iterator

from etils import epath

from rxrx_jax.base.errors import UserError, moved_by, shortened

# No space left, in the operating system's words, which tensorstore repeats.
FULL = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "at the quota", errno.EFBIG: "no file may be that large"}

SUMS = "SHA256SUMS"  # of the files beside it, as `sha256sum -c` reads it
# An honest archive of text packs ten to thirty times: more than this, and more than a disk can miss, is a bomb.
LARGEST_RATIO = 100
ALWAYS_FINE = 2**30  # bytes
LFS = b"version https://git-lfs.github.com/spec/"  # how a pointer of Git LFS begins


def is_pointer(path: epath.PathLike) -> bool:
    """Whether a file is not there but only Git LFS's pointer to it."""
    try:
        with epath.Path(path).open("rb") if is_remote(path) else _unblocked(path) as file:
            return file.read(len(LFS)) == LFS
    except OSError:
        return False  # whoever reads the file will say


def check_pointer(path: epath.PathLike) -> None:
    """Raises UserError if a file is not there but only Git LFS's pointer to it."""
    if is_pointer(path):
        raise UserError(f"{path} is a Git LFS pointer and not the file itself; in its repository, run `git lfs pull`")


def is_bomb(packed: int, total: int) -> bool:
    """Whether `total` bytes are more than an honest archive of `packed` bytes holds."""
    return total > max(LARGEST_RATIO * packed, ALWAYS_FINE)


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
    """A file to write into, which appears under its name when complete (in an object store, held in memory until then):
    a power cut leaves the whole of it or what was there before. Raises UserError when the disk is full."""
    path = epath.Path(path)
    with room(path):
        if is_remote(path):
            yield (file := io.BytesIO())
            path.write_bytes(file.getvalue())
        else:
            partial = path.with_name(path.name + ".partial")
            with partial.open("wb") as file:
                yield file
                if not file.closed:  # by the writer of a format
                    file.flush()
                    os.fsync(file.fileno())
            partial.replace(path)


@contextlib.contextmanager
def not_left_empty(folder: pathlib.Path) -> Iterator[None]:
    """Around making a folder on disk: it goes in the end, with those above it that were made, if nothing is in them.
    Those that were there before stay."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # something is in it, or it was not made
            for path in missing:
                path.rmdir()


@contextlib.contextmanager
def room(path: epath.PathLike, kept: str = "") -> Iterator[None]:
    """Around writing to `path`: an error for lack of space is raised as UserError. `kept` says what is
    not lost."""
    try:
        yield
    except Exception as error:
        if not (why := lack_of_room(error)):
            raise
        raise UserError(
            f"no room for {path} ({why}){kept}; free some space, then the same command resumes{moved_by(path)}"
        ) from error


def lack_of_room(error: BaseException) -> str:
    """The reason in FULL if an error reports a lack of space, else ""."""
    for number, words in FULL.items():
        if getattr(error, "errno", None) == number or f"os_error_code='{number}'" in str(error):
            return words
    return ""


def _unblocked(path: epath.PathLike) -> typing.BinaryIO:
    """A file on disk, open for reading; opening a pipe would otherwise wait for someone to write."""
    return open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb")


@contextlib.contextmanager
def reading(path: epath.PathLike, remedy: str) -> Iterator[typing.BinaryIO]:
    """An open regular file on disk. Raises UserError, which ends in the remedy, for any other."""
    try:
        file = _unblocked(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); {remedy}") from error
    with file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise UserError(f"{path} is not a regular file; {remedy}")
        yield file


def opened(path: epath.PathLike, remedy: str) -> contextlib.AbstractContextManager[typing.BinaryIO]:
    """As `reading`, or of an object store."""
    return epath.Path(path).open("rb") if is_remote(path) else reading(path, remedy)


def read_json(path: epath.PathLike, remedy: str) -> dict[str, typing.Any]:
    """The object in a JSON file. Raises UserError, which ends in the remedy, for anything else."""
    try:
        with opened(path, remedy) as file:
            text = file.read()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}); {remedy}") from error
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({error if text else 'empty'}); {remedy}") from error
    if not isinstance(found, dict):
        raise UserError(f"{path} is damaged (not a JSON object); {remedy}")
    return found


def read_csv(path: epath.PathLike, columns: Iterable[str] = ()) -> list[dict[str, str]]:
    """The rows of a table whose first line names its columns. Raises UserError, which names the line, where it cannot
    be read, lacks one of `columns`, or a row has another number of cells."""
    rows = []
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:  # with the mark that Excel writes
            reader = csv.DictReader(file, strict=True)
            names = list(reader.fieldnames or ())
            for row in reader:
                if None in row or None in row.values():
                    raise UserError(f"{path}, line {reader.line_num}: not as many cells as there are columns")
                rows.append(row)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read: {shortened(str(error))}") from error
    if missing := [name for name in columns if name not in names]:
        raise UserError(f"{path} has no column {missing[0]}; it has {', '.join(names) or 'none'}")
    return rows


def write_sums(folder: pathlib.Path, names: Iterable[str]) -> None:
    """Writes SHA256SUMS of these files in a folder; of itself, where it is among them, not."""
    write(folder / SUMS, "".join(f"{sha256(folder / name, '')}  {name}\n" for name in sorted({*names} - {SUMS})))


def changed(folder: pathlib.Path, names: Iterable[str] | None, remedy: str, required: bool) -> list[str]:
    """How these files in a folder (None: all it names) differ from its SHA256SUMS, a clause each; [] without one,
    unless it is required. Raises UserError, which ends in the remedy, for what is damaged or not a regular file."""
    if not os.path.lexists(folder / SUMS):
        for name in names or ():
            with reading(folder / name, remedy):
                pass
        return [f"{SUMS} is missing"] if required else []
    with reading(folder / SUMS, remedy) as file:
        lines = file.read().decode(errors="replace").splitlines()
    if not all(re.fullmatch(r"[0-9a-f]{64}  [^/]+", line) for line in lines):
        raise UserError(f"{folder / SUMS} is damaged; {remedy}")
    known = {line[66:]: line[:64] for line in lines}
    found = []
    for name in known if names is None else names:
        if not os.path.lexists(folder / name):
            found.append(f"{name} is missing, which {SUMS} names")
        elif name not in known:
            found.append(f"{name} is not named in {SUMS}")
        elif sha256(folder / name, remedy) != known[name]:
            found.append(f"{name} is not what was written (its SHA-256 is not that of {SUMS})")
    return found


def sha256(path: epath.PathLike, remedy: str) -> str:
    """The SHA-256 of a file on disk, in hex. Raises as `reading` does."""
    with reading(path, remedy) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
