"""Images in tiles, a record each: a window of one is read from the tiles that it touches, and from no others."""

import dataclasses
from typing import Any

import numpy as np

from rxrx_jax.data.records import Encoded, Records


class Tiles:
    """The images of a split: `tiles[i][rows, columns]`, slices, is a window [h, w, C] of image i, as of `Records`.

    Args: records, of the tiles, those of an image one after the other, row by row; shape [H, W, C] of an image; side,
    pixels of a tile, which divides H and W.
    """

    def __init__(self, records: Records, shape: tuple[int, int, int], side: int):
        self._records, self.shape, self.side, self.dtype = records, shape, side, records.dtype
        self.across = shape[1] // side
        self.per_image = shape[0] // side * self.across

    def __len__(self) -> int:
        return len(self._records) // self.per_image

    def __getitem__(self, index: int) -> "TiledImage":
        return TiledImage(self, index)

    def tile(self, index: int, number: int) -> Encoded:
        """Tile `number` of image `index`. Raises ValueError naming it."""
        try:
            return self._records[index * self.per_image + number]
        except ValueError as error:
            raise ValueError(f"tile {number}: {error}") from error


@dataclasses.dataclass(frozen=True)
class TiledImage:
    """An image of `Tiles`: `image[rows, columns]`, or `image[rows, columns, channels]`, reads no more tiles than it
    needs."""

    tiles: Tiles
    index: int

    def __getitem__(self, window: tuple) -> np.ndarray:
        rows, columns = (slice(*s.indices(n)) for s, n in zip(window, self.tiles.shape[:2]))
        channels = np.arange(self.tiles.shape[2])[window[2] if len(window) > 2 else slice(None)]
        shape = rows.stop - rows.start, columns.stop - columns.start, len(channels)
        out = np.empty(shape, self.tiles.dtype)
        self.write(window, out)
        return out

    def write(self, window: tuple, out: np.ndarray) -> None:
        """Writes a window to `out` [h, w, C], contiguous. Raises ValueError naming a tile that cannot be read."""
        rows, columns = (_pieces(s, n, self.tiles.side) for s, n in zip(window, self.tiles.shape[:2]))
        channels = window[2] if len(window) > 2 else slice(None)
        top = 0
        for y, of_rows in rows:
            bottom = top + of_rows.stop - of_rows.start
            numbers = [y * self.tiles.across + x for x, _ in columns]
            beside = [self.tiles.tile(self.index, number) for number in numbers]
            _write_beside(beside, numbers, of_rows, [of for _, of in columns], channels, out[top:bottom])
            top = bottom


def _pieces(window: slice, length: int, side: int) -> list[tuple[int, slice]]:
    """The tiles that a window along one side of an image touches: the place of each and the window in it."""
    start, stop, _ = window.indices(length)
    first, last = start // side, max(start, stop - 1) // side
    return [(i, slice(max(start - i * side, 0), min(stop - i * side, side))) for i in range(first, last + 1)]


def _write_beside(beside: list[Encoded], numbers: list[int], rows: slice, columns: list[slice], channels: Any,
                  out: np.ndarray) -> None:  # fmt: skip
    """Writes a window of tiles that lie side by side to `out` [h, w, C], all at once where their encoding can."""
    feature = beside[0].feature
    try:
        if hasattr(feature, "decode_beside"):
            feature.decode_beside([tile.data for tile in beside], rows, columns, channels, out)
            return
        left = 0
        for tile, of in zip(beside, columns):
            out[:, left : left + of.stop - of.start] = tile[rows, of, channels]
            left += of.stop - of.start
    except ValueError as error:
        for tile, number, of in zip(beside, numbers, columns):
            try:
                tile[rows, of]
            except ValueError as reason:
                raise ValueError(f"tile {number}: {reason}") from error
        raise
