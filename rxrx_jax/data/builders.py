"""The only link from here to the packages that prepare datasets: what they have registered under one entry point."""

import functools
import importlib.metadata
import types

from rxrx_jax.base.errors import UserError

GROUP = "rxrx_jax.builders"  # in pyproject.toml


@functools.cache
def builders() -> types.ModuleType:
    """The module that prepares and finds datasets by name: `names`, `builder_class`, `find` and `prepare`.

    Raises UserError where none is installed."""
    for point in importlib.metadata.entry_points(group=GROUP):
        return point.load()
    raise UserError("no package that prepares datasets is installed; in the clone, run `pip install -e .`")
