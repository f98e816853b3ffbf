"""Files that a config names: one of the package's own by name, or any other by path."""

import importlib
import importlib.util
import pathlib
import traceback
import types

from rxrx_jax.base.errors import UserError


def load(name: str, package: types.ModuleType, key: str, pattern: str = "[a-z]*.py", but: str = "") -> types.ModuleType:
    """The module that a config key names.

    Args:
      name: `dann` for the file dann.py of the package, or the path of a Python file.
      package: where names are looked up.
      key: the config key, for messages.
      pattern, but: which of its files can be named, and the folder of it of which none can.

    Raises UserError if the file does not exist, or if a user's file cannot be imported.
    """
    root = pathlib.Path(package.__file__).parent
    if name.endswith(".py"):
        return from_path(pathlib.Path(name).expanduser(), key)
    named = (path for path in root.glob(pattern) if path.parent.name != but)
    files = {path.stem: path for path in sorted(named, key=lambda path: path.stem)}
    if name not in files:
        raise UserError(f"{key}={name!r}: expected {', '.join(files)}, or the path of a .py file")
    parts = files[name].relative_to(root).with_suffix("").parts
    return importlib.import_module(".".join((package.__name__, *parts)))


def from_path(path: pathlib.Path, key: str) -> types.ModuleType:
    """The module of a Python file. Raises UserError, as `load` does; its message has the line that failed."""
    if not path.is_file():
        raise UserError(f"{key}={path}: no such file")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except UserError:
        raise
    except Exception as error:
        frames, here = traceback.extract_tb(error.__traceback__), path.resolve()
        lines = [frame.lineno for frame in frames if pathlib.Path(frame.filename).resolve() == here]
        where = f" at line {lines[-1]}" if lines else ""
        raise UserError(f"{key}={path} cannot be imported{where} ({type(error).__name__}: {error})") from error
    return module


def only_class(module: types.ModuleType, base: type, key: str) -> type:
    """The one public class of a module that is a `base`. Raises UserError unless there is exactly one."""
    found = [
        value
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, base) and value.__module__ == module.__name__
        if not name.startswith("_")
    ]
    if len(found) != 1:
        raise UserError(f"{key}: {module.__file__} must define one {base.__name__}, and defines {len(found)}")
    return found[0]
