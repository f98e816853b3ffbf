"""Decodes one file: the bytes of a PNG or JPEG 2000 file to [H, W] grey values, or BadSite with the reason.

Size and depth are read from the header and compared before anything is allocated, so that a file that claims
(or inflates to) far more than its image costs no memory. PNG has checksums: no damage passes. JPEG 2000 has
none: cut or misshapen files are refused, but a changed byte inside of coded pixels may pass, as in any reader.
What follows the end of an image (after IEND or EOC) is ignored, as is PNG pixel data beyond the last row.
"""

import struct
import zlib
from typing import NamedTuple

import imagecodecs
import numpy as np

from rxrx_jax.base import files
from tfds_builders.common.types import BadSite

PNG = b"\x89PNG\r\n\x1a\n"
JP2 = b"\x00\x00\x00\x0cjP  \r\n\x87\n"
CODESTREAM = b"\xff\x4f\xff\x51"  # JPEG 2000 without the boxes around it: SOC, then SIZ
HEADER_BYTES = 4096  # enough of a file for `header`, unless a JP2 file carries long boxes before its image
COLOURS = {0: "grey", 2: "RGB", 3: "palette", 4: "grey with alpha", 6: "RGBA"}


class Header(NamedTuple):
    height: int
    width: int
    bits: int
    colour: str
    format: str


def header(data: bytes) -> tuple[int, int, int, str]:
    """Reads what the header of a file says about its image.

    Args:
      data: the file, or at least its first bytes (HEADER_BYTES).

    Returns:
      (height, width, bits per value, 'PNG' or 'JPEG 2000').
    """
    found = read_header(data)
    return found.height, found.width, found.bits, found.format


def decode(
    data: bytes, size: tuple[int, int], bits: int, out: np.ndarray | None = None, colour: str = "grey"
) -> np.ndarray:
    """Decodes one channel, or the three of a colour image.

    Args:
      data: a whole PNG or JPEG 2000 (JP2 or bare codestream) file.
      size: (H, W) that it must have.
      bits: 8 or 16; no other depth is converted.
      out: where to put the values, [H, W] of their type: new memory is slow to touch; a new array if None.
      colour: "grey", or "RGB" for a PNG file of three channels.

    Returns:
      The values, [H, W] or (RGB) [H, W, 3], uint8 or uint16; `out` if it was given.
    """
    if data.startswith(PNG):
        check_png(data)
    found = read_header(data)
    if (found.bits, found.colour) != (bits, colour):
        raise BadSite(f"{found.bits}-bit {found.colour} in place of {bits}-bit {colour}")
    if (found.height, found.width) != tuple(size):
        raise BadSite(f"{found.width}x{found.height} pixels in place of {size[1]}x{size[0]}")
    if found.format == "PNG":
        pixels = png_pixels(data, out)
    else:
        try:
            _check_codestream(data)
            pixels = imagecodecs.jpeg2k_decode(data, numthreads=1, out=out)
        except (RuntimeError, ValueError) as error:  # the codec's own errors are RuntimeErrors
            raise BadSite(f"corrupt JPEG 2000 ({error})") from error
    if pixels.shape != (*size, *((3,) if colour == "RGB" else ())) or pixels.dtype != (
        np.uint8 if bits == 8 else np.uint16
    ):
        raise BadSite(f"decoded to {pixels.dtype}{pixels.shape}")
    return pixels


def read_header(data: bytes) -> Header:
    """Reads what the header of a PNG or JPEG 2000 file says; raises BadSite for anything else."""
    if data.startswith(PNG):
        if len(data) < 26:
            raise BadSite("truncated PNG")
        width, height, bits, colour = struct.unpack(">IIBB", data[16:26])
        return Header(height, width, bits, COLOURS.get(colour, f"colour type {colour}"), "PNG")
    if data.startswith((JP2, CODESTREAM)):
        return _siz(data, _codestream(data)[0])
    raise unknown(data, "neither PNG nor JPEG 2000")


def unknown(data: bytes, otherwise: str) -> BadSite:
    """What to raise for a file that begins like none that can be decoded."""
    if data.startswith(files.LFS):
        return BadSite("a Git LFS pointer, not the image: run `git lfs pull`")
    return BadSite(otherwise if data else "empty file")


def png_pixels(data: bytes, out: np.ndarray | None = None) -> np.ndarray:
    """The values of a PNG file, in `out` if it is given; raises BadSite for what cannot be decoded."""
    try:
        return imagecodecs.png_decode(data, out=out)
    except (RuntimeError, ValueError) as error:
        # libpng builds its message in memory that it has left by then: it may read as anything.
        raise BadSite("corrupt PNG (its pixels cannot be decoded)") from error


