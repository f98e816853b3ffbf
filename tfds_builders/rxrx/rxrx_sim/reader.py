"""Renders the sites of the simulated screen where other builders read them.

In a module of its own: `tfds build` imports a builder's file under a name that worker processes do not know.
"""

import contextlib
import dataclasses
import types
from collections.abc import Iterator
from typing import Any

import numpy as np

from rxrx_jax.simulate import screen as simulate


@dataclasses.dataclass(frozen=True)
class Simulated:
    """Renders sites in place of reading them."""

    screen: simulate.Screen
    facts = counts = types.MappingProxyType({})  # as reading.FileReader and FileSites

    def plates(self) -> list[tuple[str, int]]:
        """Returns no plate beyond those of the table."""
        return []

    strays = plates

    def check(self) -> None:
        """Does nothing: a simulation does not go away."""

    @contextlib.contextmanager
    def open(self, experiment: str, plate: int) -> Iterator["Simulated"]:
        """A plate; nothing to open."""
        yield self

    def read(self, row: dict[str, Any]) -> tuple[np.ndarray, list[bytes]]:
        """Returns the image [6, H, W] uint8, a pure function of screen and row, and no files."""
        return simulate.render_site(self.screen, row).transpose(2, 0, 1), []

    def unlisted(self, places: set[tuple[str, int]]) -> list[str]:
        """Returns no file."""
        return []
