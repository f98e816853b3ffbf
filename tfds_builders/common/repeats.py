"""Finds images and channels that a dataset holds twice, and channels that are of one value throughout.

An image that several wells share was copied or misnamed before it was published; one that two splits share makes the
score of the second a memory of the first. No such record is wrong by itself: they stay, are counted and named.
"""

import array
import csv
import hashlib
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from rxrx_jax.base.spellings import SPLITS

NAME = "repeats.csv"
VARIED = 1 << 63  # set in the digest of a channel of several values; that of a constant channel is its value
IMAGE, CHANNEL, CONSTANT = "equal image", "equal channel", "constant channel"


class Repeat(NamedTuple):
    """A row of repeats.csv: a later record, or channel of it, and the first one that it equals."""

    kind: str
    site_id: str
    split: str
    channel: str  # w1, w2, ...; '' for a whole image
    first_site_id: str
    first_split: str
    first_channel: str

    @property
    def across(self) -> bool:
        """Whether the two are in different splits."""
        return bool(self.first_split) and self.split != self.first_split


def digests(image: np.ndarray, histogram: np.ndarray) -> list[int]:
    """Returns 64 bits by channel of an image [C, H, W] with the histogram [C, values]; see VARIED."""
    found = []
    for plane, counts in zip(image, histogram, strict=True):
        value = int(counts.argmax())
        if counts[value] == plane.size:
            found.append(value)
        else:
            digest = hashlib.sha256(np.ascontiguousarray(plane)).digest()
            found.append(int.from_bytes(digest[:8], "little") | VARIED)
    return found


class Digests:
    """The digests of all records, by split, in the order of their index: 8 bytes per channel."""

    def __init__(self, channels: int):
        self.channels = channels
        self.by_split = {split: array.array("Q") for split in SPLITS}

    def add(self, split: str, values: Iterable[int]) -> None:
        """Adds the next record of a split."""
        self.by_split[split].extend(values)

    def repeats(self, sites: pathlib.Path) -> list[Repeat]:
        """Returns what occurs twice, and what is constant, in the order of sites.csv, which has the names."""
        planes = np.concatenate([np.frombuffer(self.by_split[split], np.uint64) for split in SPLITS])
        planes = planes.reshape(-1, self.channels)  # [N, C]
        varied = planes >= VARIED
        images = [(IMAGE, a, b, -1, -1) for a, b in _pairs(_mixed(planes), np.flatnonzero(varied.any(1)))]
        counted = varied.copy()
        counted[[a for _, a, *_ in images]] = False  # the channels of an equal image are equal: named once
        flat = _pairs(planes.ravel(), np.flatnonzero(counted))
        found = images + [(CHANNEL, *_place(a, b, self.channels)) for a, b in flat]
        found += [(CONSTANT, int(row), -1, int(c), -1) for row, c in zip(*np.nonzero(~varied))]
        names = _names(sites, {row for _, a, b, *_ in found for row in (a, b)} - {-1})
        channel = lambda c: f"w{c + 1}" if c >= 0 else ""  # noqa: E731
        return [
            Repeat(kind, *names[a], channel(c), *names.get(b, ("", "")), channel(d))
            for kind, a, b, c, d in sorted(found, key=lambda item: (-(item[0] == IMAGE), item[1:]))
        ]


def _mixed(planes: np.ndarray) -> np.ndarray:
    """One number of 64 bits for the digests [N, C] of each image."""
    key = np.zeros(len(planes), np.uint64)
    for column in planes.T:
        key = (key ^ column) * np.uint64(0x9E3779B97F4A7C15)
        key ^= key >> np.uint64(29)
    return key


def _pairs(values: np.ndarray, among: np.ndarray) -> list[tuple[int, int]]:
    """Returns (place, first place with the same value) of every value that occurred before, among some places."""
    chosen = values[among]
    order = np.argsort(chosen, kind="stable")
    new = np.append(True, chosen[order][1:] != chosen[order][:-1])[: len(order)]
    first = order[np.maximum.accumulate(np.where(new, np.arange(len(order)), 0))]
    return sorted(zip(among[order[~new]].tolist(), among[first[~new]].tolist()))


def _place(a: int, b: int, channels: int) -> tuple[int, int, int, int]:
    """Returns rows and channels of two places in [N, C]."""
    return a // channels, b // channels, a % channels, b % channels


def _names(sites: pathlib.Path, rows: set[int]) -> dict[int, tuple[str, str]]:
    """Returns (site_id, split) of some rows of sites.csv."""
    if not rows:
        return {}
    with sites.open(newline="", encoding="utf-8") as file:
        return {i: (row["site_id"], row["split"]) for i, row in enumerate(csv.DictReader(file)) if i in rows}


def notes(found: list[Repeat], channels: Sequence[str] = ()) -> Iterator[str]:
    """Yields a sentence for each kind that was found; the one that crosses splits is the first, and the loudest.

    Args:
      found: of `Digests.repeats`.
      channels: what w1, w2, ... show; they are called "w1 DNA" then.
    """
    called = {f"w{i}": f"w{i} {name}" for i, name in enumerate(channels, 1)}
    found = [
        item._replace(
            channel=called.get(item.channel, item.channel),
            first_channel=called.get(item.first_channel, item.first_channel),
        )
        for item in found
    ]
    across = [item for item in found if item.across]
    if across:
        yield (f"WARNING: {_count(across)} in one split equal another in a different split, so that scores on it are "
               f"partly memory: {_example(across[0])}; {NAME} names all.")  # fmt: skip
    for kind, words in ((IMAGE, "equal that of another record"), (CHANNEL, "equal another channel or that of another "
                        "record"), (CONSTANT, "have one value throughout")):  # fmt: skip
        some = [item for item in found if item.kind == kind]
        if some:
            yield f"{_count(some)} {words}, such as {_example(some[0])}; {NAME} names all."


def _count(some: list[Repeat]) -> str:
    images = sum(item.kind == IMAGE for item in some)
    counts = ((images, "images"), (len(some) - images, "channels"))
    return " and ".join(f"{number:,} {what}" for number, what in counts if number)


def _example(item: Repeat) -> str:
    this = " ".join(filter(None, (item.site_id, item.channel, item.split and f"({item.split})")))
    if item.kind == CONSTANT:
        return this
    return f"{this} and {' '.join(filter(None, (item.first_site_id, item.first_channel, f'({item.first_split})')))}"


def write(path: pathlib.Path, found: list[Repeat]) -> None:
    """Writes repeats.csv."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Repeat._fields)
        writer.writerows(found)


def read(path: pathlib.Path) -> list[Repeat]:
    """Reads repeats.csv. Raises ValueError if it is not such a table."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            names, *rows = csv.reader(file)
        if tuple(names) != Repeat._fields:
            raise ValueError("other columns")
        return [Repeat(*row) for row in rows]
    except (csv.Error, TypeError) as error:
        raise ValueError(str(error)) from error
