"""Images in tar archives, read in place: RxRx3's one tar per plate, and shards as WebDataset writes them."""

import contextlib
import dataclasses
import errno
import functools
import itertools
import os
import pathlib
import re
import stat
import tarfile
from collections.abc import Iterator
from typing import BinaryIO

from rxrx_jax.base import files
from tfds_builders.common import decode
from tfds_builders.common.rows import tables
from tfds_builders.common.sources import files as lib
from tfds_builders.common.types import BadSite

TREES = ("", "images")
PLATE_TAR = r"Plate(\d+)\.tar"
JP2_NAME = re.compile(lib.KEY_NAME + r"\.jp2")
BLOCK = tarfile.BLOCKSIZE
# What the tarfile module raises for headers that make no sense: sizes that no file has, numbers that are none
NONSENSE = (tarfile.TarError, ArithmeticError, LookupError, MemoryError, RecursionError, ValueError)


@dataclasses.dataclass(frozen=True)
class Tars:
    """EXPERIMENT/PlateN.tar, in the source folder or in images/, with WELL_sS_wC.png inside. See `sources`."""

    root: pathlib.Path
    follow_links: bool = False

    def __post_init__(self):
        if not self.plates():
            raise lib.NoImages(self.root, "EXPERIMENT/PlateN.tar")

    def _find(self, experiment: str | None = None) -> Iterator[lib.Found]:
        trees = [tree for tree in TREES if (self.root / tree).is_dir()]
        return lib.find_plates(self.root, trees, PLATE_TAR, experiment, self.follow_links)

    def plates(self) -> list[tuple[str, int]]:
        return lib.plates_of(self._find())

    def strays(self) -> list[str]:
        return lib.strays_of(self.root, self._find())

    @contextlib.contextmanager
    def open(self, experiment: str, plate: int) -> Iterator[lib.PlateFiles]:
        files = lib.PlateFiles()
        with contextlib.ExitStack() as stack:

            def add(path: str, name: str) -> None:
                archive = stack.enter_context(_open(path))
                _add_members(files, archive, name, functools.partial(_key_on_plate, experiment, plate))

            lib.add_plates(files, self.root, self._find(experiment), plate, add)
            yield files

    def size(self) -> tuple[int, int] | None:
        found = [item for item in self._find() if item.plate is not None and not item.reason]
        places = [(item.path, 0) for item in lib.spread(found, lib.PROBES)]
        return lib.vote(itertools.chain.from_iterable(_headers(*place, lib.PNG_NAME) for place in places))


def _key_on_plate(experiment: str, plate: int, name: str) -> lib.Key | str:
    """Returns the key of a member of a plate's tar, or why it is not an image ('' if its name shows it)."""
    match = lib.PNG_NAME.fullmatch(name.rsplit("/", 1)[-1])
    if not match:
        return ""
    inside = lib.PLATE_PATH.fullmatch(name)
    if inside and re.fullmatch(r".+-\d+", inside[1]) and tables.canonical(inside[1]) != experiment:
        return "of another experiment"
    if inside and int(inside[2]) != plate:
        return "of another plate"
    return match[1], int(match[2]), int(match[3])


@dataclasses.dataclass(frozen=True)
class WebDataset:
    """Shards *.tar, anywhere in the source folder, with EXPERIMENT/PlateN/WELL_sS_C.jp2 inside. See `sources`.

    The shards are indexed once, when the source is made. The index holds, for each plate, the part of each shard
    that its members lie in, so that it stays small (and pickles small) however many members there are; opening a
    plate reads the headers of those parts again. Indexing takes 23 us per member, half a minute for RxRx3-core.
    """

    root: pathlib.Path
    follow_links: bool = False
    found: lib.Index = dataclasses.field(init=False, repr=False, compare=False)

    def __post_init__(self):
        index = lib.Index()
        index.list_files(self.root, ".tar", self.follow_links)
        for shard, name in enumerate(index.names):
            try:
                with _open(self.root / name) as archive:
                    for member in _members(archive):
                        if isinstance(member, str):
                            index.problems.append(f"{name}: {member}")
                        elif plate := lib.plate_of(member.name):
                            start, _ = index.parts.setdefault(plate, {}).get(shard, (member.offset, 0))
                            index.parts[plate][shard] = start, member.offset_data
                        elif not _is_hidden(member):
                            index.add_stray(f"{name}:{member.name}", _refused(member))
            except OSError as error:
                index.problems.append(f"{name}: {lib.reason_of(error)}")
        index.check(self.root, "*.tar with EXPERIMENT/PlateN/WELL_sS_C.jp2")
        object.__setattr__(self, "found", index)

    def plates(self) -> list[tuple[str, int]]:
        return sorted(self.found.parts)

    def strays(self) -> list[str]:
        return self.found.strays

    @contextlib.contextmanager
    def open(self, experiment: str, plate: int) -> Iterator[lib.PlateFiles]:
        files = lib.PlateFiles()
        for problem in self.found.problems:
            files.add_problem(problem)
        with contextlib.ExitStack() as stack:
            for shard, (start, end) in self.found.parts.get((experiment, plate), {}).items():
                name = self.found.names[shard]
                try:
                    archive = stack.enter_context(_open(self.root / name))
                    _add_members(files, archive, name, functools.partial(_key_in_shard, experiment, plate), start, end)
                except OSError as error:
                    files.add_problem(f"{name}: {lib.reason_of(error)}")
            yield files

    def size(self) -> tuple[int, int] | None:
        parts = [(shard, start) for plate in self.plates() for shard, (start, _) in self.found.parts[plate].items()]
        places = [(self.root / self.found.names[shard], start) for shard, start in lib.spread(parts, lib.PROBES)]
        return lib.vote(itertools.chain.from_iterable(_headers(*place, JP2_NAME) for place in places))


