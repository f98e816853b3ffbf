"""How a record holds its image. Every encoding is lossless and reads back as [H, W, C].

    delta    differences of neighbouring pixels, entropy coded: as small as the PNG files, six times faster to read
    zstd     plain TFDS bytes, compressed by array_record: opens without this package
    raw      plain TFDS bytes, uncompressed: the fastest to read and three times the disk
    source   the published files as they are (PNG or JPEG 2000): the smallest for RxRx3-core, and the slowest to read

benchmarks/records.py measures them; docs/records.md has its table. A large image is cut into square tiles, each a
record of its own, so that a crop is read without the rest.
"""

import math
import struct
import threading
from typing import Any

import imagecodecs
import numpy as np
import tensorflow_datasets as tfds
import zstandard

from rxrx_jax.base.errors import UserError
from tfds_builders.common import decode
from tfds_builders.common.types import BadSite

STRIP = 32  # rows after which the vertical difference restarts: a strip is decoded while it is in the cache
TILE_STRIP, BAND = 16, 64  # the same of a tile, of which a crop needs a part; rows of a tile that are decoded as one
# Few matches, mostly Huffman codes: differences of noisy pixels repeat by chance only. Any zstd reads the result.
PARAMETERS = dict(strategy=1, min_match=7, hash_log=6, chain_log=6, window_log=17, search_log=1, target_length=0)


WHOLE = 1024  # pixels of the longer side, up to which an image is one record unless a tile is asked for
TILES = (256, 512)  # sides of tiles to choose from for a larger one; benchmarks/scale.py measures them


def tile_side(wanted: int | None, size: tuple[int, int], encoding: str) -> int:
    """Returns the side in pixels of the tiles that images of `size` (H, W) are cut into; 0 for whole images.

    With None, larger images than WHOLE are cut into the smallest tiles of TILES that divide both sides, if any does.
    Raises UserError for a side that does not divide both."""
    common = math.gcd(*size)
    if wanted is None:
        if max(size) <= WHOLE or encoding == "source":
            return 0
        return next((side for side in range(TILES[0], TILES[1] + 1) if common % side == 0), 0)
    if wanted and common % wanted:
        near = [side for side in range(1, common + 1) if common % side == 0]
        near = sorted(sorted(near, key=lambda side: abs(side - wanted))[:3])
        raise UserError(
            f"--tile={wanted} does not divide images of {size[0]} x {size[1]} pixels: use {', '.join(map(str, near))} "
            "or another divisor of both, or 0 for whole images"
        )
    return wanted


