"""Images and what holds them: PNG, JPEG, TIFF, JPEG 2000; folders, tars, Parquet."""

import io
import itertools
import pathlib
import struct
import tarfile
import zlib

import imagecodecs
import numpy as np
import plates_tools
import pyarrow as pa
import pyarrow.parquet as pq
import tifffile
from PIL import Image
from trials import Damage, Found, Target, if_checked

from tfds_builders.common import decode, sources
from tfds_builders.common.reading import FileReader
from tfds_builders.common.types import BadSite
from tfds_builders.own import decode as own

SIZE = (24, 24)
PLACES = [("gene-001", plate, well, 1) for plate in (1, 2) for well in ("B02", "B03", "C02")]
CHANNELS = 2


def grey(*key: object, bits: int = 8) -> np.ndarray:
    values = plates_tools.pixels(*key, size=SIZE)
    return values if bits == 16 else (values // 16).astype(np.uint8)


def png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def jpeg(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG")
    return file.getvalue()


def tiff(images: np.ndarray, **how) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, images, **how)
    return file.getvalue()


def repair_png(_: pathlib.Path, path: pathlib.Path) -> None:
    """The checksum of every chunk."""
    data, at = bytearray(path.read_bytes()), 8
    while at + 12 <= len(data):
        end = at + 8 + struct.unpack(">I", data[at : at + 4])[0]
        if end + 4 > len(data):
            break
        data[end : end + 4] = struct.pack(">I", zlib.crc32(data[at + 4 : end]))
        at = end + 4
    path.write_bytes(data)


def _value(image: np.ndarray) -> tuple:
    return image.shape, str(image.dtype), image.tobytes()


def _read_image(path: pathlib.Path, bits: int, published: bool, number: int) -> Found:
    data, found = path.read_bytes(), Found({})
    for channel in range(number):
        try:
            if published:
                image = decode.decode(data, SIZE, bits)
            else:
                planes = own.planes(data)
                if planes.bits != bits or planes.number != number:
                    raise BadSite("other planes")
                image = own.plane(data, channel, SIZE, planes)
            found.items[channel] = _value(image)
        except BadSite as error:
            assert "\n" not in str(error), error
            found.lost += 1
    return found


def image(name: str, data: bytes, bits: int, published: bool, number: int = 1, checked=False) -> Target:
    """checked: the format has a checksum over all of its pixels; without, a file that is cut is refused at least."""
    by = lambda damage: (checked and not damage.repaired) or damage.only("cut", "empty")  # noqa: E731
    return Target(
        name=name,
        make=lambda folder: (folder / "image").write_bytes(data) and None,
        read=lambda folder: _read_image(folder / "image", bits, published, number),
        judge=if_checked(by, lambda value: value[:2]),
        repair=repair_png if "PNG" in name else None,
        whole=0,
    )


def sites() -> dict[tuple, list[np.ndarray]]:
    return {place: [grey(*place, c) for c in range(CHANNELS)] for place in PLACES}


def _files(ending: str):
    for (experiment, plate, well, site), images in sites().items():
        for number, image in enumerate(images, 1):
            yield f"{experiment}/Plate{plate}/{well}_s{site}_{ending.format(number)}", png(image)


def write_folders(root: pathlib.Path) -> None:
    for name, data in _files("w{}.png"):
        path = root / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def _write_tar(path: pathlib.Path, members) -> None:
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def write_tars(root: pathlib.Path) -> None:
    for folder, members in itertools.groupby(_files("w{}.png"), lambda item: item[0].rpartition("/")[0]):
        _write_tar(root / f"{folder}.tar", members)


def write_shards(root: pathlib.Path) -> None:
    members = list(_files("{}.jp2"))  # PNG inside: its checksums show what the container does
    _write_tar(root / "00000.tar", members[:7])
    _write_tar(root / "00001.tar", members[7:])


def write_parquet(root: pathlib.Path, **how) -> None:
    rows = list(_files("{}"))
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    images = pa.array([{"bytes": data, "path": None} for _, data in rows], kind)
    table = pa.table({"__key__": pa.array([key for key, _ in rows]), "jp2": images})
    pq.write_table(table, root / "train-00000.parquet", row_group_size=5, **how)


def repair_tar(_: pathlib.Path, path: pathlib.Path) -> None:
    """The checksum of every header."""
    data = bytearray(path.read_bytes())
    for at in range(0, len(data) - 511, 512):
        if data[at + 257 : at + 262] == b"ustar":
            data[at + 148 : at + 156] = b" " * 8
            data[at + 148 : at + 156] = b"%06o\0 " % sum(data[at : at + 512])
    path.write_bytes(data)


def _read_sites(kind: type, root: pathlib.Path) -> Found:
    source = sources.choose(root, kind)
    source.size(), source.strays()
    reader, found = FileReader(source, CHANNELS, SIZE, 8, 8), Found({})
    for place in {place[:2]: None for place in PLACES} | dict.fromkeys(reader.plates()):
        with reader.open(*place) as plate:
            plate.unlisted({place[2:] for place in PLACES})
            for experiment, number, well, site in PLACES:
                if (experiment, number) == place:
                    try:
                        image, _ = plate.read({"well": well, "site": site})
                        found.items[experiment, number, well, site] = _value(image)
                    except BadSite as error:
                        assert "\n" not in str(error), error
                        found.lost += 1
    return found


def names_are_kept(damage: Damage) -> bool:
    """Whether no file took the place of another, of which a source without checksums of its names knows nothing."""
    return not damage.repaired and "swap" not in damage.names and not any("another's" in name for name in damage.names)


def source(name: str, kind: type, make, repair=None) -> Target:
    judge = if_checked(names_are_kept, lambda value: value[:2])
    return Target(name, make, lambda root: _read_sites(kind, root), judge, repair=repair)


STACK = np.stack([grey("stack", i, bits=16) for i in range(3)])
JPEG2000 = imagecodecs.jpeg2k_encode(grey("jp2"), codecformat="jp2", reversible=True, level=0)
TARGETS = [
    image("PNG", png(grey("png")), 8, True, checked=True),
    image("PNG 16", imagecodecs.png_encode(grey("png", bits=16)), 16, True, checked=True),
    image("JPEG 2000", JPEG2000, 8, True),
    image("JPEG 2000 codestream", imagecodecs.jpeg2k_encode(grey("j2k"), codecformat="j2k", reversible=True), 8, True),
    image("own PNG", png(grey("own")), 8, False, checked=True),
    image("own JPEG", jpeg(grey("jpeg")), 8, False),
    image("own JPEG 2000", JPEG2000, 8, False),
    image("own TIFF", tiff(grey("tiff", bits=16)), 16, False),
    image("own TIFF zlib", tiff(grey("zlib", bits=16), compression="zlib", predictor=True), 16, False),
    image("own TIFF LZW", tiff(grey("lzw"), compression="lzw"), 8, False),
    image("own TIFF tiles", tiff(grey("tiles", bits=16), tile=(16, 16)), 16, False),
    image("own TIFF stack", tiff(STACK, photometric="minisblack"), 16, False, 3),
    image("own BigTIFF", tiff(grey("big", bits=16), bigtiff=True, byteorder=">"), 16, False),
    image("own OME-TIFF", tiff(STACK, ome=True, photometric="minisblack", metadata={"axes": "CYX"}), 16, False, 3),
    image("own ImageJ", tiff(STACK, imagej=True, metadata={"axes": "CYX"}), 16, False, 3),
    source("folders", sources.Folders, write_folders),
    source("tars", sources.Tars, write_tars, repair_tar),
    source("shards", sources.WebDataset, write_shards, repair_tar),
    source("Parquet", sources.Parquet, write_parquet),
    source("Parquet with checksums", sources.Parquet, lambda root: write_parquet(root, write_page_checksum=True)),
]
