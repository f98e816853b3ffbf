"""Folders and tars of image files, and what a source makes of them."""

import io
import pathlib
import tarfile

import numpy as np
import pytest
from PIL import Image

from tfds_builders.common.types import BadSite

PLATE = ("HUVEC-01", 1)
OUTSIDE = "a link out of the source folder, which --follow-links reads"


def png(height: int = 4, width: int = 6) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.zeros((height, width), np.uint8)).save(file, "PNG")
    return file.getvalue()


def write(root: pathlib.Path, files: dict[str, bytes]) -> pathlib.Path:
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def make_tar(path: pathlib.Path, members, **settings) -> pathlib.Path:
    """A tar of (name, bytes) and of TarInfo."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", **settings) as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                tar.addfile(info, io.BytesIO(member[1]))
    return path


def contents(source, plate=PLATE) -> dict:
    """Every image of a plate: its bytes, or why it cannot be read."""
    found = {}
    with source.open(*plate) as files:
        for key in files.keys:
            try:
                found[key] = files.read(*key)
            except BadSite as error:
                found[key] = str(error)
    return found


def beside(source, plate=PLATE) -> tuple[list[str], str]:
    with source.open(*plate) as files:
        return files.others, files.unreadable


def reason(source, *key, plate=PLATE) -> str:
    with source.open(*plate) as files, pytest.raises(BadSite) as error:
        files.read(*key)
    return str(error.value)
