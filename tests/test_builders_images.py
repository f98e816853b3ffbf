"""Reading one PNG file: an intact image exactly, a damaged one never."""

import io
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile

from tfds_builders.rxrx1.images import BadSite, read_png

PIXELS = np.random.default_rng(0).integers(0, 256, (16, 16), np.uint8)


def png(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


def forge(data: bytes, pixels: bytes) -> bytes:
    """Replaces the pixel data of a PNG file, with a right checksum."""
    at = data.index(b"IDAT")
    size = int.from_bytes(data[at - 4 : at], "big")
    body = b"IDAT" + pixels
    chunk = len(pixels).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")
    return data[: at - 4] + chunk + data[at + size + 8 :]


def test_an_intact_image_is_exact():
    assert np.array_equal(read_png(png(PIXELS), 16), PIXELS)
    assert np.array_equal(read_png(png(PIXELS) + b"more", 16), PIXELS)


def test_every_damaged_byte_is_noticed():
    data = png(PIXELS)
    for at in range(len(data)):
        damaged = bytearray(data)
        damaged[at] ^= 0x10
        with pytest.raises(BadSite):
            read_png(bytes(damaged), 16)


def test_every_truncation_is_noticed():
    data = png(PIXELS)
    for length in range(len(data)):
        with pytest.raises(BadSite, match="empty file" if not length else "not a PNG" if length < 8 else "truncated"):
            read_png(data[:length], 16)


@pytest.mark.parametrize("lenient", [False, True])
def test_too_little_pixel_data_is_noticed(monkeypatch, lenient):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", lenient)  # some other code may have set it
    with pytest.raises(BadSite, match="corrupt PNG"):
        read_png(forge(png(PIXELS), zlib.compress(b"short")), 16)


def test_pixel_data_that_does_not_decompress_is_noticed():
    with pytest.raises(BadSite, match="corrupt PNG"):
        read_png(forge(png(PIXELS), b"not zlib at all"), 16)
