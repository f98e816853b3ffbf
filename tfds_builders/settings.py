"""Settings of a builder: a dataclass whose non-default fields name the prepared folder. Imports no TFDS."""

import ast
import dataclasses
import hashlib
import json
import re
from typing import Any

from rxrx_jax.errors import UserError

NAME_LENGTH = 200  # longest config name; it becomes a folder name


def make(kind: type, fields: dict[str, Any], where: str) -> Any:
    """Returns kind(**fields), an instance of the settings dataclass, naming any field that does not exist.

    Args:
      kind: a dataclass whose fields all have defaults.
      fields: values by field name, as Python values or as the text of a command line.
      where: what the settings are of, for the error.
    """
    defaults = {f.name: f for f in dataclasses.fields(kind) if f.init}
    unknown = sorted(set(fields) - set(defaults))
    if unknown:
        raise UserError(f"{where} has no setting {unknown[0]!r}; it has: {', '.join(defaults) or 'none'}")
    default = kind()
    values = {key: _fit(value, getattr(default, key), f"{where}: {key}") for key, value in fields.items()}
    try:
        return kind(**values)
    except (ValueError, TypeError) as error:
        raise UserError(f"{where}: {error}") from error


def _fit(value: Any, default: Any, where: str) -> Any:
    """Turns text and lists into the type of the default: 'a,b' and ['a', 'b'] into ('a', 'b'), '3' into 3."""
    if isinstance(value, str) and not isinstance(default, str):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            if isinstance(default, tuple):
                value = [part.strip() for part in value.split(",") if part.strip()]
    if isinstance(default, tuple):
        return tuple(value) if isinstance(value, (list, tuple)) else (value,)
    if isinstance(default, float) and type(value) is int:
        return float(value)
    if default is not None and type(value) is not type(default):
        raise UserError(f"{where}={value!r} must be of type {type(default).__name__}, as its default {default!r}")
    return value


def config_name(settings: Any) -> str:
    """Returns 'default' or the other-than-default fields by name, such as 'layout_reshuffled-seed_1'."""
    default = type(settings)()
    parts = []
    for key in sorted(f.name for f in dataclasses.fields(settings) if f.init):
        value = getattr(settings, key)
        if value != getattr(default, key):
            parts.append(f"{key}_{'+'.join(map(str, value)) if isinstance(value, tuple) else value}")
    name = "-".join(parts) or "default"
    plain = re.sub(r"[^\w.+-]", "_", name)
    if plain != name or len(plain) > NAME_LENGTH:
        # Characters or length were lost: a digest keeps two different settings apart.
        plain = f"{plain[:NAME_LENGTH]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    return plain


def as_json(settings: Any) -> dict[str, Any]:
    """Returns the settings as a dict that is the same before and after a trip through JSON."""
    return json.loads(json.dumps(dataclasses.asdict(settings)))
