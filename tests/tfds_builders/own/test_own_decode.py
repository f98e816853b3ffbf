"""TIFF, OME-TIFF, PNG and JPEG files, whole and damaged."""

import io

import numpy as np
import pytest
import tifffile
from PIL import Image

from tfds_builders.common.types import BadSite
from tfds_builders.own import decode

SIZE = (20, 28)
STACK = np.random.default_rng(0).integers(0, 4096, (3, *SIZE)).astype(np.uint16)
GREY, EIGHT = STACK[0], (STACK[0] // 16).astype(np.uint8)


def tiff(image, **options) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, image, **{"photometric": "minisblack", "metadata": None} | options)
    return file.getvalue()


def pillow(image, kind, **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, kind, **options)
    return file.getvalue()


def read(data, number=0, size=SIZE):
    return decode.plane(data, number, size, decode.planes(data))


ONE = {
    "tiff 16": (tiff(GREY), GREY),
    "tiff 8": (tiff(EIGHT), EIGHT),
    "big-endian": (tiff(GREY, byteorder=">"), GREY),
    "BigTIFF": (tiff(GREY, bigtiff=True), GREY),
    "zlib": (tiff(GREY, compression="zlib", predictor=True), GREY),
    "lzw in strips": (tiff(GREY, compression="lzw", rowsperstrip=7), GREY),
    "zstd in tiles": (tiff(GREY, compression="zstd", tile=(16, 16)), GREY),
    "png 16": (pillow(GREY, "PNG"), GREY),
    "png 8": (pillow(EIGHT, "PNG"), EIGHT),
}
RGB = np.ascontiguousarray(np.moveaxis((STACK // 16).astype(np.uint8), 0, -1))
STACKS = {
    "pages": tiff(STACK),
    "OME": tiff(STACK, ome=True, metadata={"axes": "CYX"}),
    "ImageJ": tiff(STACK, imagej=True, metadata={"axes": "CYX"}),
    "planes of one page": tiff(STACK, photometric="rgb", planarconfig="separate"),
}


@pytest.mark.parametrize(("data", "image"), ONE.values(), ids=list(ONE))
def test_one_plane(data, image):
    assert decode.planes(data) == (1, SIZE, 8 * image.itemsize)
    assert np.array_equal(read(data), image) and read(data).dtype == image.dtype


@pytest.mark.parametrize("data", STACKS.values(), ids=list(STACKS))
def test_a_stack_of_channels(data):
    assert decode.planes(data) == (3, SIZE, 16)
    assert all(np.array_equal(read(data, i), plane) for i, plane in enumerate(STACK))
    with pytest.raises(BadSite, match="3 channels, and none is number 4"):
        read(data, 3)


@pytest.mark.parametrize("data", [pillow(RGB, "PNG"), tiff(RGB, photometric="rgb")], ids=["png", "tiff"])
def test_colours_are_channels(data):
    assert decode.planes(data) == (3, SIZE, 8)
    assert all(np.array_equal(read(data, i), RGB[..., i]) for i in range(3))


def test_jpeg_is_read_as_others_read_it():
    for image in (EIGHT, RGB):
        data = pillow(image, "JPEG", quality=95)
        with Image.open(io.BytesIO(data)) as other:
            other = np.asarray(other).reshape(*SIZE, -1)
        assert decode.planes(data) == (other.shape[2], SIZE, 8)
        assert all(np.array_equal(read(data, i), other[..., i]) for i in range(other.shape[2]))


REFUSED = {
    "an empty file": (b"", "empty file"),
    "text": (b"<xml/>", "not a TIFF, PNG, JPEG or JPEG 2000 file"),
    "float": (tiff(GREY.astype(np.float32)), "float32 values of 32 bits"),
    "signed": (tiff(GREY.astype(np.int16)), "int16 values of 16 bits"),
    "inverted": (tiff(GREY, photometric="miniswhite"), "MINISWHITE in place of grey where black is zero"),
    "a volume in z": (tiff(STACK, ome=True, metadata={"axes": "ZYX"}), "a stack of 3 in z: project it"),
    "a film": (tiff(STACK, imagej=True, metadata={"axes": "TYX"}), "a stack of 3 in t: project it"),
    "palette": (pillow(EIGHT, "GIF"), "not a TIFF"),
    "alpha": (pillow(np.dstack([RGB, EIGHT]), "PNG"), "8-bit RGBA"),
}


@pytest.mark.parametrize(("data", "why"), REFUSED.values(), ids=list(REFUSED))
def test_what_is_not_such_an_image_is_refused(data, why):
    with pytest.raises(BadSite, match=why):
        read(data)


def test_pages_of_two_sizes_are_refused():
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        writer.write(GREY, metadata=None)
        writer.write(GREY[:10], metadata=None)
    with pytest.raises(BadSite, match="2 pages of different sizes"):
        read(file.getvalue())


def test_another_size_is_refused_before_pixels_are_decoded():
    with pytest.raises(BadSite, match="28x20 pixels in place of 20x28"):
        read(ONE["tiff 16"][0], size=(28, 20))


@pytest.mark.parametrize("name", [*ONE, "OME", "jpeg"])
def test_a_file_that_is_cut_anywhere_is_refused(name):
    """Or, where nothing is lost but what is not read, read as it was."""
    data = {**{key: value[0] for key, value in ONE.items()}, **STACKS, "jpeg": pillow(EIGHT, "JPEG")}[name]
    whole = read(data)
    for end in [*range(0, len(data), max(1, len(data) // 60)), len(data) - 1]:
        try:
            found = read(data[:end])
        except BadSite:
            continue
        assert np.array_equal(found, whole) and end > len(data) - 64, end
        assert decode.planes(data[:end]) == decode.planes(data)
