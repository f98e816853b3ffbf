"""Images as rows of Parquet files: RxRx3-core as Hugging Face holds it, one row per channel."""

import contextlib
import dataclasses
import errno
import functools
import itertools
import os
import pathlib
import stat
from collections.abc import Callable, Iterator
from typing import Any

from rxrx_jax.base.errors import UserError
from rxrx_jax.base.files import is_pointer
from tfds_builders.common.sources import files as lib
from tfds_builders.common.types import BadSite

KEY, IMAGE = "__key__", "jp2"
BATCH = 64  # rows decoded at a time
BUFFER = 2**20  # bytes read at a time; without it a whole column of a row group
GROUPS = 9  # row groups whose images vote for the size


@dataclasses.dataclass(frozen=True)
class Parquet:
    """Files *.parquet, anywhere in the source folder, with the columns __key__ and jp2. See `sources`.

    A key is gene-001/Plate1/A01_s1_1; jp2 is the bytes of a file, or a struct with them in its field bytes. Keys
    are read once, when the source is made; the index holds the row groups of every plate. An open plate reads each
    of its row groups once, when the first image of it is asked for, and keeps the images of the plate and no others:
    10 MB for a plate of RxRx3-core, whatever order its rows are in. Indexing its 1.3 million keys takes 5 s and 56 MB.
    """

    root: pathlib.Path
    follow_links: bool = False
    found: lib.Index = dataclasses.field(init=False, repr=False, compare=False)

    def __post_init__(self):
        index = lib.Index()
        index.list_files(self.root, ".parquet", self.follow_links)
        for place, name in enumerate(index.names):
            try:
                with _open(self.root / name) as file:
                    _index_file(index, place, name, file)
            except BadSite as error:
                index.problems.append(f"{name}: {error}")
        index.check(self.root, f"*.parquet with the columns {KEY}, as EXPERIMENT/PlateN/WELL_sS_C, and {IMAGE}")
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
        for place, groups in self.found.parts.get((experiment, plate), {}).items():
            name = self.found.names[place]
            try:
                with _open(self.root / name) as file:
                    for group in groups:
                        _add_group(files, self.root / name, name, (experiment, plate), group, _keys(file, group))
            except BadSite as error:
                files.add_problem(f"{name}: {error}")
        try:
            yield files
        finally:
            files.close()

    def size(self) -> tuple[int, int] | None:
        parts = self.found.parts
        places = [(p, group) for plate in self.plates() for p, groups in parts[plate].items() for group in groups]
        chosen = lib.spread(sorted(set(places)), GROUPS)
        return lib.vote(itertools.chain.from_iterable(self._some(*place) for place in chosen))

    def _some(self, place: int, group: int) -> Iterator[bytes]:
        """Yields the first images of a row group."""
        with contextlib.suppress(BadSite), _open(self.root / self.found.names[place]) as file:
            images = (image.as_py() for image in itertools.islice(_images(file, group), 11))
            yield from filter(None, images)


def _pyarrow() -> Any:
    try:
        import pyarrow.compute
        import pyarrow.parquet
    except ImportError as error:
        raise UserError("images in Parquet files need pyarrow: pip install pyarrow") from error
    return pyarrow


@contextlib.contextmanager
def _reading() -> Iterator[None]:
    """Raises what Arrow cannot read as BadSite."""
    try:
        yield
    except (OSError, ValueError, _pyarrow().ArrowException) as error:
        text = getattr(error, "strerror", None) or " ".join(str(error).split())  # some have several lines
        raise BadSite(f"cannot be read ({text})") from error


@contextlib.contextmanager
def _open(path: pathlib.Path) -> Iterator[Any]:
    if is_pointer(path):
        raise BadSite("a Git LFS pointer, not the file: run `git lfs pull`")
    with _reading():
        if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe would wait for someone to write
            raise OSError(errno.EINVAL, "Not a regular file")
        # Checksums of pages are optional: they are checked where the writer made them.
        file = _pyarrow().parquet.ParquetFile(os.fspath(path), buffer_size=BUFFER, page_checksum_verification=True)
    with file:
        yield file


def _keys(file: Any, group: int) -> list[str | None]:
    """Returns the keys of a row group."""
    with _reading():
        keys = file.read_row_group(group, columns=[KEY], use_threads=False).column(KEY).to_pylist()
    return [key if isinstance(key, str) else None for key in keys]


def _index_file(index: lib.Index, place: int, name: str, file: Any) -> None:
    missing = [column for column in (KEY, IMAGE) if column not in file.schema_arrow.names]
    if missing:
        index.add_stray(name, f"no column {', '.join(missing)}")
        return
    for group in range(file.num_row_groups):
        try:
            keys = _keys(file, group)
        except BadSite as error:
            index.problems.append(f"{name}, row group {group}: {error}")
            continue
        for key in keys:
            plate = lib.plate_of(key) if key else None
            if plate is None:
                index.add_stray(f"{name}:{key}" if key else f"{name}, row group {group}", "" if key else "no key")
                continue
            groups = index.parts.setdefault(plate, {}).setdefault(place, [])
            if not groups or groups[-1] != group:
                groups.append(group)


def _add_group(files: lib.PlateFiles, path: pathlib.Path, name: str, plate: tuple[str, int], group: int,
               keys: list[str | None]) -> None:  # fmt: skip
    """Adds the images that a row group with these keys has of a plate."""
    mine = {row: key for row, key in enumerate(keys) if key and lib.plate_of(key) == plate}
    rows = {row: lib.key_of(key) for row, key in mine.items()}
    # read when the first of them is asked for, then held until the plate is closed
    read = functools.cache(functools.partial(_read_group, path, group, frozenset(rows)))
    for row, key in rows.items():
        if key:
            files.add(key, f"{name}:{mine[row]}", functools.partial(_load, read, row))
        else:
            files.add_other(f"{name}:{mine[row]}")


def _read_group(path: pathlib.Path, group: int, rows: frozenset[int]) -> dict[int, bytes | None] | BadSite:
    """Returns the images in some rows of a row group, or why it cannot be read."""
    try:
        with _open(path) as file:  # its own: Arrow holds what it read last as long as a file is there
            return {row: image.as_py() for row, image in enumerate(_images(file, group)) if row in rows}
    except BadSite as error:
        return error


def _load(read: Callable[[], dict[int, bytes | None] | BadSite], row: int) -> bytes:
    found = read()
    if isinstance(found, BadSite):
        raise BadSite(str(found))
    if found.get(row) is None:
        raise BadSite("no image in its row")
    return found[row]


def _images(file: Any, group: int) -> Iterator[Any]:
    """Yields the image of every row of a row group, as an Arrow scalar of bytes."""
    pa = _pyarrow()
    with _reading():
        for batch in file.iter_batches(BATCH, row_groups=[group], columns=[IMAGE], use_threads=False):
            column = batch.column(0)
            if pa.types.is_struct(column.type):  # {bytes, path}
                column = pa.compute.struct_field(column, "bytes")
            if not (pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type)):
                raise ValueError(f"column {IMAGE} holds {column.type}, not bytes")
            yield from column
