"""Records of a split: array_record files -> images by their number, of which only the requested window is decoded, and
of images in tiles, a record each, only the tiles that it touches are read."""

import dataclasses
import os
import resource
import stat
from typing import Any

import numpy as np
from array_record.python.array_record_data_source import ArrayRecordDataSource
from array_record.python.array_record_module import ArrayRecordReader

from rxrx_jax.base.errors import UserError
from rxrx_jax.base.files import check_pointer, mirror, shards, stores

# Every thread reads by itself. array_record's own threads put each record into freshly allocated memory, and the
# kernel takes longer to give them its pages than they take to read it.
READER = {"max_parallelism": "0"}


@dataclasses.dataclass(frozen=True)
class Encoded:
    """An image [H, W, C] in a record's encoding: `encoded[rows, columns]`, slices, or `encoded[rows, columns,
    channels]` with a slice or list of these, decodes no more than it needs, and raises ValueError where the bytes are
    not such an image. A feature with an encoding of its own has `decode_window(data, window)`; any other holds the
    image's plain bytes."""

    feature: object
    data: bytes | memoryview

    def __getitem__(self, window: tuple) -> np.ndarray:
        if hasattr(self.feature, "decode_window"):
            return self.feature.decode_window(self.data, window)
        return np.frombuffer(self.data, self.feature.np_dtype).reshape(self.feature.shape)[window]


@dataclasses.dataclass(frozen=True)
class Chosen:
    """Images of a split with some of their channels: `chosen[i][rows, columns]` is
    `images[i][rows, columns, channels]`."""

    images: Any
    channels: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> "ChosenImage":
        first, last = self.channels[0], self.channels[-1]
        neighbours = self.channels == tuple(range(first, last + 1))
        return ChosenImage(self.images[index], slice(first, last + 1) if neighbours else list(self.channels))


@dataclasses.dataclass(frozen=True)
class ChosenImage:
    """An image of `Chosen`."""

    image: Any
    channels: slice | list[int]

    def __getitem__(self, window: tuple[slice, slice]) -> np.ndarray:
        return self.image[(*window, self.channels)]


def write_window(image: Any, window: tuple[slice, slice], out: np.ndarray) -> None:
    """Writes image[window] to `out` [h, w, C]; straight into it where the image can do that."""
    if isinstance(image, ChosenImage) and hasattr(image.image, "write"):
        image.image.write((*window, image.channels), out)
    elif hasattr(image, "write"):
        image.write(window, out)
    elif (found := image[window]).strides[-1] == found.itemsize:
        out[...] = found
    else:  # planes, three times faster one by one
        for channel in range(out.shape[-1]):
            out[..., channel] = found[..., channel]


