"""Reads the sites of a plate from its image files: finds, checks, decodes and stacks the channels."""

import contextlib
import dataclasses
import functools
import os
import types
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from rxrx_jax.base.errors import UserError
from tfds_builders.common import decode
from tfds_builders.common.types import BadSite


@dataclasses.dataclass(frozen=True)
class FileReader:
    """Reads sites whose channels are files of a source; what a builder of published images uses."""

    source: Any  # of sources.py
    channels: int
    size: tuple[int, int]  # (H, W), pixels
    published_bits: int
    bits: int
    folders: tuple[str, ...] = ()  # of the source, that were there when the build began

    @property
    def facts(self) -> dict[str, Any]:
        """What every plate of a build must have been read with, for metadata.json."""
        return {}

    def plates(self) -> list[tuple[str, int]]:
        """Returns every (experiment, plate) that has image files."""
        return self.source.plates()

    def check(self) -> None:
        """Raises UserError if the source is gone: a disconnected drive does not make images bad."""
        for folder in self.folders:
            if not os.path.isdir(folder):
                raise UserError(f"{folder} no longer exists: run the same command when it is back, to resume")

    def strays(self) -> list[str]:
        """Returns the names of files that belong to no plate."""
        return self.source.strays()

    @contextlib.contextmanager
    def open(self, experiment: str, plate: int) -> Iterator["FileSites"]:
        """Opens a plate."""
        with self.source.open(experiment, plate) as files:
            yield FileSites(self, files)


class FileSites:
    """The sites of an open plate. counts: what else is to be known of them, added up over all plates."""

    counts: Mapping[str, int] = types.MappingProxyType({})

    def __init__(self, reader: FileReader, files: Any):
        self.reader, self.files = reader, files
        dtype = np.uint8 if reader.published_bits == 8 else np.uint16
        self._image = np.empty((reader.channels, *reader.size), dtype)
        self._channels: dict[tuple[str, int], set[int]] = {}
        for well, site, channel in files.keys:
            self._channels.setdefault((well, site), set()).add(channel)

    def read(self, row: dict[str, Any]) -> tuple[np.ndarray, list[bytes]]:
        """Returns a site's image [C, H, W], uint8 or uint16, and the files it was read from. Raises BadSite.

        The image is overwritten by the next call: touching new memory for each would take a tenth of the time.
        """
        well, site = row["well"], row["site"]
        wanted, there = set(range(1, self.reader.channels + 1)), self._channels.get((well, site), set())
        if not there:
            raise BadSite(self.files.unreadable or "no image files")
        if wanted - there:
            why = f" ({self.files.unreadable})" if self.files.unreadable else ""
            raise BadSite(f"missing {', '.join(map(self.label, sorted(wanted - there)))}{why}")
        if there - wanted:
            raise BadSite(f"unexpected {', '.join(map(self.label, sorted(there - wanted)))}")
        blobs, reasons = [], []
        for channel, plane in zip(sorted(wanted), self._image, strict=True):
            try:
                blobs.append(self.files.read(well, site, channel))
                self.decode(blobs[-1], channel, plane)
            except BadSite as error:
                reasons.append(f"{self.label(channel)}: {error}")
        if reasons:
            raise BadSite("; ".join(reasons))
        return (to_8_bits(self._image) if self.reader.bits < self.reader.published_bits else self._image), blobs

    def label(self, channel: int) -> str:
        """Returns what reasons call a channel."""
        return f"w{channel}"

    def decode(self, data: bytes, channel: int, out: np.ndarray) -> None:
        """Decodes the file of a channel into `out` [H, W]. Raises BadSite."""
        decode.decode(data, self.reader.size, self.reader.published_bits, out)

    def unlisted(self, places: set[tuple[str, int]]) -> list[str]:
        """Returns the names of files that belong to none of the (well, site) places, sorted."""
        names = {self.files.name(*key) for key in self.files.keys if key[:2] not in places}
        return sorted([*names, *self.files.others])


@functools.cache
def _square_root() -> np.ndarray:
    return np.round(255 * np.sqrt(np.arange(65536) / 65535)).astype(np.uint8)


def to_8_bits(image: np.ndarray) -> np.ndarray:
    """Maps uint16 to uint8 by round(255 * sqrt(v / 65535)): the same for every channel, plate and experiment.

    The square root, because photon noise grows with the square root of the signal: a step of the result is
    about v ** 0.5 / 0.5 wide, the same multiple of the noise in dim and bright pixels (Anscombe 1948), where a
    linear map of a dim 16-bit image would leave a handful of values. `from_8_bits` inverts it to within half a step.
    """
    return _square_root()[image]


def from_8_bits(image: np.ndarray) -> np.ndarray:
    """Returns the 16-bit values, float32, in the middle of what `to_8_bits` maps to these; for linear intensities."""
    return (np.square(image.astype(np.float32) / 255) * 65535).astype(np.float32)
