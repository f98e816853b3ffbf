"""How a record holds its image. Every encoding is lossless and reads back as [H, W, C].

    delta    differences of neighbouring pixels, entropy coded: as small as the PNG files, six times faster to read
    zstd     plain TFDS bytes, compressed by array_record: opens without this package
    raw      plain TFDS bytes, uncompressed: the fastest to read and three times the disk
    source   the published files as they are (PNG or JPEG 2000): the smallest for RxRx3-core, and the slowest to read

benchmarks/records.py measures them; docs/records.md has its table.
"""

import struct
from typing import Any

import imagecodecs
import numpy as np
import tensorflow_datasets as tfds
import zstandard

from tfds_builders.common import decode
from tfds_builders.common.types import BadSite

STRIP = 32  # rows after which the vertical difference restarts: a strip is decoded while it is in the cache
# Few matches, mostly Huffman codes: differences of noisy pixels repeat by chance only. Any zstd reads the result.
PARAMETERS = dict(strategy=1, min_match=7, hash_log=6, chain_log=6, window_log=17, search_log=1, target_length=0)


def image_feature(encoding: str, shape: tuple[int, int, int], bits: int) -> tfds.features.FeatureConnector:
    """Returns the TFDS feature of an image [H, W, C], uint8 or (bits 16) uint16, in an encoding."""
    dtype = np.uint8 if bits == 8 else np.uint16
    if encoding == "delta":
        return DeltaImage(shape=shape, dtype=dtype)
    if encoding == "source":
        return SourceImage(shape=shape, dtype=dtype)
    return tfds.features.Tensor(shape=shape, dtype=dtype, encoding="bytes")


def writer_options(encoding: str) -> str:
    """Returns array_record's options; one record per group, as a group is read as a whole."""
    return "group_size:1,zstd:3" if encoding == "zstd" else "group_size:1,uncompressed"


def encode(encoding: str, image: np.ndarray, files: list[bytes], scratch: np.ndarray | None = None) -> Any:
    """Returns what `image_feature(encoding, ...)` takes for an image [C, H, W] read from `files`, one per channel."""
    if encoding == "delta":
        return encode_delta(image, scratch)
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
    flat = np.empty(channels * height * width * dtype.itemsize, np.uint8)
    try:
        if zstandard.frame_content_size(data) != flat.size:
            raise ValueError(f"does not hold {dtype}{shape}")
        imagecodecs.zstd_decode(data, out=flat)
    except (zstandard.ZstdError, imagecodecs.ZstdError) as error:
        raise ValueError(str(error)) from error
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
