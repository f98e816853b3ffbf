"""The image files of one plate, whatever holds them, and what all sources share."""

import collections
import errno
import os
import pathlib
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from rxrx_jax.base.errors import UserError
from tfds_builders.common import decode
from tfds_builders.common.rows import tables
from tfds_builders.common.sources import seen
from tfds_builders.common.sources.seen import OUTSIDE
from tfds_builders.common.types import BadSite

Key = tuple[str, int, int]  # well, site, channel
WELL = "[A-Z]{1,2}[0-9]{2}"
NUMBER = "[1-9][0-9]{0,5}"
PNG_NAME = re.compile(f"({WELL})_s({NUMBER})_w({NUMBER})\\.png")
COLOUR_NAME = re.compile(f"({WELL})_s({NUMBER})\\.png")  # of WILDS, three channels in a file
# of RxRx3-core, whose channel has no w: gene-001/Plate1/A01_s1_1, whatever folders are above
PLATE_PATH = re.compile(r"(?:.*/)?([^./][^/]*)/Plate([0-9]{1,6})/[^/]*")
KEY_NAME = f"({WELL})_s({NUMBER})_w?({NUMBER})"
NO_TEXT = "a name that is not UTF-8"
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
MAX_BYTES = 2**28  # no channel is larger: a 2048x2048 16-bit image has 2**23
STRAYS = 1000  # names of files of no plate that an index keeps
PROBES = 33  # plates whose headers vote for the image size, three files of each


class NoImages(UserError):
    """A folder holds no images of the kind that a source reads; `what` names them."""

    def __init__(self, root: pathlib.Path, what: str, why: str = ""):
        self.what, self.why = what, why or seen.cause(root)
        super().__init__(f"{root} has no {what}{self.why}: give the folder that holds them as --source")


class _Place(NamedTuple):
    name: str
    load: Callable[[], bytes]


class PlateFiles:
    """The channel images of one plate, open for one thread.

    keys: (well, site, channel) of every image; reading it may still raise.
    others: names of files there that are not channel images, with the reason where the name does not show it.
      Hidden files (._x, .DS_Store) and folders inside of archives are not listed.
    unreadable: why some images of the plate may be absent from `keys`: a folder that cannot be listed, a link out
      of the source, a tar that is cut short. Images that are in `keys` can still be read; one that is not
      is not known to be missing, and this is its reason. '' if everything was listed.
    """

    def __init__(self):
        self._places: dict[Key, list[_Place]] = {}
        self._problems: list[str] = []
        self.others: list[str] = []

    @property
    def keys(self) -> collections.abc.KeysView[Key]:
        return self._places.keys()

    @property
    def unreadable(self) -> str:
        return "; ".join(dict.fromkeys(self._problems))

    def add(self, key: Key, name: str, load: Callable[[], bytes]) -> None:
        """Adds a file of an image: its name, and what reads it or raises BadSite."""
        self._places.setdefault(key, []).append(_Place(printable(name), load))

    def add_other(self, name: str, reason: str = "") -> None:
        """Adds a file that is not a channel image."""
        self.others.append(described(name, reason))

    def add_problem(self, reason: str) -> None:
        """Adds a reason why images may be absent."""
        self._problems.append(printable(reason))

    def read(self, well: str, site: int, channel: int) -> bytes:
        """Returns the bytes of an image; BadSite with the reason if they cannot be had or are not the only ones."""
        places = self._places.get((well, site, channel))
        if not places:
            raise BadSite(self.unreadable or "no file")
        data = places[0].load()
        for place in places[1:]:
            if place.load() != data:
                raise BadSite(f"two files that differ ({places[0].name}, {place.name})")
        return data

    def name(self, well: str, site: int, channel: int) -> str:
        """Returns the path of an image below the source folder; 'a.tar:AA02_s1_w3.png' for one in an archive."""
        return self._places[well, site, channel][0].name

    def close(self) -> None:
        """Lets go of what the files hold in memory; nothing can be read afterwards."""
        self._places.clear()


def printable(name: str) -> str:
    """Returns a file name that can be written as UTF-8 and in one line, whatever bytes are in it."""
    text = name.encode("utf-8", "backslashreplace").decode()
    return UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def is_text(name: str) -> bool:
    """Whether a name from a file system or an archive is UTF-8, so that tables may hold it."""
    return not any("\ud800" <= letter <= "\udfff" for letter in name)


def described(name: str, reason: str) -> str:
    """Returns a file name, with the reason why it is listed if there is one."""
    reason = reason or seen.nearly(name)
    return printable(f"{name} ({reason})" if reason else name)


