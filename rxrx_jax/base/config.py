"""Configs: colon arguments, durations, and a read-only view that records which keys have not been read."""

import json
import pathlib

import ml_collections

from rxrx_jax.base import plugins
from rxrx_jax.base.errors import UserError

_PACKAGE = pathlib.Path(__file__).resolve().parents[1]
# Inside the package where a wheel put it, beside it in a clone.
CONFIGS = _PACKAGE / "configs" if (_PACKAGE / "configs").is_dir() else _PACKAGE.parent / "configs"


def find(argument: str) -> str:
    """`mae_vit.py:args` -> the same with a path that exists: as given, or in `configs/` beside the package."""
    name, colon, arguments = argument.partition(":")
    for path in (pathlib.Path(name), CONFIGS / name):
        if path.is_file():
            return f"{path}{colon}{arguments}"
    known = ", ".join(sorted(p.name for p in CONFIGS.glob("*.py")))
    raise UserError(f"--config={name}: no such file here or in {CONFIGS} (which has {known})")


def load(argument: str) -> dict:
    """The nested dict of a config: `mae_vit.py:layout=fixed`, found as `find` does."""
    return make(argument).to_dict()


def make(argument: str) -> ml_collections.ConfigDict:
    """What the file of a config returns: `mae_vit.py:layout=fixed`, found as `find` does."""
    path, _, arguments = find(argument).partition(":")
    return plugins.from_path(pathlib.Path(path), "--config").get_config(*filter(None, [arguments]))


def parse_arguments(argument: str | None, of: str = "config", /, **defaults) -> ml_collections.ConfigDict:
    """The arguments after the colon in `--config=file.py:rxrx1,variant=B/16` for a config's `get_config(argument)`.

    Each argument has the type of its default; a bare name turns a boolean on. of: what they are arguments of, for
    messages. Raises UserError naming the argument.
    """
    values = ml_collections.ConfigDict(defaults)
    for token in filter(None, (argument or "").split(",")):
        key, has_value, text = token.partition("=")
        if key not in defaults:
            raise UserError(f"{of} argument {key!r} is unknown; this {of} takes {', '.join(sorted(defaults))}")
        default = defaults[key]
        try:
            if isinstance(default, bool):
                values[key] = {"": True, "true": True, "1": True, "false": False, "0": False}[text.lower()]
            elif not has_value:
                raise ValueError
            else:
                values[key] = type(default)(text)
        except (KeyError, ValueError):
            raise UserError(f"{of} argument {token!r}: expected {key}={type(default).__name__}") from None
    return values


def flatten(values: dict, prefix: str = "") -> dict[str, object]:
    """A nested config as {"optim.lr": value}; an empty section keeps its key."""
    flat = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        flat |= flatten(value, f"{name}.") if isinstance(value, dict) and value else {name: value}
    return flat


class Config:
    """Read-only view of a nested config that remembers what was read.

    `config.optim.lr` reads; a missing key is a UserError with its full name; `unread()` lists the leaves that
    have not been read, which after set-up are unused or misspelled.
    """

    def __init__(self, values: dict, prefix: str = "", seen: set | None = None):
        self._values, self._prefix, self._seen = values, prefix, set() if seen is None else seen

    def __getattr__(self, key: str):
        if key.startswith("_"):
            raise AttributeError(key)
        if key not in self._values:
            raise UserError(f"config key {self._prefix}{key} is missing")
        return self._read(key)

    def _read(self, key):
        value = self._values[key]
        if isinstance(value, dict):
            return Config(value, f"{self._prefix}{key}.", self._seen)
        self._seen.add(self._prefix + key)
        return tuple(value) if isinstance(value, list) else value

    def get(self, key: str, default=None):
        return self._read(key) if key in self._values else default

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def __iter__(self):
        return iter(self._values)

    def as_kwargs(self) -> dict:
        """Every leaf of this level, read, for a function whose signature then checks the names."""
        return {key: self._read(key) for key in self._values}

    def replace(self, section: str, **changes) -> "Config":
        """The same view with other values of `section`'s keys; what is read of it counts as read here."""
        values = self._values | {section: self._values[section] | changes}
        return Config(values, self._prefix, self._seen)

    def unread(self) -> list[str]:
        leaves = flatten(self._values, self._prefix).items()
        return sorted(name for name, value in leaves if name not in self._seen and value != {})

    def check_all_read(self) -> None:
        if unread := self.unread():
            raise UserError(
                f"config key {', '.join(unread)} is unused or misspelled: this run does not read it; remove or fix it"
            )


def duration(config: Config, name: str, *, minibatch: int, examples: int, total_steps: int | None = None) -> int | None:
    """A length of the run in steps, from whichever of NAME_steps, NAME_epochs, NAME_examples, NAME_percent is set.

    Args: minibatch, images per step; examples, images per epoch; total_steps, the base of a percentage.
    Returns None when none is set. Raises UserError when two are.
    """
    keys = [k for k in (f"{name}_steps", f"{name}_epochs", f"{name}_examples", f"{name}_percent") if k in config]
    if len(keys) > 1:
        raise UserError(f"config keys {' and '.join(keys)} say the same thing twice; keep one")
    if not keys:
        return None
    value = config.get(keys[0])
    unit = keys[0].rpartition("_")[2]
    if unit == "percent" and total_steps is None:
        raise UserError(f"config key {keys[0]}: a percentage of the run's own length makes no sense")
    scale = {"steps": 1, "epochs": examples / minibatch, "examples": 1 / minibatch, "percent": (total_steps or 0) / 100}
    return max(1, round(value * scale[unit])) if value > 0 else 0


def to_json(values: dict) -> str:
    return json.dumps(values, indent=2, sort_keys=True) + "\n"
