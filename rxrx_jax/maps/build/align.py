"""Alignment of profiles over batches: the corrections of `rxrx_jax.adapt.correct`, with what they fitted kept."""

import dataclasses
import pathlib
import zipfile

import numpy as np

from rxrx_jax.adapt.correct import ALIGNMENTS
from rxrx_jax.adapt.correct.affine import Affine
from rxrx_jax.base import files
from rxrx_jax.base.errors import UserError, reason

NAMES = tuple(ALIGNMENTS)


@dataclasses.dataclass(frozen=True)
class Aligner:
    """name, of ALIGNMENTS; map, what it fitted, None where it has no map that other rows could be given to."""

    name: str
    map: Affine | None

    @property
    def marks(self) -> str:
        """ "T" if unlabelled wells of every batch were used, held-out ones too; "C" if it was told their controls."""
        return ALIGNMENTS[self.name].marks

    def __call__(self, x: np.ndarray, batch: np.ndarray) -> np.ndarray:
        """x [n, d] of batches [n] that were there when it was fitted, aligned: float64 [n, k]. Raises UserError for
        another batch, and for an alignment that is not a map."""
        if self.map is None:
            raise UserError(f"{self.name} aligns the rows it is given as a whole, and cannot be applied to others")
        return self.map(x, batch)

    def save(self, path: pathlib.Path) -> None:
        """Writes it as .npz, which appears when complete."""
        arrays = {key: value for key, value in (self.map or Affine())._asdict().items() if value is not None}
        with files.writing(path) as file:
            np.savez(file, alignment=self.name, is_map=self.map is not None, **arrays)


def fit(name: str, x: np.ndarray, batch: np.ndarray, is_control: np.ndarray, key: str = "--align"):
    """(Aligner, x [n, d] aligned by it, float64 [n, k]).

    Args: name, one of NAMES; batch [n], names; is_control [n] bool; key, that the name was given by, for messages.
    Raises UserError for an unknown name, and where the alignment cannot be fitted.
    """
    if name not in ALIGNMENTS:
        raise UserError(f"{key}={name!r}: expected {', '.join(ALIGNMENTS)}")
    found = ALIGNMENTS[name]
    try:
        if found.fit is None:
            return Aligner(name, None), found.function(x, batch, is_control)
        aligner = Aligner(name, found.fit(x, batch, is_control))
        return aligner, aligner(x, batch)
    except UserError as error:
        raise UserError(f"{key}={name}: {error}") from error


def load(path: pathlib.Path) -> Aligner:
    """What `Aligner.save` wrote. Raises UserError for another or a damaged file."""
    try:
        with files.reading(path, "build the map again") as file, np.load(file, allow_pickle=False) as found:
            arrays = {key: found[key] for key in found.files}
        name, is_map = str(arrays.pop("alignment")), bool(arrays.pop("is_map"))
        return Aligner(name, Affine(**arrays) if is_map else None)
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} is not a saved alignment ({reason(error)}); build the map again") from error
