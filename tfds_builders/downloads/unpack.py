"""Unpacks a zip archive that comes from elsewhere: nothing outside the folder, every byte checked, resumable."""

import errno
import os
import pathlib
import shutil
import stat
import zipfile
import zlib

import tqdm

from rxrx_jax.base.errors import UserError
from rxrx_jax.base.files import is_bomb

CHUNK = 2**20  # bytes
FIRST = 5  # names that a message lists


def unpack(path: pathlib.Path, folder: pathlib.Path, strip: str, progress: bool = True) -> dict[str, int]:
    """Unpacks every member of a zip file into `folder`.

    Everything is checked before anything is written: a member whose name leaves the folder, a link or a device, two
    members of one name and a declared size far beyond the archive are refused. A file that is there already with the
    member's size and CRC-32 is left as it is; one that differs is replaced.

    Args:
      path: the archive.
      folder: where to.
      strip: name of a top folder that is left out, in any case: "rxrx1" for rxrx1/metadata.csv.
      progress: show a progress bar on stderr.

    Returns:
      counts of files: unpacked, there (left as they were), replaced (part of unpacked).
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return _unpack(archive, path, folder, strip, progress)
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError) as error:
        raise UserError(f"{path}: {error}; delete it and fetch it again") from error


def _unpack(archive, path, folder, strip, progress) -> dict[str, int]:
    members = _targets(archive, path, strip)
    total = sum(info.file_size for info in members.values())
    packed = path.stat().st_size
    if is_bomb(packed, total):
        raise UserError(f"{path}: declares {total:,} bytes in an archive of {packed:,}: refused as a zip bomb")
    missing = sum(info.file_size for name, info in members.items() if _size(folder / name) != info.file_size)
    free = shutil.disk_usage(folder).free
    if missing > free:
        raise UserError(f"{folder}: {missing / 1e9:,.1f} GB more are needed and {free / 1e9:,.1f} GB are free")
    counts = {"unpacked": 0, "there": 0, "replaced": 0}
    with tqdm.tqdm(desc=f"unpacking {path.name}", total=total, unit="B", unit_scale=True, disable=not progress) as bar:
        for name, info in members.items():
            target = folder / name
            if _is_there(target, info):
                counts["there"] += 1
            else:
                counts["replaced"] += target.exists()
                _extract(archive, info, target)
                counts["unpacked"] += 1
            bar.update(info.file_size)
    return counts


def _targets(archive: zipfile.ZipFile, path: pathlib.Path, strip: str) -> dict[str, zipfile.ZipInfo]:
    """Returns {path below the folder: member} of all files; raises UserError for what must not be unpacked."""
    members: dict[str, zipfile.ZipInfo] = {}
    refused = []
    for info in archive.infolist():
        parts = info.filename.split("/")
        if problem := _problem(info, parts):
            refused.append(f"{info.filename!r} {problem}")
            continue
        if info.is_dir():
            continue
        if len(parts) > 1 and parts[0].lower() == strip.lower():
            parts = parts[1:]
        name = "/".join(parts)
        if name in members:
            refused.append(f"{info.filename!r} is there twice")
        members[name] = info
    for name, info in members.items():
        parents = pathlib.PurePosixPath(name).parents
        if any(str(parent) in members for parent in parents):
            refused.append(f"{info.filename!r} lies below a file")
    if refused:
        more = f" and {len(refused) - FIRST:,} more" if len(refused) > FIRST else ""
        raise UserError(f"{path}: refused, nothing was unpacked: {', '.join(refused[:FIRST])}{more}")
    return members


def _problem(info: zipfile.ZipInfo, parts: list[str]) -> str:
    """Why a member must not be unpacked, '' if it may."""
    mode = info.external_attr >> 16
    if info.flag_bits & 0x1:
        return "is encrypted"
    if "\\" in info.orig_filename or "\0" in info.orig_filename or ":" in parts[0]:
        return "is not a plain path"
    if info.filename.startswith("/"):
        return "is an absolute path"
    if ".." in parts:
        return "leaves the folder"
    if "." in parts or "" in parts[:-1] or not info.filename:
        return "is not a plain path"
    if mode and stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a link or a device"
    return ""


def _size(path: pathlib.Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _is_there(target: pathlib.Path, info: zipfile.ZipInfo) -> bool:
    """Whether the file has the member's size and CRC-32."""
    if _size(target) != info.file_size or not target.is_file():
        return False
    crc = 0
    with target.open("rb") as file:
        while chunk := file.read(CHUNK):
            crc = zlib.crc32(chunk, crc)
    return crc == info.CRC


def _extract(archive: zipfile.ZipFile, info: zipfile.ZipInfo, target: pathlib.Path) -> None:
    """Writes a member beside its place, and there when its CRC-32 is right."""
    partial = target.with_name(f".{target.name}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with archive.open(info) as member, partial.open("wb") as file:
            shutil.copyfileobj(member, file, CHUNK)  # raises BadZipFile at the end if the CRC-32 is wrong
        if partial.stat().st_size != info.file_size:
            raise zipfile.BadZipFile(f"{info.filename!r} is cut short")
        os.replace(partial, target)
    except OSError as error:
        partial.unlink(missing_ok=True)
        if error.errno == errno.EINVAL:  # a seek to where no byte can be
            raise zipfile.BadZipFile(f"{info.filename!r} is at a place that does not exist") from error
        raise UserError(f"{target}: {error.strerror or error}; the same command resumes once that is solved") from error
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
