"""Reads sites whose three channels are the colours of one PNG file."""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from tfds_builders.common import decode, reading
from tfds_builders.common.types import BadSite


class ColourSites(reading.FileSites):
    """The sites of an open plate, each one file."""

    def read(self, row: dict[str, Any]) -> tuple[np.ndarray, list[bytes]]:
        """As the base class: the image [3, H, W] uint8, red first, and its one file."""
        well, site = row["well"], row["site"]
        if (well, site) not in self._channels:
            raise BadSite(self.files.unreadable or "no image file")
        data = self.files.read(well, site, 1)
        self._image[...] = decode.decode(data, self.reader.size, 8, colour="RGB").transpose(2, 0, 1)
        return self._image, [data]


@dataclasses.dataclass(frozen=True)
class ColourReader(reading.FileReader):
    """A FileReader of such files."""

    @contextlib.contextmanager
    def open(self, experiment: str, plate: int) -> Iterator[ColourSites]:
        """Opens a plate."""
        with self.source.open(experiment, plate) as files:
            yield ColourSites(self, files)
