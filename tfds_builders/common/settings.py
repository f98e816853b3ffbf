"""Settings of a builder: dataclasses whose non-default fields name the prepared folder. Imports no TFDS."""

import ast
import dataclasses
import hashlib
import json
import re
from collections.abc import Callable
from typing import Any, ClassVar

from rxrx_jax.base.errors import UserError
from tfds_builders.common.rows import tables

ENCODINGS = ("delta", "zstd", "raw", "source")  # of records; see encodings.py, which imports TFDS
DEFAULT = "default"  # name of the config whose settings are all the default
NAME_LENGTH = 200  # longest config name; it becomes a folder name


@dataclasses.dataclass(frozen=True)
class Records:
    """What every builder lets users choose: how records are encoded, and which part of the source is built.

    encoding: delta, zstd, raw or source (see encodings.py). bits: 8, or 16 where the published images have 16. tile:
    pixels at the side of the squares that an image is cut into, a record each; 0 for whole images, None for
    `encodings.tile_side` to choose. experiments, plates, cell_types: those to build; all if empty.
    """

    encoding: str = "delta"
    bits: int = 8
    tile: int | None = None
    experiments: tuple[str, ...] = ()
    plates: tuple[int, ...] = ()
    cell_types: tuple[str, ...] = ()
    plate_type: ClassVar[type] = int
    spelling: ClassVar[Callable[[str], str]] = staticmethod(tables.canonical)  # of an experiment's name

    def __post_init__(self):
        if self.encoding not in ENCODINGS:
            known = f"{', '.join(ENCODINGS[:-1])} or {ENCODINGS[-1]}"
            raise ValueError(f"encoding={self.encoding!r}: use {known}")
        if self.bits not in (8, 16):
            raise ValueError(f"bits={self.bits!r}: use 8 or 16")
        if self.tile is not None and (type(self.tile) is not int or self.tile < 0):
            raise ValueError(f"tile={self.tile!r}: use a number of pixels, or 0 for whole images")
        if self.tile and self.encoding == "source":
            raise ValueError(f"tile={self.tile}: encoding=source keeps the published files whole; use another encoding")
        kinds = (("experiments", str, "HUVEC-01"), ("plates", self.plate_type, "1,2"), ("cell_types", str, "RPE"))
        for name, kind, example in kinds:
            for value in getattr(self, name):
                if type(value) is not kind:
                    raise ValueError(f"{name}={value!r}: use values such as {example}")
        # One choice has one name, however it is written.
        experiments = sorted({self.spelling(name) for name in self.experiments})
        object.__setattr__(self, "experiments", tuple(experiments))
        object.__setattr__(self, "plates", tuple(sorted(set(self.plates))))
        object.__setattr__(self, "cell_types", tuple(sorted(set(self.cell_types))))


def make(defaults: tuple[Any, ...], fields: dict[str, Any], where: str) -> tuple[Any, ...]:
    """Returns copies of dataclasses with some fields replaced, naming any field that none of them has.

    Args:
      defaults: instances of frozen dataclasses; the first that has a field takes it.
      fields: values by field name, as Python values or as the text of a command line.
      where: what the settings are of, for the error.
    """
    owners: dict[str, int] = {}
    for i, default in enumerate(defaults):
        for field in dataclasses.fields(default):
            if field.init:
                owners.setdefault(field.name, i)
    unknown = sorted(set(fields) - set(owners))
    if unknown:
        raise UserError(f"{where} has no setting {unknown[0]!r}; it has: {', '.join(owners) or 'none'}")
    values: list[dict[str, Any]] = [{} for _ in defaults]
    for key, value in fields.items():
        default = getattr(defaults[owners[key]], key)
        values[owners[key]][key] = _fit(value, default, f"{where}: {key}")
    try:
        return tuple(dataclasses.replace(default, **mine) for default, mine in zip(defaults, values, strict=True))
    except (ValueError, TypeError) as error:
        raise UserError(f"{where}: {error}") from error


def _fit(value: Any, default: Any, where: str) -> Any:
    """Turns text and lists into the type of the default: 'a,b' and ['a', 'b'] into ('a', 'b'), '3' into 3."""
    if isinstance(value, str) and not isinstance(default, str):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError, TypeError):
            if isinstance(default, tuple):
                value = [part.strip() for part in value.split(",") if part.strip()]
    if isinstance(default, tuple):
        return tuple(value) if isinstance(value, (list, tuple)) else (value,)
    if isinstance(default, float) and type(value) is int:
        return float(value)
    if default is not None and type(value) is not type(default):
        raise UserError(f"{where}={value!r} must be of type {type(default).__name__}, as its default {default!r}")
    return value


def config_name(settings: tuple[Any, ...], defaults: tuple[Any, ...]) -> str:
    """Returns 'default' or the other-than-default fields by name, such as 'layout_reshuffled-seed_1'."""
    changed = {}
    for mine, default in zip(settings, defaults, strict=True):
        for field in dataclasses.fields(mine):
            if field.init and getattr(mine, field.name) != getattr(default, field.name):
                changed.setdefault(field.name, getattr(mine, field.name))
    parts = []
    for key, value in sorted(changed.items()):
        parts.append(f"{key}_{'+'.join(map(str, value)) if isinstance(value, tuple) else value}")
    name = "-".join(parts) or DEFAULT
    plain = re.sub(r"[^\w.+-]", "_", name)
    if plain != name or len(plain) > NAME_LENGTH:
        # Characters or length were lost: a digest keeps two different settings apart.
        plain = f"{plain[:NAME_LENGTH]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    return plain


def as_json(settings: tuple[Any, ...]) -> dict[str, Any]:
    """Returns the settings as one dict that is the same before and after a trip through JSON."""
    merged: dict[str, Any] = {}
    for part in reversed(settings):
        merged |= dataclasses.asdict(part)
    if merged.get("tile", 0) is None:  # came later: folders from before it are those of its default
        del merged["tile"]
    return json.loads(json.dumps(merged))
