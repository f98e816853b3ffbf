"""Decodes images of other microscopes: TIFF and OME-TIFF, PNG, JPEG and JPEG 2000, grey or a stack of channels.

Size and depth are read from headers and compared before pixels are decoded. TIFF has no checksums, and JPEG neither:
a file that is cut short, or whose strips lie outside of it, is refused; a changed byte inside of coded pixels may pass.
A TIFF is read from its own bytes: what its OME-XML says of other files is not followed.
"""

import io
import logging
import re
from typing import NamedTuple

import imagecodecs
import numpy as np
import tifffile

from tfds_builders.common import decode as common
from tfds_builders.common.types import BadSite

logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what it warns of is refused here, or does not matter
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the latter are BigTIFF
SIZES = {3: 2, 4: 4, 5: 8, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}  # bytes of a type, else 1
JPEG = b"\xff\xd8\xff"
STACKED = re.compile(r'\b(Size[ZT])="(\d+)"')
ORDER = re.compile(r"<(?:\w+:)?TiffData\b([^>]*)>")


class Planes(NamedTuple):
    """What the header of a file says: how many channels it holds, their size in pixels and bits per value."""

    number: int
    size: tuple[int, int]  # (H, W)
    bits: int


def planes(data: bytes) -> Planes:
    """Reads what a file holds. Raises BadSite for one that cannot be used, whatever it should hold."""
    if data.startswith(TIFF):
        with _tiff(data) as file:
            return _tiff_planes(file, _directories(data))
    if data.startswith(common.PNG):
        height, width, bits, colour, _ = common.read_header(data)
        number = {"grey": 1, "RGB": 3}.get(colour)
        if number is None or bits not in (8, 16):
            raise BadSite(f"{bits}-bit {colour} in place of 8-bit or 16-bit grey")
        return Planes(number, (height, width), bits)
    if data.startswith(JPEG):
        return _jpeg_planes(data)
    if data.startswith((common.JP2, common.CODESTREAM)):
        height, width, bits, _ = common.header(data)
        if bits not in (8, 16):
            raise BadSite(f"{bits} bits in place of 8 or 16")
        return Planes(1, (height, width), bits)
    raise common.unknown(data, "not a TIFF, PNG, JPEG or JPEG 2000 file")


def plane(data: bytes, number: int, size: tuple[int, int], found: Planes) -> np.ndarray:
    """Decodes a channel.

    Args:
      data: the file.
      number: of the channel in it, from 0.
      size: (H, W) that it must have.
      found: what `planes` returned.

    Returns:
      [H, W] uint8 or uint16.
    """
    if found.size != tuple(size):
        raise BadSite(f"{found.size[1]}x{found.size[0]} pixels in place of {size[1]}x{size[0]}")
    if number >= found.number:
        raise BadSite(f"{found.number} channels, and none is number {number + 1}")
    try:
        if data.startswith(TIFF):
            with _tiff(data) as file:
                pixels = _tiff_plane(file, number)
        elif data.startswith(JPEG):
            pixels = imagecodecs.jpeg8_decode(data)
        elif found.number > 1:
            common.check_png(data)
            pixels = common.png_pixels(data)
        else:
            return common.decode(data, size, found.bits)
    except BadSite:
        raise
    except Exception as error:  # the codecs raise types of their own
        raise BadSite(f"corrupt file ({_one_line(error)})") from error
    pixels = pixels[..., number] if pixels.ndim == 3 else pixels
    if pixels.shape != found.size or pixels.dtype != np.dtype(f"uint{found.bits}"):
        raise BadSite(f"decoded to {pixels.dtype}{pixels.shape}")
    return pixels


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


def _tiff(data: bytes) -> tifffile.TiffFile:
    try:
        return tifffile.TiffFile(io.BytesIO(data))
    except Exception as error:
        raise BadSite(f"corrupt TIFF ({_one_line(error)})") from error


def _directories(data: bytes) -> int:
    """Returns how many pages a TIFF has by its chain of directories (TIFF 6.0, section 2).

    BadSite if it, or a value in it, is not in the file: tifffile would take the pages before for all of them, and a
    stack in z whose description is lost for one of channels."""
    order = "little" if data[:2] == b"II" else "big"
    big = data[2:4] in (b"+\0", b"\0+")
    count, entry, offset = (8, 20, 8) if big else (2, 12, 4)  # bytes of a number of entries, an entry, an offset
    read = lambda at, size: int.from_bytes(data[at : at + size], order)  # noqa: E731
    at, seen = read(8 if big else 4, offset), set()
    while at:
        end = at + count + read(at, count) * entry
        if at in seen:
            raise BadSite("corrupt TIFF (pages in a circle)")
        if end + offset > len(data):
            raise BadSite("truncated TIFF")
        for tag in range(at + count, end, entry):
            size = SIZES.get(read(tag + 2, 2), 1) * read(tag + 4, offset)
            if size > offset and read(tag + 4 + offset, offset) + size > len(data):
                raise BadSite("truncated TIFF")
        seen.add(at)
        at = read(end, offset)
    return len(seen)


