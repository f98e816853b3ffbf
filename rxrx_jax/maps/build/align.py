"""Alignment of profiles over batches: the corrections of `rxrx_jax.adapt.correct`, one or several after each other,
with what they fitted kept."""

import dataclasses
import pathlib
import zipfile

import numpy as np

from rxrx_jax.adapt.correct import ALIGNMENTS
from rxrx_jax.adapt.correct.affine import Affine
from rxrx_jax.adapt.correct.harmony import Clusters
from rxrx_jax.base import files
from rxrx_jax.base.errors import UserError, reason
from rxrx_jax.base.seen import join

NAMES = tuple(ALIGNMENTS)
Map = Affine | Clusters


@dataclasses.dataclass(frozen=True)
class Aligner:
    """names, of ALIGNMENTS, in the order they are applied; maps, what each fitted, None where it has no map that other
    rows could be given to."""

    names: tuple[str, ...]
    maps: tuple[Map | None, ...]

    @property
    def marks(self) -> str:
        """ "T" if unlabelled wells of every batch were used, held-out ones too; "C" if it was told their controls."""
        return join(*(ALIGNMENTS[name].marks for name in self.names))

    def __call__(self, x: np.ndarray, batch: np.ndarray, well: np.ndarray | None = None) -> np.ndarray:
        """x [n, d] of batches [n] that were there when it was fitted, aligned: float64 [n, k]. Args: well [n], such as
        B02, where a step goes by it. Raises UserError for another batch, and for an alignment that is not a map."""
        for name, one in zip(self.names, self.maps):
            if one is None:
                raise UserError(f"{name} aligns the rows it is given as a whole, and cannot be applied to others")
            x = one(x, _groups(name, batch, well))
        return x

    def save(self, path: pathlib.Path) -> None:
        """Writes it as .npz, which appears when complete."""
        arrays = {
            f"{i}/{type(one).__name__}/{key}": value
            for i, one in enumerate(self.maps)
            if one is not None
            for key, value in one._asdict().items()
            if value is not None
        }
        with files.writing(path) as file:
            np.savez(file, alignment=self.names, is_map=[one is not None for one in self.maps], **arrays)


def names_of(text: str, key: str = "--align") -> tuple[str, ...]:
    """The alignments of a text NAME or NAME,NAME. Raises UserError for an unknown one."""
    names = tuple(text.split(","))
    if unknown := [name for name in names if name not in ALIGNMENTS]:
        raise UserError(f"{key}={unknown[0]!r}: expected {', '.join(ALIGNMENTS)}, or several with commas")
    return names


def needs_wells(text: str) -> bool:
    """Whether one of the alignments goes by the place of a well on its plate."""
    return any(ALIGNMENTS[name].by == "well" for name in names_of(text))


def fit(
    text: str,
    x: np.ndarray,
    batch: np.ndarray,
    is_control: np.ndarray,
    key: str = "--align",
    well: np.ndarray | None = None,
) -> tuple[Aligner, np.ndarray]:
    """(Aligner, x [n, d] aligned by it, float64 [n, k]).

    Args: text, one of NAMES, or several with commas, applied in turn; batch [n], names; is_control [n] bool; key, that
    the text was given by, for messages; well [n], such as B02, where an alignment goes by it.
    Raises UserError for an unknown name, and where an alignment cannot be fitted.
    """
    names, maps = names_of(text, key), []
    for name in names:
        found = ALIGNMENTS[name]
        try:
            groups = _groups(name, batch, well)
            maps.append(None if found.fit is None else found.fit(x, groups, is_control))
            x = found.function(x, groups, is_control) if maps[-1] is None else maps[-1](x, groups)
        except UserError as error:
            raise UserError(f"{key}={name}: {error}") from error
    return Aligner(names, tuple(maps)), x


def _groups(name: str, batch: np.ndarray, well: np.ndarray | None) -> np.ndarray:
    if ALIGNMENTS[name].by != "well":
        return batch
    if well is None:
        raise UserError(f"{name} needs to know the well of every row")
    return np.array([f"{one}/{other}" for one, other in zip(batch.tolist(), well.tolist())], object)


def load(path: pathlib.Path) -> Aligner:
    """What `Aligner.save` wrote. Raises UserError for another or a damaged file."""
    try:
        with files.reading(path, "build the map again") as file, np.load(file, allow_pickle=False) as found:
            arrays = {key: found[key] for key in found.files}
        names, is_map = arrays.pop("alignment").tolist(), arrays.pop("is_map").tolist()
        parts: list[dict] = [{} for _ in names]
        kinds: list[type] = [Affine for _ in names]  # of a map without arrays, which leaves rows as they are
        for name, value in arrays.items():
            i, kind, field = name.split("/")
            kinds[int(i)] = {"Affine": Affine, "Clusters": Clusters}[kind]
            parts[int(i)][field] = value
        maps = [kind(**part) if there else None for kind, part, there in zip(kinds, parts, is_map, strict=True)]
        return Aligner(tuple(names), tuple(maps))
    except (OSError, ValueError, KeyError, TypeError, IndexError, zipfile.BadZipFile) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} is not a saved alignment ({reason(error)}); build the map again") from error
