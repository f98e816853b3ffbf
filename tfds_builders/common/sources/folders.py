"""Images as files: images/EXPERIMENT/PlateN/WELL_sS_wC.png, or WELL_sS.png with the channels as colours, and Kaggle's
train/ and test/ in place of images/."""

import contextlib
import dataclasses
import functools
import itertools
import pathlib
import re
from collections.abc import Iterator

from tfds_builders.common import decode
from tfds_builders.common.sources import files as lib
from tfds_builders.common.types import BadSite

TREES = ("images", "train", "test")
PLATE = r"Plate(\d+)"


@dataclasses.dataclass(frozen=True)
class Folders:
    """The published tree, or Kaggle's two. See `sources` for the methods.

    colour: a file is a site, WELL_sS.png, and stands as its channel 1.
    """

    root: pathlib.Path
    follow_links: bool = False
    colour: bool = False

    @property
    def _name(self) -> re.Pattern:
        return lib.COLOUR_NAME if self.colour else lib.PNG_NAME

    def __post_init__(self):
        if not self._trees():
            raise lib.NoImages(self.root, f"folder {', '.join(TREES[:-1])} or {TREES[-1]}")

    def _trees(self) -> list[str]:
        return [tree for tree in TREES if (self.root / tree).is_dir()]

    def _find(self, experiment: str | None = None) -> Iterator[lib.Found]:
        return lib.find_plates(self.root, self._trees(), PLATE, experiment, self.follow_links)

    def plates(self) -> list[tuple[str, int]]:
        return lib.plates_of(self._find())

    def strays(self) -> list[str]:
        return lib.strays_of(self.root, self._find())

    @contextlib.contextmanager
    def open(self, experiment: str, plate: int) -> Iterator[lib.PlateFiles]:
        files = lib.PlateFiles()
        lib.add_plates(files, self.root, self._find(experiment), plate, functools.partial(self._add, files))
        yield files

    def _add(self, files: lib.PlateFiles, folder: str, name: str) -> None:
        inside = lib.within(self.root, self._trees(), self.follow_links)
        for entry in lib.entries(folder):
            match = self._name.fullmatch(entry.name)
            if not match:
                files.add_other(f"{name}/{entry.name}")
                continue
            load = functools.partial(lib.read_file, entry.path)
            if lib.leads_out(entry, inside):
                load = functools.partial(lib.refuse, lib.OUTSIDE)
            channel = 1 if self.colour else int(match[3])
            files.add((match[1], int(match[2]), channel), f"{name}/{entry.name}", load)

    def size(self) -> tuple[int, int] | None:
        found = [item for item in self._find() if item.plate is not None and not item.reason]
        headers = functools.partial(_headers, self.follow_links, self._name)
        return lib.vote(itertools.chain.from_iterable(map(headers, lib.spread(found, lib.PROBES))))


def _headers(follow_links: bool, name: re.Pattern, found: lib.Found) -> Iterator[bytes]:
    try:
        names = (entry for entry in lib.entries(found.path) if name.fullmatch(entry.name))
        images = [entry for entry in names if follow_links or not entry.is_symlink()]
    except OSError:
        return
    for entry in lib.spread(images, 3):
        with contextlib.suppress(BadSite):
            yield lib.read_file(entry.path, decode.HEADER_BYTES)
