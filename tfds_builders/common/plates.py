"""Builds one plate: rows and images to shards and a result. The same code in a thread, a process or a Beam worker.

A plate's shards and its result depend on the source alone, and the result appears last: whatever is killed, a
plate is done or not done, and a resumed build does only the plates without a result.
"""

import contextlib
import dataclasses
import errno
import hashlib
import json
import os
import pathlib
import secrets
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image

from tfds_builders.common import encodings, repeats
from tfds_builders.common.rows.plan import Plan, refuse
from tfds_builders.common.types import SITE_COLUMNS, BadSite, SetAside

SHARD_BYTES = 512 * 2**20  # pixels a shard holds at most: 341 sites of RxRx1, a whole plate
LONGEST_NAME = 200  # bytes, of the 255 that file systems allow
BASE_FEATURES = {name: str for name in SITE_COLUMNS[1:] if name not in ("well_id", "perturbation")}
BASE_FEATURES |= {"plate": int, "site": int, "perturbation_id": int}


@dataclasses.dataclass(frozen=True)
class Task:
    """All that the plates of a build share; picklable."""

    folder: pathlib.Path  # for shards and results
    plan: Plan
    reader: Any  # .plates() and .open(experiment, plate), as reading.FileReader
    shape: tuple[int, int, int]  # (H, W, C)
    bits: int
    encoding: str
    extra_columns: dict[str, type]  # beyond SITE_COLUMNS, or of another type
    strict: bool = False
    tile: int = 0  # pixels at the side of the records' tiles; 0 for whole images

    @property
    def record_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of what a record holds."""
        return (self.tile, self.tile, self.shape[2]) if self.tile else self.shape

    @property
    def tiles(self) -> int:
        """Records per site."""
        return self.shape[0] * self.shape[1] // (self.record_shape[0] * self.record_shape[1])


def features(task: Task) -> tfds.features.FeaturesDict:
    """Returns the TFDS features of a record."""
    kinds = {int: np.int32, float: np.float32, str: tfds.features.Text()}
    columns = {name: kinds[kind] for name, kind in {**BASE_FEATURES, **task.extra_columns}.items()}
    if task.tile:
        columns["tile"] = np.int32  # its number in the image, row by row
    image = encodings.image_feature(task.encoding, task.record_shape, task.bits, bool(task.tile))
    return tfds.features.FeaturesDict({"image": image, **columns})


def result_path(task: Task, experiment: str, plate: int) -> pathlib.Path:
    """Returns where the result of a plate is, or will be."""
    return task.folder / f"{_file_name(experiment, plate)}.json"


def _file_name(experiment: str, plate: int) -> str:
    """What the names of a plate's files start with; a folder without rows may have a name that fills all its room."""
    name = f"{experiment}_{plate}"
    digest = hashlib.sha256(os.fsencode(name)).hexdigest()
    return name if len(os.fsencode(name)) < LONGEST_NAME else f"{digest}_{plate}"


def build_plate(task: Task, experiment: str, plate: int, on_site: Callable[[], None] = lambda: None) -> pathlib.Path:
    """Builds a plate unless its result is there; returns the path of the result.

    Args:
      task: the build.
      experiment, plate: which plate; it may have images only, and no row.
      on_site: called after every site, for progress.
    """
    path = result_path(task, experiment, plate)
    done = _result(task, path)
    if done is not None:
        _check(task, done)
        for _ in range(done["rows"]):
            on_site()
        return path
    rows, set_aside = task.plan.rows(experiment, plate)
    with task.reader.open(experiment, plate) as sites:
        unlisted = sites.unlisted(task.plan.places(experiment, plate))
        writer = _PlateWriter(task, experiment, plate)
        result = {
            "experiment": experiment,
            "plate": plate,
            "rows": len(rows),
            "set_aside": set_aside,
            "unlisted": unlisted,
        }
        for row in rows:
            _check(task, result)
            try:
                writer.add(row, *sites.read(row))
            except BadSite as error:
                set_aside.append(SetAside(row["site_id"], str(error), experiment, row["split"]))
            on_site()
        result["counts"] = dict(sites.counts)
    result |= writer.close()
    _check(task, result)
    if set_aside:
        task.reader.check()  # that they were set aside because of themselves
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(result))
    partial.replace(path)
    return path


def _result(task: Task, path: pathlib.Path) -> dict[str, Any] | None:
    """Returns the result of a plate that is done, from a build that was stopped.

    None if it is not; if something of it was set aside, as it may be fixed by now; if a power cut took a shard.
    """
    try:
        result = json.loads(path.read_text())
        sizes = [(task.folder / shard["file"]).stat().st_size for shard in result["shards"]]
    except (OSError, ValueError):
        return None
    whole = not result["set_aside"] and not result["unlisted"]
    return result if whole and sizes == [shard["bytes"] for shard in result["shards"]] else None


def _check(task: Task, result: dict[str, Any]) -> None:
    """Raises UserError, when the build is strict, at the first thing that is set aside."""
    if task.strict:
        for item in result["set_aside"]:
            refuse(SetAside(*item))
        for name in result["unlisted"]:
            refuse(SetAside(name, "an image file without a row"))