def cut(image: np.ndarray, side: int) -> np.ndarray:
    """Returns the tiles [H / side * W / side, C, side, side] of an image [C, H, W], row by row."""
    channels, height, width = image.shape
    tiles = image.reshape(channels, height // side, side, width // side, side)
    return tiles.transpose(1, 3, 0, 2, 4).reshape(-1, channels, side, side)


def join(tiles: list[np.ndarray], shape: tuple[int, int, int]) -> np.ndarray:
    """Returns the image [H, W, C] of this shape whose tiles [side, side, C], row by row, these are."""
    height, width, channels = shape
    side = tiles[0].shape[0]
    grid = np.stack(tiles).reshape(height // side, width // side, side, side, channels)
    return grid.transpose(0, 2, 1, 3, 4).reshape(shape)


def image_feature(
    encoding: str, shape: tuple[int, int, int], bits: int, tile: bool = False
) -> tfds.features.FeatureConnector:
    """Returns the TFDS feature of an image or tile [H, W, C], uint8 or (bits 16) uint16, in an encoding."""
    dtype = np.uint8 if bits == 8 else np.uint16
    if encoding == "delta":
        return DeltaTile(shape=shape, dtype=dtype) if tile else DeltaImage(shape=shape, dtype=dtype)
    if encoding == "source":
        return SourceImage(shape=shape, dtype=dtype)
    return tfds.features.Tensor(shape=shape, dtype=dtype, encoding="bytes")


def writer_options(encoding: str) -> str:
    """Returns array_record's options; one record per group, as a group is read as a whole."""
    return "group_size:1,zstd:3" if encoding == "zstd" else "group_size:1,uncompressed"


def encode(
    encoding: str, image: np.ndarray, files: list[bytes], scratch: np.ndarray | None = None, tile: bool = False
) -> Any:
    """Returns what `image_feature(encoding, ...)` takes for an image or tile [C, H, W], read from `files`, one per
    channel."""
    if encoding == "delta":
        return encode_tile(image) if tile else encode_delta(image, scratch)
    if encoding == "source":
        return struct.pack(f"<{len(files) + 1}I", len(files), *map(len, files)) + b"".join(files)
    return np.ascontiguousarray(image.transpose(1, 2, 0))  # [H, W, C]


def encode_delta(image: np.ndarray, scratch: np.ndarray | None = None) -> bytes:
    """Compresses an image [C, H, W], uint8 or uint16; `scratch`, like it, is memory to work in.

    Each pixel minus the one above it (but in the first row of a strip), then minus the result to its left, in
    wrapping arithmetic; 16-bit results as all low bytes, then all high bytes; then one zstd frame.
    """
    image = np.ascontiguousarray(image)
    rows = image.reshape(-1, image.shape[2])  # [C * H, W]
    delta = np.empty_like(image) if scratch is None else scratch
    flat = delta.reshape(rows.shape)
    np.subtract(rows[1:], rows[:-1], out=flat[1:])
    delta[:, ::STRIP] = image[:, ::STRIP]  # first rows of strips, and with them of channels
    imagecodecs.delta_encode(delta, axis=-1, out=delta)
    if image.itemsize == 2:
        delta = np.ascontiguousarray(delta.astype("<u2").view(np.uint8).reshape(-1, 2).T)  # [2, C * H * W]
    compressor = zstandard.ZstdCompressor(
        compression_params=zstandard.ZstdCompressionParameters(**PARAMETERS, write_checksum=1)
    )
    return compressor.compress(delta)


def decode_delta(
    data: bytes, shape: tuple[int, int, int], dtype: Any, window: tuple = (slice(None), slice(None))
) -> np.ndarray:
    """Returns the image [C, H, W] of shape [H, W, C] that `encode_delta` compressed, or a window of its rows and
    columns (slices of step 1, a view) and, third, channels (a slice or list): differences are undone only where it
    needs them. ValueError if it is not one."""
    height, width, channels = shape
    dtype = np.dtype(dtype)
    flat = _decompressed(data, np.empty(channels * height * width * dtype.itemsize, np.uint8))
    if dtype.itemsize == 2:
        flat = np.ascontiguousarray(flat.reshape(2, -1).T).view("<u2").astype(np.uint16, copy=False)
    image = flat.reshape(channels, height, width)[window[2] if len(window) > 2 else slice(None)]
    (top, bottom, _), (left, right, _) = window[0].indices(height), window[1].indices(width)
    first = top // STRIP * STRIP  # the window's first row counts from there
    start_of_rows = image[:, first:bottom, :right]
    imagecodecs.delta_decode(start_of_rows, axis=-1, out=start_of_rows)
    rows = image[:, first:bottom, left:right]
    for row in range(1, min(STRIP, bottom - first)):
        below = rows[:, row::STRIP]
        below += rows[:, row - 1 :: STRIP][:, : below.shape[1]]
    return rows[:, top - first :]


def _decompressed(data: bytes, out: np.ndarray) -> np.ndarray:
    """Returns `out`, uint8 [bytes], filled from one zstd frame. ValueError unless it holds as many bytes."""
    try:
        if zstandard.frame_content_size(data) != out.size:
            raise ValueError(f"does not hold {out.size} bytes")
        imagecodecs.zstd_decode(data, out=out)
    except (zstandard.ZstdError, imagecodecs.ZstdError) as error:
        raise ValueError(str(error)) from error
    return out


def encode_tile(image: np.ndarray) -> bytes:
    """Compresses a tile [C, H, W], uint8 or uint16, so that a window of it is decoded with few of its other pixels.

    As `encode_delta`, but pixel after pixel with all channels, as training wants them, with strips of TILE_STRIP rows,
    and a zstd frame for each BAND of rows; the lengths of the frames come first.
    """
    pixels = np.ascontiguousarray(image.transpose(1, 2, 0))  # [H, W, C]
    down = pixels.copy()
    down[1:] -= pixels[:-1]
    down[::TILE_STRIP] = pixels[::TILE_STRIP]
    delta = down.copy()
    delta[:, 1:] -= down[:, :-1]
    compressor = zstandard.ZstdCompressor(
        compression_params=zstandard.ZstdCompressionParameters(**PARAMETERS, write_checksum=1)
    )
    frames = []
    for top in range(0, len(delta), BAND):
        band = delta[top : top + BAND]
        if band.itemsize == 2:  # low bytes, then high bytes
            band = np.ascontiguousarray(band.astype("<u2").view(np.uint8).reshape(-1, 2).T)
        frames.append(compressor.compress(band))
    return struct.pack(f"<{len(frames)}I", *map(len, frames)) + b"".join(frames)


def decode_tiles(tiles: list[bytes], shape: tuple[int, int, int], dtype: np.dtype, rows: slice,
                 columns: list[slice], channels: Any, out: np.ndarray) -> None:  # fmt: skip
    """Decodes a window of tiles that lie side by side.

    Args:
      tiles: of `encode_tile`, from left to right, each [H, W, C] of `shape` and `dtype`.
      rows: of all tiles, that are wanted.
      columns: of each tile.
      channels: a slice or a list.
      out: [rows, columns of all tiles, channels], where it is written.

    Raises: ValueError if one is not such a tile.
    """
    height, width, count = shape
    start = rows.start // TILE_STRIP * TILE_STRIP
    pixels = _reused("pixels", (rows.stop - start, *out.shape[1:]), dtype)
    first, last = start // BAND, -(-rows.stop // BAND)
    decoded = _reused("decoded", (min(last * BAND, height) - first * BAND, width, count), dtype)
    left = 0
    for data, of in zip(tiles, columns, strict=True):
        _decode_bands(data, height, range(first, last), decoded)
        lines = decoded[start - first * BAND : rows.stop - first * BAND, : of.stop]
        imagecodecs.delta_decode(lines, axis=1, out=lines)
        right = left + of.stop - of.start
        pixels[:, left:right] = lines[:, of, channels]
        left = right
    lines = pixels.reshape(len(pixels), -1)
    for row in range(1, min(TILE_STRIP, len(lines))):
        below = lines[row::TILE_STRIP]
        below += lines[row - 1 :: TILE_STRIP][: len(below)]
    out[...] = pixels[rows.start - start :]


def _decode_bands(data: bytes, height: int, bands: range, out: np.ndarray) -> None:
    """Decompresses some bands of a tile to `out`, the rows of them all."""
    count = -(-height // BAND)
    try:
        lengths = struct.unpack_from(f"<{count}I", data)
    except struct.error as error:
        raise ValueError(str(error)) from error
    place = 4 * count + sum(lengths[: bands.start])
    flat, size = out.reshape(-1).view(np.uint8), BAND * out[0].nbytes
    for i, band in enumerate(bands):
        part = flat[i * size : (i + 1) * size]
        _decompressed(data[place : place + lengths[band]], part)
        if out.itemsize == 2:
            part.view(out.dtype)[:] = np.ascontiguousarray(part.reshape(2, -1).T).view("<u2")[:, 0]
        place += lengths[band]


_memory = threading.local()  # of each thread: fresh memory for every tile would take a fifth of the time


def _reused(name: str, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Memory of this thread, which the next call with this name overwrites."""
    size = math.prod(shape) * dtype.itemsize
    if getattr(_memory, name, np.empty(0)).size < size:
        setattr(_memory, name, np.empty(size, np.uint8))
    return getattr(_memory, name)[:size].view(dtype).reshape(shape)


class _EncodedImage(tfds.features.FeatureConnector):
    """An image [H, W, C] that is one string of bytes in the record."""

    def __init__(self, *, shape: tuple[int, int, int], dtype: Any):
        super().__init__()
        self._shape, self._dtype = tuple(shape), np.dtype(dtype)

    def get_tensor_info(self) -> tfds.features.TensorInfo:
        return tfds.features.TensorInfo(shape=self._shape, dtype=self._dtype)

    def get_serialized_info(self) -> tfds.features.TensorInfo:
        return tfds.features.TensorInfo(shape=(), dtype=np.object_)

    def encode_example(self, example_data: bytes) -> bytes:
        return example_data  # encoded where it was read

    def decode_example(self, tfexample_data):
        raise NotImplementedError("array_record is read with as_data_source(), not with as_dataset()")

    def to_json_content(self) -> dict[str, Any]:
        return {"shape": list(self._shape), "dtype": self._dtype.name}

    def decode_window(self, data: bytes, window: tuple) -> np.ndarray:
        """Returns a window (slices of rows and columns and, if there is a third, of channels, or a list of these) of
        the image, [h, w, C]. Raises ValueError where the bytes are not such an image."""
        return self.decode_example_np(data)[window]

    @classmethod
    def from_json_content(cls, value: dict[str, Any]) -> "_EncodedImage":
        return cls(shape=tuple(value["shape"]), dtype=value["dtype"])


class DeltaImage(_EncodedImage):
    """An image in the encoding `delta`."""

    def decode_example_np(self, example_data: bytes) -> np.ndarray:
        """Returns [H, W, C], a view of planes [C, H, W]."""
        return decode_delta(example_data, self._shape, self._dtype).transpose(1, 2, 0)

    def decode_window(self, data: bytes, window: tuple) -> np.ndarray:
        """As the base class, decoding no more than it needs."""
        return decode_delta(data, self._shape, self._dtype, window).transpose(1, 2, 0)


class DeltaTile(_EncodedImage):
    """A tile of an image in the encoding `delta`."""

    def decode_example_np(self, example_data: bytes) -> np.ndarray:
        """Returns [H, W, C]."""
        return self.decode_window(example_data, (slice(None), slice(None)))

    def decode_window(self, data: bytes, window: tuple) -> np.ndarray:
        """As the base class, decoding no more than it needs."""
        rows, columns = (slice(*s.indices(n)[:2]) for s, n in zip(window, self._shape))
        channels = window[2] if len(window) > 2 else slice(None)
        count = len(np.arange(self._shape[2])[channels])
        out = np.empty((rows.stop - rows.start, columns.stop - columns.start, count), self._dtype)
        self.decode_beside([data], rows, [columns], channels, out)
        return out

    def decode_beside(self, tiles: list[bytes], rows: slice, columns: list[slice], channels: Any, out: np.ndarray):
        """As `decode_tiles`, of tiles of this feature."""
        decode_tiles(tiles, self._shape, self._dtype, rows, columns, channels, out)


class SourceImage(_EncodedImage):
    """An image in the encoding `source`."""

    def decode_example_np(self, example_data: bytes) -> np.ndarray:
        """Returns [H, W, C], a view of planes [C, H, W]. Raises ValueError if it is not such an image."""
        height, width, count = self._shape
        planes = np.empty((count, height, width), self._dtype)
        try:
            found, *lengths = struct.unpack_from(f"<{count + 1}I", example_data)
            if found != count:
                raise ValueError(f"{found} channels in place of {count}")
            start = 4 * (count + 1)
            for plane, length in zip(planes, lengths):
                file = bytes(example_data[start : start + length])
                decode.decode(file, (height, width), 8 * self._dtype.itemsize, out=plane)
                start += length
        except (struct.error, BadSite) as error:
            raise ValueError(str(error)) from error
        return planes.transpose(1, 2, 0)
