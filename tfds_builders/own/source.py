"""Image files of a user's own, found by a pattern of their names. The same four methods as every source but `size`.

The folder is walked once, when the source is made. What workers get of it is small: the folders that each plate's
files lie in, which are listed again when the plate is opened.
"""

import collections
import contextlib
import dataclasses
import functools
import os
import pathlib
from collections.abc import Iterator
from typing import Any

from rxrx_jax.base.errors import UserError, shortened
from tfds_builders.common.sources import files as lib
from tfds_builders.own.pattern import Pattern, Place

IMAGES = (".tif", ".tiff", ".png", ".jpg", ".jpeg", ".jp2")  # for the example of what was seen
KEYS_SHOWN = 20
NO_ROW = "of a plate without a row"


@dataclasses.dataclass(frozen=True)
class Tree:
    """Files below `root` whose names fit `pattern`; see `sources` for the methods.

    channels: key -> number from 1, of those that are read; each file holds all of them where the pattern names none.
    experiments: plate -> its experiment, for a pattern that does not name it; a plate that is not there has no row.
    """

    root: pathlib.Path
    pattern: str
    channels: dict[str, int]
    experiments: dict[str, str]
    folders: dict[tuple[str, str], tuple[str, ...]]
    problems: tuple[str, ...]
    strange: tuple[str, ...]
    follow_links: bool

    def plates(self) -> list[tuple[str, str]]:
        return sorted(self.folders)

    def strays(self) -> list[str]:
        return list(self.strange)

    @contextlib.contextmanager
    def open(self, experiment: str, plate: str) -> Iterator[lib.PlateFiles]:
        files = lib.PlateFiles()
        for problem in self.problems:
            files.add_problem(problem)
        pattern, inside = Pattern(self.pattern), lib.within(self.root, (), self.follow_links)
        read = functools.lru_cache(1)(lib.read_file)  # a stack is asked for once for each of its channels
        for folder in self.folders.get((experiment, plate), ()):
            try:
                entries = lib.entries(self.root / folder)
            except OSError as error:
                files.add_problem(f"{folder}: {lib.reason_of(error)}")
                continue
            for entry in entries:
                name = os.path.join(folder, entry.name)
                place = pattern.match(name)
                if isinstance(place, Place) and where(place, self.experiments) == (experiment, plate):
                    refused = lib.leads_out(entry, inside)
                    load = functools.partial(*((lib.refuse, lib.OUTSIDE) if refused else (read, entry.path)))
                    for channel in numbers(place, self.channels):
                        files.add((place.well, place.site, channel), name, load)
        yield files


def where(place: Place, experiments: dict[str, str]) -> tuple[str, str]:
    """Returns (experiment, plate) of a file; the experiment is '' for a plate without a row."""
    return place.experiment or experiments.get(place.plate, ""), place.plate


def numbers(place: Place, channels: dict[str, int]) -> list[int]:
    """Returns the numbers of the channels that a file holds, of those that are read."""
    if not place.channel:
        return list(channels.values())
    return [channels[place.channel]] if place.channel in channels else []


@dataclasses.dataclass
class Found:
    """What is below a source folder, before any image is read.

    sites: (experiment, plate) -> (well, site) -> bits of the channels that are there, the first is bit 0.
    left: channel that is not named -> its files.
    """

    tree: Tree
    sites: dict[tuple[str, str], dict[tuple[str, int], int]]
    left: collections.Counter[str]


def find(
    root: pathlib.Path,
    text: str,
    named: dict[str, str],
    experiments: dict[str, str],
    tables: list[pathlib.Path],
    follow_links: bool = False,
) -> Found:
    """Walks a folder. UserError if no file fits the pattern, or if the channels are not those that are named.

    Args:
      root: the folder.
      text: the pattern of the files' names.
      named: key -> name of every channel that is read.
      experiments: plate -> experiment, of the table.
      tables: files that are not images, wherever they are.
      follow_links: read also what is a link out of the folder.
    """
    pattern, index = Pattern(text), lib.Index()
    index.list_files(root, "", follow_links)
    channels = {key: number for number, key in enumerate(named, 1)}
    sites: dict[Any, dict] = collections.defaultdict(lambda: collections.defaultdict(int))
    folders: dict[Any, dict[str, None]] = collections.defaultdict(dict)
    seen, left = collections.Counter(), collections.Counter()
    skipped = {os.path.relpath(path, root) for path in tables}
    for name in index.names:
        if name in skipped:
            continue
        place = pattern.match(name)
        if not isinstance(place, Place):
            index.add_stray(name, place or "")
            continue
        key = where(place, experiments)
        if not key[0]:
            index.add_stray(name, NO_ROW)
            continue
        seen[place.channel] += 1
        held = numbers(place, channels)
        if not held:
            left[place.channel] += 1
            continue
        folders[key][os.path.dirname(name)] = None
        for channel in held:
            sites[key][place.well, place.site] |= 1 << (channel - 1)
    _check(root, text, index, named, seen, experiments)
    tree = Tree(
        root=root,
        pattern=text,
        channels=channels,
        experiments=experiments if "experiment" not in pattern.fields else {},
        folders={key: tuple(found) for key, found in folders.items()},
        problems=tuple(index.problems),
        strange=tuple(index.strays),
        follow_links=follow_links,
    )
    return Found(tree, {key: dict(found) for key, found in sites.items()}, left)


def _check(root, text, index, named, seen, experiments) -> None:
    """Raises UserError for a pattern, channels or plates that cannot be what was meant."""
    if not index.names:
        why = f" (but {index.problems[0]})" if index.problems else ""
        raise UserError(f"{root} holds no files{why}")
    if not seen:
        if unknown := [name for name in index.strays if name.endswith(f" ({NO_ROW})")]:
            rows, name = ", ".join(map(shortened, sorted(experiments)[:3])), unknown[0].removesuffix(f" ({NO_ROW})")
            raise UserError(f"{root}: no plate of the files is in the table, which has {rows}; a file is {name}")
        images = [name for name in index.names if name.lower().endswith(IMAGES)] or index.names
        name = lib.printable(images[0])
        raise UserError(f"{root}: no file fits --pattern={text}; one of the {len(index.names):,} there is {name}")
    known = ", ".join(sorted(seen, key=lambda key: (len(key), key))[:KEYS_SHOWN])
    if not named:
        what = f"the files have channels {known}" if any(seen) else "each file holds all of them: 1:NAME,2:NAME"
        raise UserError(f"--channels: name those to read, such as {next(iter(seen)) or '1'}:DNA; {what}")
    if any(seen):
        missing = [key for key in named if key not in seen]
        if missing:
            raise UserError(f"--channels: no file has channel {missing[0]} ({named[missing[0]]}); they have {known}")