def _key_in_shard(experiment: str, plate: int, name: str) -> lib.Key | str | None:
    """Returns the key of a member of a shard, '' if it is not an image, None if it is of another plate."""
    if lib.plate_of(name) != (experiment, plate):
        return None
    return lib.key_of(name.removesuffix(".jp2")) or "" if name.endswith(".jp2") else ""


def _open(path: str | pathlib.Path) -> BinaryIO:
    # unbuffered: headers are 512 bytes and megabytes apart; not blocking: as lib.read_file
    archive = open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb", buffering=0)
    if not stat.S_ISREG(os.fstat(archive.fileno()).st_mode):
        archive.close()
        raise OSError(errno.EINVAL, "Not a regular file")
    return archive


def _add_members(files: lib.PlateFiles, archive: BinaryIO, name: str, key_of, start: int = 0,
                 end: int | None = None) -> None:  # fmt: skip
    """Adds the members of a tar between two offsets; key_of(name of a member) is its key, a reason, or None."""
    for member in _members(archive, start, end):
        if isinstance(member, str):
            files.add_problem(f"{name}: {member}")
            continue
        key = key_of(member.name)
        if _is_hidden(member) or key is None:
            continue
        reason = _refused(member)
        if reason or isinstance(key, str):
            files.add_other(f"{name}:{member.name}", reason or key)
        else:
            load = functools.partial(_load, archive, member.offset_data, member.size)
            files.add(key, f"{name}:{member.name}", load)


def _members(archive: BinaryIO, start: int = 0, end: int | None = None) -> Iterator[tarfile.TarInfo | str]:
    """Yields the members of a tar whose header starts in [start, end), from headers alone.

    Last may come a text: why there may be more members than those. The tarfile module ends in silence there.
    """
    archive.seek(start)
    try:
        with tarfile.open(fileobj=archive, mode="r:") as tar:
            while member := tar.next():
                tar.members.clear()  # or it keeps all of them
                if member.size < 0:  # the next header would be this one again
                    raise tarfile.HeaderError(f"{member.name} of {member.size} bytes")
                yield member
                if end is not None and tar.offset >= end:
                    return
            archive.seek(tar.offset)
            block = archive.read(BLOCK)
    except NONSENSE as error:
        archive.seek(start)
        if archive.read(len(files.LFS)) == files.LFS:
            yield "a Git LFS pointer, not the tar: run `git lfs pull`"
            return
        whole = str(error) not in ("unexpected end of data", "truncated header", "empty file")
        yield f"corrupt tar ({str(error) or type(error).__name__})" if whole else "cut short"
        return
    if len(block) < BLOCK:
        yield "cut short"
    elif any(block):
        yield "corrupt tar (bad header)"


def _is_hidden(member: tarfile.TarInfo) -> bool:
    return member.isdir() or member.name.rsplit("/", 1)[-1].startswith(".")


def _refused(member: tarfile.TarInfo) -> str:
    """Returns why a member is not read, whatever its name; '' for a plain file inside of the archive."""
    if member.name.startswith("/") or ".." in member.name.split("/"):
        return "a path out of the archive"
    if member.issym() or member.islnk():
        return "a link"
    if member.issparse():
        return "a sparse file"
    return "" if member.isreg() else "not a regular file"


def _load(archive: BinaryIO, offset: int, size: int) -> bytes:
    """Returns the bytes of a member of an archive."""
    if size > lib.MAX_BYTES:
        raise BadSite(f"{size:,} bytes, too large for an image")
    try:
        archive.seek(offset)
        data = archive.read(size)
    except OSError as error:
        raise BadSite(lib.reason_of(error)) from error
    if len(data) != size:
        raise BadSite(f"cut short ({len(data):,} of {size:,} bytes)")
    return data


def _headers(path: str | pathlib.Path, start: int, name: re.Pattern) -> Iterator[bytes]:
    """Yields the first bytes of the first three images in a tar."""
    with contextlib.suppress(OSError), _open(path) as archive:
        members = (member for member in _members(archive, start) if not isinstance(member, str))
        images = (m for m in members if name.fullmatch(m.name.rsplit("/", 1)[-1]) and not _refused(m))
        for member in itertools.islice(images, 3):
            archive.seek(member.offset_data)
            yield archive.read(min(member.size, decode.HEADER_BYTES))