def reason_of(error: OSError) -> str:
    """Returns why something cannot be read, in the words of the operating system.

    Raises UserError when the file is not at fault: the build stops, as the image may be intact.
    """
    if error.errno in TROUBLES:
        raise UserError(
            f"{error.filename or 'the source'}: {error.strerror}: run the same command when it can be read, to resume"
        ) from error
    return f"cannot be read ({error.strerror or error})"


def refuse(reason: str) -> bytes:
    """Raises BadSite: the `load` of a file that is there and must not be read."""
    raise BadSite(reason)


def read_file(path: str, limit: int = MAX_BYTES) -> bytes:
    """Returns the first `limit` bytes of a file, all of it if it may be an image; BadSite if it cannot be read."""
    try:
        # not blocking: opening a pipe would wait for someone to write
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb", buffering=0) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise BadSite("cannot be read (Not a regular file)")
            if status.st_size > MAX_BYTES:
                raise BadSite(f"{status.st_size:,} bytes, too large for an image")
            return file.read(min(limit, status.st_size))  # not more: the memory for it is taken first
    except OSError as error:
        raise BadSite(reason_of(error)) from error


# Errors of a network, a mount or this machine, not of one file
TROUBLES = {
    getattr(errno, name)
    for name in ("ESTALE", "ENOTCONN", "ETIMEDOUT", "EHOSTDOWN", "EHOSTUNREACH", "ENETDOWN", "ENETUNREACH",
                 "ECONNRESET", "EREMOTEIO", "EMFILE", "ENFILE", "ENOMEM", "ENODEV")
    if hasattr(errno, name)
}  # fmt: skip


def entries(folder: str | os.PathLike) -> list[os.DirEntry]:
    """Returns what is in a folder, by name, but for hidden files."""
    with os.scandir(folder) as found:
        return sorted((entry for entry in found if not entry.name.startswith(".")), key=lambda entry: entry.name)


def within(root: pathlib.Path, trees: Iterable[str], follow_links: bool) -> list[str]:
    """Returns the real folders that links of a source may lead to: itself and its trees, or any."""
    return [os.sep] if follow_links else sorted({os.path.realpath(root / tree) for tree in ("", *trees)})


def leads_out(entry: os.DirEntry, inside: Sequence[str]) -> bool:
    """Whether an entry is a link to something in none of the real folders `inside`."""
    if not entry.is_symlink():
        return False
    target = os.path.realpath(entry.path)
    return not any(os.path.commonpath((target, folder)) == folder for folder in inside)


class Found(NamedTuple):
    """A folder or tar of a plate; plate is None for an experiment's folder, and experiment for a tree, that has
    no plates because of `reason`, or that is neither (reason '')."""

    experiment: str | None
    plate: int | None
    path: str
    reason: str = ""


def find_plates(root: pathlib.Path, trees: Sequence[str], name: str, experiment: str | None = None,
                follow_links: bool = False) -> Iterator[Found]:  # fmt: skip
    """Yields the plates TREE/EXPERIMENT/NAME of a source folder, and what is beside them.

    Args:
      root: the source folder.
      trees: folders in it, '' for itself; each may be a link.
      name: pattern of a plate's folder or file; its first group is the number.
      experiment: canonical name; None for all.
      follow_links: read also what is a link out of the source.
    """
    inside = within(root, trees, follow_links)
    for tree in trees:
        try:
            folders = entries(root / tree)
        except OSError as error:
            yield Found(None, None, str(root / tree), reason_of(error))
            continue
        for folder in folders:
            found = tables.canonical(folder.name)
            if experiment not in (None, found) or (not tree and folder.name in trees):
                continue
            if not is_text(found):
                yield Found(found, None, folder.path, NO_TEXT)
                continue
            try:
                reason = OUTSIDE if leads_out(folder, inside) else ""
                is_folder = folder.is_dir()
                if not tree and not is_folder:
                    continue  # tables beside the experiments
                plates = entries(folder.path) if is_folder and not reason else []
            except OSError as error:
                reason, plates = reason_of(error), []
            if not plates:
                yield Found(found, None, folder.path, reason)
            for plate in plates:
                match = re.fullmatch(name, plate.name, re.ASCII)
                reason = OUTSIDE if match and leads_out(plate, inside) else ""
                yield Found(found, int(match[1]) if match else None, plate.path, reason)


