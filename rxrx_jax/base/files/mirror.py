"""A local folder that stands for a prepared one in an object store. Its tables are there whole; its record files have
their size, but only the bytes that were read: a hole is fetched when it is wanted. So whatever reads a prepared folder
reads one in a store, and never holds more of it than the cache may."""

import dataclasses
import functools
import hashlib
import os
import pathlib
import re
import threading

import numpy as np

from rxrx_jax.base import files
from rxrx_jax.base.errors import UserError
from rxrx_jax.base.files import shards, stores

MARK = "dataset_info.json"  # is uploaded last: a folder without it is not complete
RECORDS = ".array_record-"  # in the name of a record file
DEFAULT = "~/.cache/rxrx_jax,16GB"
UNITS = {"MB": 10**6, "GB": 10**9, "TB": 10**12, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
FULL = 3 / 4  # of the size: what is used longer ago than the rest goes when this is passed
STEP = 1 / 8  # of the size, that is fetched before the disk is looked at again: two processes stay within it
PAGE = 4096  # bytes; the first and last of what is fetched may take one more
ADVICE = "upload the folder again, or prepare the dataset there again"


@dataclasses.dataclass
class Cache:
    """A folder for mirrors that takes `size` bytes of disk at most, its tables included."""

    folder: pathlib.Path
    size: int

    def __post_init__(self):
        self._lock, self._left = threading.Lock(), 0

    def make_room(self, count: int) -> None:
        """Called before `count` bytes are written."""
        with self._lock:
            self._left -= count + 2 * PAGE
            if self._left < 0:
                self._left = int(STEP * self.size) - count - 2 * PAGE
                self._clear()

    def _clear(self) -> None:
        """Empties the record files that were written to longest ago, until no more than FULL is used."""
        found, used = [], 0
        for path in self.folder.rglob("*"):
            try:
                status = path.lstat()
            except FileNotFoundError:
                continue
            used += status.st_blocks * 512
            if RECORDS in path.name and status.st_blocks:
                found.append((status.st_mtime, status.st_blocks * 512, path, status.st_size))
        for _, held, path, size in sorted(found, key=lambda item: item[0]):
            if used <= FULL * self.size:
                return
            os.truncate(path, 0)  # open readers keep their file, and find the hole
            os.truncate(path, size)
            used -= held
        if used > FULL * self.size:
            raise stores.Unreachable(
                f"the tables of datasets in {self.folder} take {used:,} bytes: raise data.cache=DIR,SIZE"
            )


def cache(text: str = "") -> Cache:
    """The cache that "DIR,SIZE" describes, "" the usual one; one object for all that name the same."""
    return _cache(text or DEFAULT)


@functools.cache
def _cache(text: str) -> Cache:
    folder, comma, amount = text.rpartition(",")
    found = re.fullmatch(rf"(\d+(?:\.\d+)?) ?({'|'.join(UNITS)})", amount.strip())
    if not comma or not folder or not found or not float(found[1]):
        raise UserError(f"data.cache={text}: expected DIR,SIZE such as /mnt/disk/cache,500GB ({', '.join(UNITS)})")
    return Cache(pathlib.Path(folder).expanduser().absolute(), int(float(found[1]) * UNITS[found[2]]))


class Mirror:
    """`folder` stands for the prepared folder `address`.

    Args: address, gs:// or s3://; where, the cache, as `cache` takes it; whole, all files but the records are wanted,
    not only tables, and all are fetched again. Raises Unreachable, and UserError where the prepared folder is missing
    or incomplete.
    """

    def __init__(self, address: str, where: str = "", whole: bool = False):
        self.address, self._cache = str(address).rstrip("/"), cache(where)
        if stores.size(f"{self.address}/{MARK}") is None:
            raise UserError(f"no prepared dataset in {self.address} (it has no {MARK})")
        self._listed = stores.listed(self.address)
        self.sizes: dict[str, int] = {}  # of the record files that were placed
        has_sums = files.SUMS in self._listed or stores.size(f"{self.address}/{files.SUMS}") is not None
        first = (files.SUMS,) if has_sums else (MARK, "metadata.json", "manifest.csv")
        what = {name: stores.read(f"{self.address}/{name}") for name in first}
        # another content is another mirror: what is uploaded over a dataset is never mixed with what was there
        key = hashlib.sha256(b"\0".join([self.address.encode(), *what.values()])).hexdigest()[:16]
        self.folder = self._cache.folder.joinpath(key, *self.address.split("/")[-3:])
        self.folder.mkdir(parents=True, exist_ok=True)
        sums = {}
        if has_sums:
            sums = {line[66:]: line[:64] for line in what[files.SUMS].decode(errors="replace").splitlines()}
        names = {*sums, *what} | {name for name in self._listed if RECORDS not in name and not has_sums}
        wanted = [n for n in sorted(names) if "/" not in n and (whole or n in what or n.endswith((".csv", ".json")))]
        known = {} if whole else sums  # who wants all of it wants to know what is there, and not what is here
        stores.parallel(lambda name: self._table(name, known.get(name), what.get(name)), wanted)

    def _table(self, name: str, digest: str | None, content: bytes | None) -> None:
        path = self.folder / name
        if content is not None:
            files.write(path, content) if not path.exists() or path.read_bytes() != content else None
        elif not path.is_file() or digest is None or files.sha256(path, "") != digest:
            self._cache.make_room(self._listed.get(name, 0))
            stores.download(f"{self.address}/{name}", path)

    def place(self, names: list[str], size: int | None = None) -> None:
        """Makes record files of these names, of which nothing is here yet. Their sizes are those of the listing; where
        it lacks one, or they are not `size` in all, each object is asked. Raises UserError if that does not help."""
        found = {name: self._listed.get(name) for name in names}
        if None in found.values() or (size is not None and sum(found.values()) != size):
            found = stores.sizes(self.address, names)
        if missing := [name for name, count in found.items() if count is None]:
            raise UserError(f"{self.address}/{missing[0]} is not there: {ADVICE}")
        if size is not None and (total := sum(found.values())) != size:
            raise UserError(f"{self.address}: its record files have {total} bytes, in {MARK} {size}: {ADVICE}")
        self.sizes.update(found)
        for name, count in found.items():
            path = self.folder / name
            if not path.exists() or path.stat().st_size != count:
                with path.open("ab") as file:
                    file.truncate(count)

    def fetch_whole(self, names: list[str]) -> bool:
        """Brings record files here, but those of which nothing is missing; False, and nothing is done, where they are
        more than the cache takes at once. Raises Unreachable."""
        if sum(self.sizes[name] for name in names) > STEP * self._cache.size:
            return False
        missing = [name for name in names if (self.folder / name).stat().st_blocks * 512 < self.sizes[name]]
        stores.parallel(lambda name: self.fetch(name, 0, self.sizes[name]), missing)
        return True

    def records(self) -> list[str]:
        """The names of the record files that are listed."""
        return sorted(name for name in self._listed if RECORDS in name)

    def places(self, name: str) -> np.ndarray:
        """As `shards.begins`, of a record file, whose end is fetched where it is not here. Raises ValueError."""
        size = self.sizes[name]  # and not the file's: another process may be emptying it
        with (self.folder / name).open("rb") as file:
            try:
                return shards.begins(lambda start, end: os.pread(file.fileno(), end - start, start), size)
            except ValueError:
                self.fetch(name, max(0, size - shards.TAIL), size)
            first = max(0, size - shards.TAIL)

            def get(start: int, end: int) -> bytes:
                nonlocal first
                if start < first:  # the index is larger
                    self.fetch(name, start, first)
                    first = start
                return os.pread(file.fileno(), end - start, start)

            try:
                return shards.begins(get, size)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error

    def fetch(self, name: str, start: int, end: int) -> None:
        """Brings the bytes of a record file from `start` to before `end` here. Raises Unreachable."""
        content = stores.read(f"{self.address}/{name}", start, end)
        self._cache.make_room(end - start)
        file = os.open(self.folder / name, os.O_WRONLY)
        try:
            written = 0
            while written < len(content):
                written += os.pwrite(file, content[written:], start + written)
        finally:
            os.close(file)


def local(path, where: str = "") -> pathlib.Path:
    """The folder itself, or, of one in an object store, the local one with its tables."""
    return Mirror(str(path), where).folder if files.is_remote(path) else pathlib.Path(path)


def exists(folder) -> bool:
    """Whether there is a complete prepared folder, on disk or in an object store."""
    if files.is_remote(folder):
        return stores.size(f"{folder}/{MARK}") is not None
    return (pathlib.Path(folder) / MARK).exists()
