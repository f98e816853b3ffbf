"""Finds and reads RxRx1's images: six 8-bit grey PNG files per site, one per channel."""

import collections
import functools
import io
import os
import pathlib
import re
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image, ImageFile

from rxrx_jax.errors import UserError
from tfds_builders.reading import BadSite
from tfds_builders.report import SetAside
from tfds_builders.rxrx1 import splits
from tfds_builders.rxrx1.metadata import DOWNLOAD

CHANNELS = 6
PUBLISHED_SIZE = 512  # pixels
TREES = ("images", "train", "test")  # the published tree, and Kaggle's two
PROBES = 99  # sites whose header votes for the image size
SIGNATURE = b"\x89PNG\r\n\x1a\n"
COLOURS = {0: "grey", 2: "RGB", 3: "palette", 4: "grey with alpha", 6: "RGBA"}


def file_names(well: str, site: int) -> list[str]:
    """Returns the names of a site's files, w1 to w6."""
    return [f"{well}_s{site}_w{channel}.png" for channel in range(1, CHANNELS + 1)]


def locate(rows: list[dict[str, Any]], bad_rows: list[SetAside], source: pathlib.Path):
    """Finds the files of every site from the folder listings.

    Args:
      rows: site rows.
      bad_rows: rows that are set aside already; their images count as listed.
      source: the folder that holds images/, train/ or test/.

    Returns:
      (rows with the key 'folder', sites set aside for missing files, names of images that no row asks for).
    """
    trees = [name for name in TREES if (source / name).is_dir()]
    if not trees:
        raise UserError(f"{source} has no folder images, train or test: {DOWNLOAD}")
    folders = _list_plates(source, trees)
    unlisted = {folder: set(names) for places in folders.values() for folder, names in places}
    for item in bad_rows:
        if item.experiment:
            experiment, plate, well, site = item.site_id.rsplit("_", 3)
            for folder, _ in folders.get((experiment, int(plate)), []):
                unlisted[folder].difference_update(file_names(well, int(site)))
    found, set_aside = [], []
    for row in rows:
        wanted = file_names(row["well"], row["site"])
        places = folders.get((row["experiment"], row["plate"]), [])
        for folder, _ in places:
            unlisted[folder].difference_update(wanted)
        # HUVEC-1 and HUVEC-01, or images/ and train/, may both exist: take the one that has most of the site.
        folder, names = max(places, key=lambda place: sum(n in place[1] for n in wanted), default=("", ()))
        missing = [f"w{i + 1}" for i, name in enumerate(wanted) if name not in names]
        if missing:
            reason = "no image files" if len(missing) == CHANNELS else f"missing {', '.join(missing)}"
            set_aside.append(SetAside(row["site_id"], reason, row["experiment"], row["split"]))
        else:
            found.append({**row, "folder": folder})
    names = [os.path.relpath(os.path.join(folder, n), source) for folder, left in unlisted.items() for n in left]
    return found, set_aside, sorted(names)


def _list_plates(source: pathlib.Path, trees: list[str]) -> dict[tuple[str, int], list[tuple[str, set[str]]]]:
    """Returns {(experiment, plate): [(folder, names of its png files), ...]}."""
    folders = collections.defaultdict(list)
    for tree in trees:
        for experiment in sorted(os.scandir(source / tree), key=lambda e: e.name):
            for plate in sorted(os.scandir(experiment), key=lambda e: e.name) if experiment.is_dir() else ():
                match = re.fullmatch(r"Plate(\d+)", plate.name)
                if match and plate.is_dir():
                    # ._B02_s1_w1.png and the like are left by file managers
                    names = {n for n in os.listdir(plate) if n.endswith(".png") and not n.startswith(".")}
                    folders[splits.canonical(experiment.name), int(match[1])].append((plate.path, names))
    return folders


def image_size(rows: list[dict[str, Any]]) -> int:
    """Returns the side of the images in pixels: the commonest among some sites spread over the source.

    A vote, because the first image may be the odd one.
    """
    votes = collections.Counter()
    for row in rows[:: max(1, len(rows) // PROBES)]:
        try:
            with open(os.path.join(row["folder"], file_names(row["well"], row["site"])[0]), "rb") as file:
                header = file.read(26)
        except OSError:
            continue
        if header.startswith(SIGNATURE) and len(header) == 26:
            width, height = struct.unpack(">II", header[16:24])
            if width == height:
                votes[width] += 1
    return votes.most_common(1)[0][0] if votes else PUBLISHED_SIZE


def site_reader(size: int) -> Callable[[dict], np.ndarray]:
    """Returns the function from a row with 'folder' to its image, [size, size, 6] uint8."""
    return functools.partial(_read_site, size)


def _read_site(size: int, row: dict[str, Any]) -> np.ndarray:
    channels, reasons = [], []
    for i, name in enumerate(file_names(row["well"], row["site"])):
        try:
            channels.append(read_png(pathlib.Path(row["folder"], name).read_bytes(), size))
        except OSError as error:
            reasons.append(f"w{i + 1}: cannot be read ({error.strerror or error})")
        except BadSite as error:
            reasons.append(f"w{i + 1}: {error}")
    if reasons:
        raise BadSite("; ".join(reasons))
    return np.stack(channels, axis=-1)  # [size, size, 6]


def read_png(data: bytes, size: int) -> np.ndarray:
    """Decodes one channel, [size, size] uint8; BadSite if it is not an intact 8-bit grey PNG of that size."""
    _check_chunks(data)
    width, height, depth, colour = struct.unpack(">IIBB", data[16:26])
    if (depth, colour) != (8, 0):
        raise BadSite(f"{depth}-bit {COLOURS.get(colour, colour)} in place of 8-bit grey")
    if (width, height) != (size, size):
        raise BadSite(f"{width}x{height} pixels in place of {size}x{size}")
    ImageFile.LOAD_TRUNCATED_IMAGES = False  # a global that other code may have set; it invents pixels
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            image.load()
            pixels = np.asarray(image)
    except (OSError, SyntaxError, ValueError, zlib.error) as error:
        raise BadSite(f"corrupt PNG ({error})") from error
    if pixels.shape != (size, size) or pixels.dtype != np.uint8:
        raise BadSite(f"decoded to {pixels.dtype}{pixels.shape}")
    return pixels


def _check_chunks(data: bytes) -> None:
    """Checks that every chunk is there and matches its checksum: Pillow checks neither for pixel data."""
    if not data:
        raise BadSite("empty file")
    if not data.startswith(SIGNATURE):
        raise BadSite("not a PNG file")
    at = len(SIGNATURE)
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
        if at == len(SIGNATURE) and (kind, length) != (b"IHDR", 13):
            raise BadSite("corrupt PNG (no header)")
        at = end + 4