def plates_of(found: Iterable[Found]) -> list[tuple[str, int]]:
    """Returns (experiment, plate) of what `find_plates` found, sorted; UserError if a whole tree is unreadable."""
    plates = set()
    for item in found:
        if item.experiment is None:
            raise UserError(f"{item.path}: {item.reason}: make it readable")
        if item.plate is not None:
            plates.add((item.experiment, item.plate))
    return sorted(plates)


def strays_of(root: pathlib.Path, found: Iterable[Found]) -> list[str]:
    """Returns the names of what `find_plates` found beside the plates."""
    return [described(os.path.relpath(item.path, root), item.reason) for item in found if item.plate is None]


def add_plates(files: PlateFiles, root: pathlib.Path, found: Iterable[Found], plate: int,
               add: Callable[[str, str], None]) -> None:  # fmt: skip
    """Calls add(path, name) for every folder or tar of a plate; those that cannot be read become problems."""
    seen = set()
    for item in found:
        name = os.path.relpath(item.path, root)
        if item.reason and item.plate in (None, plate):
            # whatever is in there may be of this plate
            files.add_problem(item.reason)
        elif item.plate == plate and (real := os.path.realpath(item.path)) not in seen:
            seen.add(real)  # HUVEC-1 may be a link to HUVEC-01
            try:
                add(item.path, name)
            except OSError as error:
                files.add_problem(reason_of(error))


def plate_of(name: str) -> tuple[str, int] | None:
    """Returns the (experiment, plate) of gene-001/Plate1/A01_s1_1; None if the name has none."""
    match = PLATE_PATH.fullmatch(name)
    return (tables.canonical(match[1]), int(match[2])) if match and is_text(match[1]) else None


def key_of(name: str) -> Key | None:
    """Returns the (well, site, channel) of gene-001/Plate1/A01_s1_1; None if the name has none."""
    match = re.fullmatch(KEY_NAME, name.rsplit("/", 1)[-1])
    return (match[1], int(match[2]), int(match[3])) if match else None


class Index:
    """What files that hold many plates have of each. Small, however many images there are: it goes to every worker.

    76 kB pickled for RxRx3-core's 1.3 million images on 1,728 plates, in row groups of 100.

    names: the files, below the source folder.
    parts: (experiment, plate) -> {place in `names`: the part of that file in which all of its images are}.
    problems: why images of any plate may be absent.
    strays: what belongs to no plate; the first STRAYS.
    """

    def __init__(self):
        self.names: list[str] = []
        self.parts: dict[tuple[str, int], dict[int, Any]] = {}
        self.problems: list[str] = []
        self.strays: list[str] = []

    def add_stray(self, name: str, reason: str = "") -> None:
        """Adds a name to the strays, if they are not too many."""
        if len(self.strays) < STRAYS:
            self.strays.append(described(name, reason))
        elif len(self.strays) == STRAYS:
            self.strays.append("and more")

    def list_files(self, root: pathlib.Path, ending: str, follow_links: bool) -> None:
        """Finds the files with this ending below a folder; those that are links out of it are refused, or followed."""
        inside, folders, entered = within(root, (), follow_links), [os.fspath(root)], set()
        while folders:
            folder = folders.pop()
            if (real := os.path.realpath(folder)) in entered:  # links may go round in a circle
                continue
            entered.add(real)
            try:
                found = entries(folder)
            except OSError as error:
                raise UserError(f"{folder}: {reason_of(error)}: make it readable") from error
            for entry in found:
                name = os.path.relpath(entry.path, root)
                if entry.is_dir(follow_symlinks=follow_links):
                    folders.append(entry.path)
                elif (entry.name.endswith(ending) or entry.is_dir()) and leads_out(entry, inside):
                    self.problems.append(f"{name}: {OUTSIDE}")
                elif entry.name.endswith(ending):
                    self.names.append(name)
        self.names.sort()

    def check(self, root: pathlib.Path, what: str) -> None:
        """Raises NoImages, with the first thing that was found in their place, if there is no plate."""
        if not self.parts:
            first = [*self.problems, *self.strays][:1]
            raise NoImages(root, what, f" (but {first[0]})" if first else "")


def spread(items: Sequence[Any], number: int) -> Sequence[Any]:
    """Returns at most `number` items, evenly spaced."""
    return items[:: -(-len(items) // number) or 1]


def vote(headers: Iterable[bytes]) -> tuple[int, int] | None:
    """Returns (H, W) that most of these files have: a vote, because the first image may be the odd one."""
    votes = collections.Counter()
    for data in headers:
        try:
            votes[decode.header(data)[:2]] += 1
        except BadSite:
            continue
    return votes.most_common(1)[0][0] if votes else None