class Records:
    """The images of a split: `records[i][rows, columns]`, slices, is a window [h, w, C] of record i.

    Raises ValueError with the reason where a record cannot be read or has another label than the table. TFDS's own data
    source gives the same image, but parses all of a record, which copies its pixels twice.

    Args: files, TFDS's file instructions of the split; feature, that of the image; size, bytes that the files had when
    they were written; labels, int [n], what the table says of each image; each, records of an image; where, the mirror
    of an object store in which the files are, None for a disk. Raises UserError when the files are missing or cut
    short, or hold another number of records.
    """

    def __init__(
        self, files: list, feature, size: int, labels: np.ndarray, each: int = 1, where: mirror.Mirror | None = None
    ):
        if where is None:
            check_files(files, size)
            self._source = ArrayRecordDataSource(files, READER)
        else:
            where.place([os.path.basename(file.filename) for file in files], size)
            self._source = shards.Shards(where, files)
        self._feature, self._labels = feature, labels
        self._each, self.dtype = each, np.dtype(feature.np_dtype)

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Encoded:
        try:
            record = self._source[index]
        except RuntimeError as error:  # array_record's
            raise ValueError(str(error)) from error
        image, label = image_bytes(record), label_of(record)
        if label != (expected := self._labels[index // self._each]):
            raise ValueError(f"its label is {label}, in sites.csv {expected}")
        return Encoded(self._feature, image)


class Tiles:
    """The images of a split: `tiles[i][rows, columns]`, slices, is a window [h, w, C] of image i, as of `Records`.

    Args: records, of the tiles, those of an image one after the other, row by row; shape [H, W, C] of an image; side,
    pixels of a tile, which divides H and W.
    """

    def __init__(self, records: Records, shape: tuple[int, int, int], side: int):
        self._records, self.shape, self.side, self.dtype = records, shape, side, records.dtype
        self.across = shape[1] // side
        self.per_image = shape[0] // side * self.across

    def __len__(self) -> int:
        return len(self._records) // self.per_image

    def __getitem__(self, index: int) -> "TiledImage":
        return TiledImage(self, index)

    def tile(self, index: int, number: int) -> Encoded:
        """Tile `number` of image `index`. Raises ValueError naming it."""
        try:
            return self._records[index * self.per_image + number]
        except stores.Unreachable:  # which is not of this tile
            raise
        except ValueError as error:
            raise ValueError(f"tile {number}: {error}") from error


@dataclasses.dataclass(frozen=True)
class TiledImage:
    """An image of `Tiles`: `image[rows, columns]`, or `image[rows, columns, channels]`, reads no more tiles than it
    needs."""

    tiles: Tiles
    index: int

    def __getitem__(self, window: tuple) -> np.ndarray:
        rows, columns = (slice(*s.indices(n)) for s, n in zip(window, self.tiles.shape[:2]))
        channels = np.arange(self.tiles.shape[2])[window[2] if len(window) > 2 else slice(None)]
        shape = rows.stop - rows.start, columns.stop - columns.start, len(channels)
        out = np.empty(shape, self.tiles.dtype)
        self.write(window, out)
        return out

    def write(self, window: tuple, out: np.ndarray) -> None:
        """Writes a window to `out` [h, w, C], contiguous. Raises ValueError naming a tile that cannot be read."""
        rows, columns = (_pieces(s, n, self.tiles.side) for s, n in zip(window, self.tiles.shape[:2]))
        channels = window[2] if len(window) > 2 else slice(None)
        top = 0
        for y, of_rows in rows:
            bottom = top + of_rows.stop - of_rows.start
            numbers = [y * self.tiles.across + x for x, _ in columns]
            beside = [self.tiles.tile(self.index, number) for number in numbers]
            _write_beside(beside, numbers, of_rows, [of for _, of in columns], channels, out[top:bottom])
            top = bottom


def _pieces(window: slice, length: int, side: int) -> list[tuple[int, slice]]:
    """The tiles that a window along one side of an image touches: the place of each and the window in it."""
    start, stop, _ = window.indices(length)
    first, last = start // side, max(start, stop - 1) // side
    return [(i, slice(max(start - i * side, 0), min(stop - i * side, side))) for i in range(first, last + 1)]


def _write_beside(beside: list[Encoded], numbers: list[int], rows: slice, columns: list[slice], channels: Any,
                  out: np.ndarray) -> None:  # fmt: skip
    """Writes a window of tiles that lie side by side to `out` [h, w, C], all at once where their encoding can."""
    feature = beside[0].feature
    try:
        if hasattr(feature, "decode_beside"):
            feature.decode_beside([tile.data for tile in beside], rows, columns, channels, out)
            return
        left = 0
        for tile, of in zip(beside, columns):
            out[:, left : left + of.stop - of.start] = tile[rows, of, channels]
            left += of.stop - of.start
    except ValueError as error:
        for tile, number, of in zip(beside, numbers, columns):
            try:
                tile[rows, of]
            except ValueError as reason:
                raise ValueError(f"tile {number}: {reason}") from error
        raise


def check_files(files: list, size: int) -> None:
    """Raises UserError unless the files of a split exist and have `size` bytes in all; each is opened only if not,
    for a prepared RxRx3 has a hundred thousand."""
    remedy = "copy it again, or rebuild the dataset"
    try:
        found = [os.stat(file.filename) for file in files]
    except OSError as error:
        raise UserError(f"{error.filename} cannot be read ({error.strerror}): {remedy}") from error
    for file, status in zip(files, found):
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for someone to write
            raise UserError(f"{file.filename} is not a regular file: {remedy}")
    total = sum(status.st_size for status in found)
    if total == size:
        return
    for file in files:
        check_pointer(file.filename)
        if ArrayRecordReader(os.fspath(file.filename)).num_records() != file.examples_in_shard:  # 0 where it is cut
            raise UserError(f"{file.filename} is cut short or damaged: {remedy}")
    raise UserError(
        f"{files[0].filename}: its split has {total} bytes and not {size}, as dataset_info.json says: {remedy}"
    )


def allow_open_files(count: int) -> None:
    """Raises this process's limit of open files by that many, within the system's limit: record files stay open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY:
        wanted = soft + count if hard == resource.RLIM_INFINITY else min(soft + count, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def image_bytes(record: bytes) -> memoryview:
    """The bytes of the feature "image" of a serialised tf.train.Example, which are not copied.

    Raises ValueError if it has none. The format: https://protobuf.dev/programming-guides/encoding; the messages:
    Example {Features features = 1}, Features {map<string, Feature> feature = 1}, where a map is a repeated
    {string key = 1; Feature value = 2}, Feature {BytesList bytes_list = 1}, BytesList {repeated bytes value = 1}.
    """
    return _value(record, b"image", 1)


def label_of(record: bytes) -> int:
    """The number in the feature "perturbation_id", as `image_bytes` finds the image: in Int64List int64_list = 3, which
    is {repeated int64 value = 1}, packed."""
    label, _ = _varint(_value(record, b"perturbation_id", 3) or b"\0", 0)
    return label - (1 << 64) if label >> 63 else label


def _value(record: bytes, name: bytes, kind: int) -> memoryview:
    """The content of the list, of that kind, of a feature. Raises ValueError if there is none."""
    try:
        for features in _fields(memoryview(record), 1):
            for entry in _fields(features, 1):
                if name in _fields(entry, 1):
                    for feature in _fields(entry, 2):
                        for values in _fields(feature, kind):
                            return next(_fields(values, 1))
    except (IndexError, StopIteration):
        raise ValueError("not a tf.train.Example: it ends within a field") from None
    raise ValueError(f"no {name.decode()} in its {len(record)} bytes")  # none: where a file was cut


def _fields(message: memoryview, number: int):
    """The contents of each field of this number in a message, of those that say their length."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        kind, length = tag & 7, 0
        if kind == 0:
            _, at = _varint(message, at)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        elif kind == 2:
            length, at = _varint(message, at)
        else:
            raise ValueError(f"not a tf.train.Example: wire type {kind}")
        if at + length > len(message):
            raise IndexError
        if kind == 2 and tag >> 3 == number:
            yield message[at : at + length]
        at += length


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """The number at a place, seven bits a byte, the lowest first; and where it ends."""
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
