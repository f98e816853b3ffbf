"""16-bit pixels to the 8 bits of records: a range for each channel, the same for every image of the dataset.

    floor(255 * (v - low) / (high - low) + 1/2), of v clipped to low..high

low and high are given (--range), or the 0.1st and 99.9th percentile of the channel's 16-bit pixels in SITES sites,
evenly spaced over those of the training experiments, so that nothing of a held-out one decides about it. They do not
depend on which part of a dataset is built, and are recorded in metadata.json beside the number of pixels that are
clipped. Linear, and one range for all plates: a difference between batches is neither made nor hidden. 8-bit pixels
are taken as they are.
"""

import dataclasses
import functools

import numpy as np

PERCENTILES = (0.1, 99.9)
SITES = 256  # that the percentiles are taken of
WHOLE = (0, 2**16 - 1)


@dataclasses.dataclass(frozen=True)
class Depth:
    """ranges: (low, high) of each channel."""

    ranges: tuple[tuple[int, int], ...]

    def convert(self, plane: np.ndarray, channel: int, out: np.ndarray) -> tuple[int, int]:
        """Converts a plane [H, W] uint16 of a channel (from 0) into `out` [H, W] uint8.

        Returns:
          How many pixels are below the range, and above it.
        """
        low, high = self.ranges[channel]
        np.take(_table(low, high), plane, out=out)
        return int(np.count_nonzero(plane < low)), int(np.count_nonzero(plane > high))


@functools.cache
def _table(low: int, high: int) -> np.ndarray:
    above, span = np.clip(np.arange(2**16), low, high) - low, high - low
    return ((2 * 255 * above + span) // (2 * span)).astype(np.uint8)  # in integers: halves are rounded up everywhere


def percentile_range(histogram: np.ndarray) -> tuple[int, int]:
    """Returns the values at PERCENTILES of a histogram [65536] of pixels; WHOLE for one without any."""
    counts = np.cumsum(histogram)
    if not counts[-1]:
        return WHOLE
    low, high = (int(np.searchsorted(counts, counts[-1] * share / 100)) for share in PERCENTILES)
    return (low, high) if low < high else (min(low, WHOLE[1] - 1), min(low, WHOLE[1] - 1) + 1)
