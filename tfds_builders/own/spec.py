"""What a user says about plates of their own: everything but where the files are and where the records go."""

import dataclasses
import os
import pathlib
import re
from typing import ClassVar

from rxrx_jax.base.errors import UserError
from tfds_builders.common import settings
from tfds_builders.own.pattern import Pattern, key_of

MOST_CHANNELS = 16
UNSTATED = "not stated by whoever prepared this dataset"


@dataclasses.dataclass(frozen=True)
class Spec:
    """The options of `python -m tfds_builders.prepare images`, which also lists them, as text; recorded as settings.

    Columns of the table are found by themselves where they are ''."""

    name: str
    metadata: str
    pattern: str
    channels: str
    experiment: str = ""
    plate: str = ""
    well: str = ""
    site: str = ""
    perturbation: str = ""
    cell_type: str = ""
    negative_control: tuple[str, ...] = ()
    held_out: tuple[str, ...] = ()
    splits: str = ""
    range: str = ""
    license: str = UNSTATED
    citation: str = ""

    def __post_init__(self):
        for field in dataclasses.fields(self):  # as JSON gives them back
            if isinstance(getattr(self, field.name), list):
                object.__setattr__(self, field.name, tuple(getattr(self, field.name)))
        if not re.fullmatch(r"[a-z][a-z0-9_]{0,99}", self.name):
            raise UserError(f"--name={self.name}: use small letters, digits and _, such as my_plates")
        if self.held_out and self.splits:
            raise UserError("--held-out and --splits: give one of them")
        for text in self.negative_control:
            if ":" not in text:
                raise UserError(f"--negative-control={text}: use COLUMN:VALUE, such as Metadata_broad_sample:DMSO")
        stacks = "channel" not in Pattern(self.pattern).fields
        for key in self.named() if stacks else ():
            if not key.isdigit() or key == "0":
                raise UserError(
                    f"--channels={self.channels}: the pattern names no {{channel}}, so that each file holds all of "
                    f"them: use their numbers in it, from 1, and not {key}"
                )
        self.ranges()

    def named(self) -> dict[str, str]:
        """Returns the channels in order: key in the file names, or number in a stack -> what it shows."""
        found: dict[str, str] = {}
        for part in filter(None, self.channels.split(",")):
            key, colon, name = (text.strip() for text in part.partition(":"))
            key, name = key_of(key), name if colon else key
            if not key or not name:
                raise UserError(f"--channels={self.channels}: use KEY:NAME,KEY:NAME, such as 1:DNA,2:ER")
            if key in found or name in found.values():
                raise UserError(f"--channels={self.channels}: {key if key in found else name} is there twice")
            found[key] = name
        if len(found) > MOST_CHANNELS:
            raise UserError(f"--channels: {len(found)} of them; records hold 1 to {MOST_CHANNELS}")
        return found

    def controls(self) -> list[tuple[str, str]]:
        """Returns (column, value) of the rows that are untreated."""
        pairs = (text.split(":", 1) for text in self.negative_control)
        return [(column, value.strip()) for column, value in pairs]

    def ranges(self) -> dict[str, tuple[int, int]]:
        """Returns (low, high) of the channels whose range for 16-bit pixels is given, by name."""
        names, found = list(self.named().values()), {}
        for part in filter(None, self.range.split(",")):
            name, _, span = part.strip().rpartition(":")
            match = re.fullmatch(r"(\d{1,5})-(\d{1,5})", span, re.ASCII)
            if not match or not int(match[1]) < int(match[2]) < 2**16:
                raise UserError(f"--range={self.range}: use LOW-HIGH or NAME:LOW-HIGH,..., such as 0-4095")
            if name and name not in names:
                raise UserError(f"--range={self.range}: no channel is called {name}; there are {', '.join(names)}")
            found |= dict.fromkeys([name] if name else names, (int(match[1]), int(match[2])))
        return found

    def table(self, source: pathlib.Path) -> pathlib.Path:
        """Returns the path of the table: as given, or below the source folder."""
        return _file(self.metadata, source, "--metadata")

    def splits_table(self, source: pathlib.Path) -> pathlib.Path | None:
        """Returns the path of the table of splits; splits.csv of the source folder where none is given, if there."""
        if self.splits:
            return _file(self.splits, source, "--splits")
        path = source / "splits.csv"
        return path if os.path.lexists(path) and not self.held_out else None  # also one that cannot be read


def _file(name: str, source: pathlib.Path, option: str) -> pathlib.Path:
    path = pathlib.Path(name).expanduser()
    found = next((one for one in (path, source / path) if one.is_file()), None)
    if found is None:
        raise UserError(f"{option}={name}: no such file, nor one in {source}")
    return found.resolve()


@dataclasses.dataclass(frozen=True)
class Records(settings.Records):
    """As of every dataset, but plates are names, and a name has one spelling only."""

    plates: tuple[str, ...] = ()
    plate_type: ClassVar[type] = str
    spelling: ClassVar = staticmethod(str)

    def __post_init__(self):
        for key in ("experiments", "plates"):  # 12 where they come from a command line
            object.__setattr__(self, key, tuple(map(str, getattr(self, key))))
        super().__post_init__()
