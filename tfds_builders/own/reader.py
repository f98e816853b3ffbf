"""Reads the sites of a user's own plates: as those of published ones, from more kinds of file, to 8 bits."""

import collections
import contextlib
import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from rxrx_jax.base.errors import UserError
from tfds_builders.common import reading
from tfds_builders.common.sources import files
from tfds_builders.common.types import BadSite
from tfds_builders.own import decode
from tfds_builders.own.depth import SITES, Depth, percentile_range
from tfds_builders.own.source import Tree


class OwnSites(reading.FileSites):
    """The sites of an open plate; `counts` grows with every site that was read."""

    def __init__(self, reader: "OwnReader", files: Any):
        super().__init__(reader, files)
        self.counts = collections.Counter()
        self._pending: collections.Counter[str] = collections.Counter()

    def read(self, row: dict[str, Any]) -> tuple[np.ndarray, list[bytes]]:
        """As the base class."""
        self._pending.clear()
        found = super().read(row)
        self.counts.update(self._pending)
        return found

    def label(self, channel: int) -> str:
        """The channel's name."""
        return self.reader.names[channel - 1]

    def decode(self, data: bytes, channel: int, out: np.ndarray) -> None:
        """Puts a channel of a file into `out` [H, W] uint8."""
        reader, name = self.reader, self.label(channel)
        found = decode.planes(data)
        plane = decode.plane(data, reader.number(channel, found), reader.size, found)
        if channel == 1 and reader.stacks:
            self._pending["left"] += found.number - len(reader.names)
        self._pending[f"{found.bits} {name}"] += 1
        if found.bits == 8:
            out[...] = plane
        else:
            below, above = reader.depth.convert(plane, channel - 1, out)
            self._pending[f"below {name}"] += below
            self._pending[f"above {name}"] += above


@dataclasses.dataclass(frozen=True)
class OwnReader(reading.FileReader):
    """names: of the channels, in order. positions: of each in a file, from 0, where files are stacks; else None."""

    source: Tree
    names: tuple[str, ...] = ()
    positions: tuple[int, ...] | None = None
    depth: Depth = Depth(())

    @contextlib.contextmanager
    def open(self, experiment: str, plate: str) -> Iterator[OwnSites]:
        """Opens a plate."""
        with self.source.open(experiment, plate) as opened:
            yield OwnSites(self, opened)

    @property
    def facts(self) -> dict[str, Any]:
        """What every plate of a build must have been read with."""
        return {"ranges_16_bit": {name: list(span) for name, span in zip(self.names, self.depth.ranges, strict=True)}}

    @property
    def stacks(self) -> bool:
        return self.positions is not None

    def number(self, channel: int, found: decode.Planes) -> int:
        """Returns where in a file a channel is, from 0. BadSite for a stack where one channel is expected."""
        if self.positions is not None:
            return self.positions[channel - 1]
        if found.number > 1:
            raise BadSite(f"{found.number} channels in a file of one")
        return 0


def probe(
    tree: Tree,
    places: Sequence[tuple[str, str, str, int]],
    names: tuple[str, ...],
    positions: tuple[int, ...] | None,
    given: dict[str, tuple[int, int]],
) -> tuple[tuple[int, int], Depth]:
    """Reads some sites to find what records are made with: (H, W), and the range of every channel's 16-bit pixels.

    Args:
      tree: the files.
      places: (experiment, plate, well, site) of the training sites that have all channels, sorted.
      names, positions: as those of OwnReader.
      given: channel name -> range that need not be found.
    """
    places, first = files.spread(places, SITES), ""
    sizes: collections.Counter[tuple[int, int]] = collections.Counter()
    for _, _, found in _probe(tree, places, len(names)):
        if isinstance(found, decode.Planes):
            sizes[found.size] += 1
        else:
            first = first or f"; {found}"
    if not sizes:
        raise UserError(f"{tree.root}: no image of {len(places):,} training sites can be read{first}")
    size = max(sizes, key=lambda one: (sizes[one], one))
    histograms = np.zeros((len(names), 2**16), np.int64)
    for channel, data, found in _probe(tree, places, len(names)):
        if isinstance(found, decode.Planes) and (found.size, found.bits) == (size, 16) and names[channel] not in given:
            with contextlib.suppress(BadSite):
                plane = decode.plane(data, positions[channel] if positions else 0, size, found)
                histograms[channel] += np.bincount(plane.ravel(), minlength=2**16)
    ranges = tuple(given.get(name) or percentile_range(histograms[i]) for i, name in enumerate(names))
    return size, Depth(ranges)


def _probe(tree: Tree, places: Sequence[tuple], channels: int) -> Iterator[tuple[int, bytes, decode.Planes | str]]:
    """Yields (channel from 0, file, what it holds or why it cannot be read) of every channel of some sites."""
    for (experiment, plate), group in itertools.groupby(places, key=lambda place: place[:2]):
        with tree.open(experiment, plate) as opened:
            for _, _, well, site in group:
                for channel in range(channels):
                    try:
                        data = opened.read(well, site, channel + 1)
                        yield channel, data, decode.planes(data)
                    except BadSite as error:
                        yield channel, b"", f"{opened.name(well, site, channel + 1)}: {error}"