class _PlateWriter:
    """Writes the shards of one plate, one split after another or side by side, and adds up what is in them."""

    def __init__(self, task: Task, experiment: str, plate: int):
        # Beam may build a plate twice at the same time: each writes files of its own.
        self.task, self.name = task, f"{_file_name(experiment, plate)}-{secrets.token_hex(4)}"
        self.features = features(task)
        self.serializer = tfds.core.example_serializer.ExampleSerializer(self.features.get_serialized_info())
        sites = max(1, SHARD_BYTES // (int(np.prod(task.shape)) * task.bits // 8))
        self.per_shard = sites * task.tiles  # records: the tiles of a site are neighbours in one shard
        self.open: dict[str, ArrayRecordWriter] = {}  # by split
        self.shards: list[dict[str, Any]] = []
        self.sites: list[dict[str, Any]] = []
        height, width, channels = task.shape
        self.scratch = np.empty((channels, height, width), f"uint{task.bits}")
        self.histogram = np.zeros((channels, 2**task.bits), np.int64)
        self.train_histogram = np.zeros_like(self.histogram)

    def add(self, row: dict[str, Any], image: np.ndarray, files: list[bytes]) -> None:
        """Adds one site, image [C, H, W]."""
        height, width, channels = self.task.shape
        dtype = np.dtype(f"uint{self.task.bits}")
        if image.shape != (channels, height, width) or image.dtype != dtype:
            raise TypeError(f"{row['site_id']}: read {image.dtype}{image.shape} for {dtype}{self.task.shape}")
        histogram = histograms(image)  # first, while the image is in the cache
        size, digest = 0, hashlib.sha256()  # of all records of the site
        for number, part in enumerate(encodings.cut(image, self.task.tile) if self.task.tile else [image]):
            record = self._encode(row | {"tile": number}, part, files)
            digest.update(record)
            size += len(record)
            shard = self._shard(row["split"])
            with _disk_errors():
                shard.write(record)
        self.histogram += histogram
        if row["split"] == "train":
            self.train_histogram += histogram
        values = np.arange(histogram.shape[1])
        entry = {
            "bytes": size,
            "sha256": digest.hexdigest(),
            "mean": (histogram @ values / (height * width)).tolist(),
            "digests": repeats.digests(image, histogram),
        }
        self.sites.append({**row, "manifest": entry})

    def _encode(self, row: dict[str, Any], image: np.ndarray, files: list[bytes]) -> bytes:
        """Returns the serialised record."""
        example = {name: row[name] for name in self.features if name != "image"}
        example["image"] = encodings.encode(self.task.encoding, image, files, self.scratch, bool(self.task.tile))
        # deterministic: the order of a message's features otherwise depends on the process
        message = self.serializer.get_tf_example(self.features.encode_example(example))
        return message.SerializeToString(deterministic=True)

    def _shard(self, split: str) -> ArrayRecordWriter:
        own = [shard for shard in self.shards if shard["split"] == split]
        if not own or own[-1]["records"] == self.per_shard:
            if own:
                self._finish(self.open.pop(split), own[-1])
            own.append({"split": split, "file": f"{self.name}-{split}-{len(own):05d}.array_record", "records": 0})
            self.shards.append(own[-1])
            path = str(self.task.folder / own[-1]["file"])
            self.open[split] = ArrayRecordWriter(path, encodings.writer_options(self.task.encoding))
        own[-1]["records"] += 1
        return self.open[split]

    def _finish(self, writer: ArrayRecordWriter, shard: dict[str, Any]) -> None:
        with _disk_errors():
            writer.close()
        shard["bytes"] = (self.task.folder / shard["file"]).stat().st_size

    def close(self) -> dict[str, Any]:
        """Closes the shards; returns their entries in the result of the plate."""
        for split, writer in self.open.items():
            self._finish(writer, next(shard for shard in reversed(self.shards) if shard["split"] == split))
        splits = [site["split"] for site in self.sites]
        return {
            "shards": self.shards,
            "sites": self.sites,
            "moments": moments(self.histogram, len(splits)),
            "train_moments": moments(self.train_histogram, splits.count("train")),
            "histogram": self.histogram.reshape(len(self.histogram), 256, -1).sum(-1).tolist(),
        }


DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def _disk_errors() -> Iterator[None]:
    """Turns array_record's RuntimeError of a full disk into the OSError that it was."""
    try:
        yield
    except RuntimeError as error:
        for code in DISK_ERRORS:
            if os.strerror(code) in str(error):
                raise OSError(code, os.strerror(code)) from error
        raise


def histograms(image: np.ndarray) -> np.ndarray:
    """Returns how often each value occurs in each channel of an image [C, H, W]: [C, 256 or 65536] int64."""
    if image.dtype == np.uint8:
        size = image.shape[:0:-1]  # (W, H)
        views = [Image.frombuffer("L", size, plane, "raw", "L", 0, 1) for plane in np.ascontiguousarray(image)]
        return np.array([view.histogram() for view in views], np.int64)
    return np.stack([np.bincount(plane.ravel(), minlength=65536) for plane in image])


def moments(histogram: np.ndarray, sites: int) -> dict[str, Any]:
    """Returns the number of sites, and exact sums of values and of their squares by channel, as integers."""
    values = np.arange(histogram.shape[1], dtype=object)  # Python integers: the sums of RxRx3 pass 64 bits
    counts = histogram.astype(object)
    return {"sites": sites, "total": (counts @ values).tolist(), "squares": (counts @ values**2).tolist()}