def check_png(data: bytes) -> None:
    """Checks that every chunk is there and matches its checksum, which decoders do not require."""
    at = len(PNG)
    kind = b""
    while kind != b"IEND":
        if at + 12 > len(data):
            raise BadSite("truncated PNG")
        (length,) = struct.unpack(">I", data[at : at + 4])
        kind, end = data[at + 4 : at + 8], at + 8 + length
        if end + 4 > len(data):
            raise BadSite("truncated PNG")
        if struct.pack(">I", zlib.crc32(memoryview(data)[at + 4 : end])) != data[end : end + 4]:
            raise BadSite(f"corrupt PNG (checksum of chunk {kind.decode('ascii', 'replace')})")
        if at == len(PNG) and (kind, length) != (b"IHDR", 13):
            raise BadSite("corrupt PNG (no header)")
        at = end + 4


def _codestream(data: bytes) -> tuple[int, int]:
    """Returns (start, end) of the codestream; end is what a JP2 box claims, perhaps beyond the data."""
    if data.startswith(CODESTREAM):
        return 0, len(data)
    at = 0
    while at + 8 <= len(data):
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        start = at + 8
        if length == 1:  # the length is in the next 8 bytes
            if at + 16 > len(data):
                break
            (length,) = struct.unpack(">Q", data[at + 8 : at + 16])
            start = at + 16
        end = at + length if length else len(data)  # 0: up to the end of the file
        if end < start:
            raise BadSite("corrupt JPEG 2000 (length of a box)")
        if kind == b"jp2c":
            return start, end
        at = end
    raise BadSite("truncated JPEG 2000")


def _siz(data: bytes, at: int) -> Header:
    """Reads the segment SIZ (ISO/IEC 15444-1, A.5.1) of the codestream at `at`."""
    siz = data[at : at + 45]
    if siz[:4] != CODESTREAM[: len(siz)]:
        raise BadSite("corrupt JPEG 2000 (no header)")
    if len(siz) < 45:
        raise BadSite("truncated JPEG 2000")
    x1, y1, x0, y0 = struct.unpack(">IIII", siz[8:24])
    components, depth, dx, dy = struct.unpack(">HBBB", siz[40:45])
    colour = "grey" if components == 1 else f"image of {components} components"
    if depth & 0x80:
        colour = f"signed {colour}"
    if (dx, dy) != (1, 1):
        colour = f"subsampled {colour}"
    if x1 <= x0 or y1 <= y0:
        raise BadSite("corrupt JPEG 2000 (no pixels)")
    return Header(y1 - y0, x1 - x0, (depth & 0x7F) + 1, colour, "JPEG 2000")


def _check_codestream(data: bytes) -> None:
    """Checks that every tile-part of every tile is there: decoders may invent the pixels of those that are not."""
    start, end = _codestream(data)
    if end > len(data):
        raise BadSite("truncated JPEG 2000")
    x1, y1, _, _, width, height, x0, y0 = struct.unpack(">8I", data[start + 8 : start + 40])
    if not width or not height or x0 >= x1 or y0 >= y1:
        raise BadSite("corrupt JPEG 2000 (tiles)")
    tiles = -(-(x1 - x0) // width) * -(-(y1 - y0) // height)
    parts, announced = {}, {}  # of a tile: tile-parts there are, and how many there should be
    at = start + 2
    while True:
        if at + 2 > end:
            raise BadSite("truncated JPEG 2000")
        (marker,) = struct.unpack(">H", data[at : at + 2])
        if marker == 0xFFD9:  # end of codestream
            break
        if at + 12 > end:
            raise BadSite("truncated JPEG 2000")
        length, tile, size, _, total = struct.unpack(">HHIBB", data[at + 2 : at + 12])
        if marker == 0xFF90:  # start of a tile-part; `size` counts from its marker, 0: up to the end
            parts[tile] = parts.get(tile, 0) + 1
            announced[tile] = total or announced.get(tile, 0)
            if 0 < size < 14:
                raise BadSite("corrupt JPEG 2000 (length of a tile)")
            # no two bytes of coded pixels exceed FF8F
            at = at + size if size else _find(data, b"\xff\xd9", at, end)
        elif marker < 0xFF00 or length < 2 or parts:  # nothing comes between tile-parts
            raise BadSite("corrupt JPEG 2000 (markers)")
        else:
            at += 2 + length
    if len(parts) != tiles or any(total and parts[tile] != total for tile, total in announced.items()):
        raise BadSite("truncated JPEG 2000 (tiles are missing)")


def _find(data: bytes, what: bytes, start: int, end: int) -> int:
    at = data.find(what, start, end)
    return at if at >= 0 else end