def _tiff_planes(file: tifffile.TiffFile, directories: int) -> Planes:
    try:
        pages = list(file.pages)
        if len(pages) != directories:
            raise BadSite(f"corrupt TIFF ({len(pages)} of {directories} pages can be read)")
        kinds = {(page.shape, str(page.dtype), page.photometric, page.planarconfig) for page in pages}
        if len(kinds) != 1:
            raise BadSite(f"{len(pages)} pages of different sizes or types" if pages else "a TIFF without pages")
        first = pages[0]
        if first.photometric not in (tifffile.PHOTOMETRIC.MINISBLACK, tifffile.PHOTOMETRIC.RGB):
            raise BadSite(f"{first.photometric.name} in place of grey where black is zero")
        if first.dtype not in (np.uint8, np.uint16) or first.bitspersample not in (8, 16):
            kind = f"{first.dtype or 'unknown'} values of {first.bitspersample} bits"
            raise BadSite(f"{kind} in place of 8-bit or 16-bit unsigned ones")
        if first.imagedepth != 1:
            raise BadSite("a volume in place of a plane")
        length = file.filehandle.size
        for page in pages:
            _check_strips(page, length)
        if len(pages) > 1:
            _check_order(file, len(pages))
        number = len(pages) * first.samplesperpixel
        return Planes(number, (first.imagelength, first.imagewidth), 8 * first.dtype.itemsize)
    except BadSite:
        raise
    except Exception as error:
        raise BadSite(f"corrupt TIFF ({_one_line(error)})") from error


def _check_strips(page: tifffile.TiffPage, length: int) -> None:
    """Raises BadSite for pixels that are not in the file: they would be read as zeros."""
    places = list(zip(page.dataoffsets, page.databytecounts, strict=True))
    if len(places) != np.prod(page.chunked):
        raise BadSite("truncated TIFF (strips are missing)")
    if any(start <= 0 or count <= 0 or start + count > length for start, count in places):
        raise BadSite("truncated TIFF")
    if page.compression == 1 and not page.is_tiled and sum(page.databytecounts) < page.nbytes:
        raise BadSite("truncated TIFF")


def _check_order(file: tifffile.TiffFile, pages: int) -> None:
    """Raises BadSite for a stack that is not one of channels, in the order of its pages."""
    about = file.ome_metadata if file.is_ome else ""
    spans = dict(STACKED.findall(about or ""))
    if file.is_imagej:
        known = file.imagej_metadata or {}
        spans = {"SizeZ": known.get("slices", 1), "SizeT": known.get("frames", 1)}
    for name, number in spans.items():
        if int(number) > 1:
            raise BadSite(f"a stack of {number} in {name[-1].lower()}: project it to one plane first")
    for attributes in ORDER.findall(about or ""):
        of = {key: int(value) for key, value in re.findall(r'\b(IFD|FirstC|PlaneCount)="(\d+)"', attributes)}
        if "FirstC" in of and of.get("IFD", of["FirstC"]) != of["FirstC"]:
            raise BadSite("a stack whose pages are not in the order of its channels")


def _tiff_plane(file: tifffile.TiffFile, number: int) -> np.ndarray:
    page = file.pages[0]
    samples = page.samplesperpixel
    pixels = file.pages[number // samples].asarray()
    if samples == 1:
        return pixels
    separate = page.planarconfig == tifffile.PLANARCONFIG.SEPARATE
    return pixels[number % samples] if separate else pixels[..., number % samples]


def _jpeg_planes(data: bytes) -> Planes:
    """Reads the frame header SOF (ITU T.81, B.2.2) and looks for the end."""
    at = 2
    while at + 10 <= len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == 0xFF:  # fill
            at += 1
            continue
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            bits, height, width = data[at + 4], *(int.from_bytes(data[at + i : at + i + 2], "big") for i in (5, 7))
            number = data[at + 9]
            if bits != 8 or number not in (1, 3):
                raise BadSite(f"{bits}-bit JPEG of {number} channels in place of 8-bit grey or RGB")
            if b"\xff\xd9" not in data[-64:]:
                raise BadSite("truncated JPEG")
            return Planes(number, (height, width), 8)
        at += 2 + length
    raise BadSite("truncated JPEG")
