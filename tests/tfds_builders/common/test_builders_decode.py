"""Decoding one channel: an intact image exactly, a damaged one never, and no memory for what a file claims."""

import io
import struct
import tracemalloc
import zlib

import imagecodecs
import numpy as np
import pytest
from PIL import Image

from tfds_builders.common import decode as lib
from tfds_builders.common.decode import decode, header
from tfds_builders.common.types import BadSite
from tfds_builders.own import decode as own

GENERATOR = np.random.default_rng(0)
SIZE = (12, 16)
PIXELS = {8: GENERATOR.integers(0, 256, SIZE, np.uint8), 16: GENERATOR.integers(0, 65536, SIZE, np.uint16)}
PASSES = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]  # Adam7


def png(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def forge(pixels: bytes, size=SIZE, interlaced: int = 0, depth: int = 8, colour: int = 0) -> bytes:
    """A PNG file of this header and pixel data, with right checksums."""
    ihdr = struct.pack(">IIBBBBB", size[1], size[0], depth, colour, 0, 0, interlaced)
    return lib.PNG + chunk(b"IHDR", ihdr) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def first_channel(data: bytes, size, bits: int) -> np.ndarray:
    """The first channel of a user's own file."""
    return own.plane(data, 0, size, own.planes(data))


def rows(array: np.ndarray) -> bytes:
    """The rows of a PNG image, each after the number of its filter, none."""
    return b"".join(b"\0" + row.tobytes() for row in array)


def jp2(bits: int = 8, form: str = "jp2") -> bytes:
    return imagecodecs.jpeg2k_encode(PIXELS[bits], level=0, codecformat=form, reversible=True)


def tiled() -> bytes:
    """A bare codestream of six tiles."""
    file = io.BytesIO()
    Image.fromarray(PIXELS[8]).save(file, "JPEG2000", tile_size=(6, 6), no_jp2=True)
    return file.getvalue()


def tile_parts(data: bytes) -> list[tuple[int, int]]:
    """(start, length) of every tile-part of a codestream."""
    at, found = data.index(b"\xff\x90"), []
    while data[at : at + 2] == b"\xff\x90":
        found.append((at, int.from_bytes(data[at + 6 : at + 10], "big")))
        at += found[-1][1]
    return found


@pytest.fixture
def lenient(monkeypatch):
    """A decoder that takes everything, so that only the checks before it count."""
    monkeypatch.setattr(imagecodecs, "jpeg2k_decode", lambda data, **_: np.zeros(SIZE, np.uint8))


def refused(data: bytes, size=SIZE, bits: int = 8) -> str:
    with pytest.raises(BadSite) as error:
        decode(data, size, bits)
    return str(error.value)


@pytest.mark.parametrize("bits", [8, 16])
def test_an_intact_image_is_exact(bits):
    for data in (png(PIXELS[bits]), jp2(bits), jp2(bits, "j2k")):
        for file in (data, data + b"more"):
            found = decode(file, SIZE, bits)
            assert found.dtype == PIXELS[bits].dtype and np.array_equal(found, PIXELS[bits])
        name = "PNG" if data.startswith(lib.PNG) else "JPEG 2000"
        assert header(data) == header(data[:200]) == (*SIZE, bits, name)


@pytest.mark.parametrize("bits", [8, 16])
def test_values_go_where_they_are_wanted(bits):
    image = np.zeros((2, *SIZE), PIXELS[bits].dtype)
    for plane, data in zip(image, (png(PIXELS[bits]), jp2(bits))):
        decode(data, SIZE, bits, plane)
    assert np.array_equal(image, np.stack([PIXELS[bits]] * 2))


def test_pixels_of_16_bits_have_the_high_byte_first():
    data = forge(zlib.compress(rows(PIXELS[16].astype(">u2"))), depth=16)
    assert np.array_equal(decode(data, SIZE, 16), PIXELS[16])


def test_interlaced_images_are_exact():
    data = b"".join(rows(PIXELS[8][y::dy, x::dx]) for y, x, dy, dx in PASSES)
    assert np.array_equal(decode(forge(zlib.compress(data), interlaced=1), SIZE, 8), PIXELS[8])


def test_every_damaged_byte_of_a_png_is_noticed():
    data = png(PIXELS[8])
    for at in range(len(data)):
        damaged = bytearray(data)
        damaged[at] ^= 0x10
        refused(bytes(damaged))


@pytest.mark.parametrize("file", [png(PIXELS[8]), jp2(), jp2(form="j2k"), tiled()])
def test_every_truncation_is_noticed(file, lenient):
    signature = 8 if file.startswith(lib.PNG) else 12 if file.startswith(lib.JP2) else 4
    for length in range(len(file)):
        reason = refused(file[:length])
        expected = "empty file" if not length else "neither PNG nor" if length < signature else "truncated"
        assert reason.startswith(expected), (length, reason)


def test_pixel_data_that_is_short_or_no_zlib_is_noticed():
    assert "corrupt PNG" in refused(forge(zlib.compress(rows(PIXELS[8][:-1]))))
    assert "corrupt PNG" in refused(forge(zlib.compress(rows(PIXELS[8]))[:-4]))
    assert "corrupt PNG" in refused(forge(b"no zlib at all"))
    # a checksum of zlib's own, which a chunk's does not cover
    assert "corrupt PNG" in refused(forge(zlib.compress(rows(PIXELS[8]))[:-1] + b"\0"))


@pytest.mark.parametrize("colour, decoded", [(0, decode), (2, first_channel)], ids=["grey", "colours"])
def test_what_libpng_leaves_in_memory_is_not_the_reason(colour, decoded, monkeypatch):
    def failing(data, out=None):
        raise imagecodecs.PngError("0n8\n<\x7f")

    monkeypatch.setattr(imagecodecs, "png_decode", failing)
    with pytest.raises(BadSite, match=r"^corrupt PNG \(its pixels cannot be decoded\)$"):
        decoded(forge(b"", colour=colour), SIZE, 8)


def test_what_a_png_is_instead_is_said():
    grey = np.full(SIZE, 7, np.uint8)

    def convert(mode):
        return png(np.asarray(Image.fromarray(grey).convert(mode)))

    assert refused(png(PIXELS[16])) == "16-bit grey in place of 8-bit grey"
    assert refused(png(grey), bits=16) == "8-bit grey in place of 16-bit grey"
    assert refused(convert("RGB")) == "8-bit RGB in place of 8-bit grey"
    assert refused(convert("RGBA")) == "8-bit RGBA in place of 8-bit grey"
    assert refused(convert("LA")) == "8-bit grey with alpha in place of 8-bit grey"
    assert refused(forge(b"", colour=5)) == "8-bit colour type 5 in place of 8-bit grey"
    assert refused(png(grey[:5])) == "16x5 pixels in place of 16x12"
    assert refused(b"GIF89a" + bytes(100)) == "neither PNG nor JPEG 2000"
    assert refused(b"") == "empty file"
    body = png(grey)
    assert refused(body[:8] + chunk(b"gAMA", bytes(4)) + body[8:]) == "corrupt PNG (no header)"
    # a transparent value would give the image a second channel
    assert refused(body[:33] + chunk(b"tRNS", b"\0\7") + body[33:]) == "decoded to uint8(12, 16, 2)"


def test_what_a_jpeg_2000_is_instead_is_said():
    colour = imagecodecs.jpeg2k_encode(np.stack([PIXELS[8]] * 3, -1), level=0, reversible=True)
    assert refused(colour) == "8-bit image of 3 components in place of 8-bit grey"
    assert header(colour) == (*SIZE, 8, "JPEG 2000")
    assert refused(jp2(16)) == "16-bit grey in place of 8-bit grey"
    assert refused(jp2(), (12, 12)) == "16x12 pixels in place of 12x12"
    stream = bytearray(jp2(form="j2k"))
    for at, value, reason in (
        (42, 0x87, "8-bit signed grey in place of 8-bit grey"),
        (42, 11, "12-bit grey in place of 8-bit grey"),
        (43, 2, "8-bit subsampled grey in place of 8-bit grey"),
        (27, 0, "corrupt JPEG 2000 (tiles)"),
        (19, 12 + 16, "corrupt JPEG 2000 (no pixels)"),
    ):
        other = bytearray(stream)
        other[at] = value
        assert refused(bytes(other)) == reason


def test_tiles_that_are_missing_are_noticed(lenient):
    data = tiled()
    for start, length in tile_parts(data):
        assert refused(data[:start] + data[start + length :]) == "truncated JPEG 2000 (tiles are missing)"
    start, _ = tile_parts(data)[2]
    parts = data[: start + 11] + b"\2" + data[start + 12 :]  # says that the tile has two parts
    assert refused(parts) == "truncated JPEG 2000 (tiles are missing)"
    short = data[: start + 6] + struct.pack(">I", 13) + data[start + 10 :]
    assert refused(short) == "corrupt JPEG 2000 (length of a tile)"


def test_a_last_tile_of_unknown_length_ends_with_the_image():
    data = tiled()
    start, _ = tile_parts(data)[-1]
    data = data[: start + 6] + bytes(4) + data[start + 10 :]
    for file in (data, data + b"more"):
        assert np.array_equal(decode(file, SIZE, 8), PIXELS[8])
    assert "truncated" in refused(data[:-2])


def test_boxes_of_a_jp2_file(lenient):
    data = jp2()
    at = data.index(b"jp2c") - 4
    box, stream = data[:at], data[at + 8 :]
    to_the_end = box + struct.pack(">I", 0) + b"jp2c" + stream
    extended = box + struct.pack(">I", 1) + b"jp2c" + struct.pack(">Q", len(stream) + 16) + stream
    for file in (to_the_end, extended):
        assert header(file) == (*SIZE, 8, "JPEG 2000")
        decode(file, SIZE, 8)
        assert "truncated" in refused(file[:-1])
    assert refused(box + struct.pack(">I", 7) + b"jp2c" + stream) == "corrupt JPEG 2000 (length of a box)"
    assert refused(box + struct.pack(">I", len(stream) + 8) + b"jp2c" + bytes(50) + stream) == (
        "corrupt JPEG 2000 (no header)"
    )
    with pytest.raises(BadSite, match="truncated"):
        header(data[: at + 20])


def test_claims_and_bombs_take_no_memory():
    claim = (60_000, 60_000)
    jpeg = bytearray(jp2(form="j2k"))
    jpeg[8:16] = struct.pack(">II", *claim)
    bomb = forge(zlib.compress(rows(PIXELS[8]) + bytes(2**26), 9))  # 64 MiB after the last row
    tracemalloc.start()
    try:
        assert refused(forge(zlib.compress(bytes(100)), claim)) == "60000x60000 pixels in place of 16x12"
        assert refused(bytes(jpeg)) == "60000x60000 pixels in place of 16x12"
        assert header(bytes(jpeg)) == (*claim, 8, "JPEG 2000")
        assert len(bomb) < 2**17 and np.array_equal(decode(bomb, SIZE, 8), PIXELS[8])
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()
