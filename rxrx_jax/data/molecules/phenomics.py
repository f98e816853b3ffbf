"""Molecules with what they do to cells: a library beside the embeddings of wells in which its compounds were.

The wells are a file as `rxrx_jax.base.embeddings` reads it, with the columns inchikey and concentration_um, or are
simulated from the molecules (`rxrx_jax.molecules.screen`). Replicates of a compound at a dose are averaged, and weigh
as much as they agree.
"""

import dataclasses
import hashlib

import numpy as np

from rxrx_jax.base import embeddings, hosts
from rxrx_jax.base.errors import UserError
from rxrx_jax.data.molecules.library import Library

MOST_DOSES = 32


@dataclasses.dataclass(frozen=True)
class Screened(Library):
    """A library whose targets are, of each of `doses` (micromolar) in turn, a mean embedding [width] and its weight, 0
    to 1, all NaN where the compound was not screened at that dose. Embeddings are in units of the standard deviation
    over training molecules, whose mean is 0.

    screened [rows, doses, width + 1]; truth [rows, doses, width], the same without noise where it is simulated; centre,
    scale [width], of the embeddings as they were given."""

    doses: tuple[float, ...] = ()
    width: int = 0
    screened: np.ndarray | None = None
    truth: np.ndarray | None = None
    centre: np.ndarray | None = None
    scale: np.ndarray | None = None


def attach(library: Library, path: str, seed: int) -> Screened:
    """Args: path, of the wells' embeddings; "" simulates a screen of the library with this seed.

    Raises UserError for a file without the columns, with no compound of the library, or with too many doses."""
    if not path:
        from rxrx_jax.molecules import screen

        found = screen.simulate(library.smiles.tolist(), seed)
        n, doses, replicates, width = found.wells.shape
        row, dose = (np.repeat(x, replicates) for x in np.divmod(np.arange(n * doses), doses))
        return of_wells(library, row, np.array(screen.DOSES)[dose], found.wells.reshape(-1, width), found.truth)
    columns, x = embeddings.read(path)
    if missing := [name for name in ("inchikey", "concentration_um") if name not in columns]:
        raise UserError(f"data.phenomics={path} has no column {missing[0]}")
    place = {key: row for row, key in enumerate(library.inchikey.tolist())}
    row = np.array([place.get(key, -1) for key in columns["inchikey"].tolist()], np.int64)
    known = (row >= 0) & np.isfinite(columns["concentration_um"].astype(float)) & np.isfinite(x).all(1)
    if not known.any():
        raise UserError(f"data.phenomics={path}: no well is of a molecule of {library.where} at a known dose")
    hosts.say(f"{(~known).sum():,} of {len(known):,} wells are of no molecule here, or have no dose, and are left out")
    return of_wells(library, row[known], columns["concentration_um"][known].astype(float), x[known])


def of_wells(library: Library, row: np.ndarray, dose: np.ndarray, x: np.ndarray, truth=None) -> Screened:
    """The library with these wells: row [w] of the library, dose [w] in micromolar, x [w, d]."""
    doses, at = np.unique(dose, return_inverse=True)
    if len(doses) > MOST_DOSES:
        raise UserError(f"{len(doses)} concentrations in the wells, more than {MOST_DOSES}: round them")
    rows, width = len(library.split), x.shape[1]
    place, size = row * len(doses) + at, rows * len(doses)
    count = np.bincount(place, minlength=size)
    # The mean cosine of two replicates, from the length of the sum of their unit vectors.
    unit = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    total, of_units = np.zeros((2, size, width))
    np.add.at(total, place, x)
    np.add.at(of_units, place, unit)
    pairs = np.maximum(count * (count - 1), 1)
    weight = np.where(count > 1, (np.square(of_units).sum(1) - count) / pairs, 0).clip(0, 1)
    with np.errstate(invalid="ignore"):
        mean = (total / count[:, None]).reshape(rows, len(doses), width)
    fit = mean[library.roles.fit].reshape(-1, width)
    fit = fit[np.isfinite(fit).all(1)]
    if len(fit) < 2:
        raise UserError("fewer than two training molecules have wells: screen more of them, or split them again")
    centre, scale = fit.mean(0), np.maximum(fit.std(0), 1e-6)
    weight = np.where(count > 0, weight, np.nan).reshape(rows, len(doses), 1)
    screened = np.concatenate([(mean - centre) / scale, weight], 2).astype(np.float32)
    kept = {field.name: getattr(library, field.name) for field in dataclasses.fields(Library)}
    flat, read = screened.reshape(rows, -1), library.read
    kept["read"] = lambda wanted: [one._replace(targets=flat[i]) for one, i in zip(read(wanted), np.asarray(wanted))]
    kept["targets"] = tuple(f"phenomics_{i}" for i in range(flat.shape[1]))
    kept["kinds"] = ("regression",) * flat.shape[1]
    kept["digest"] = f"{library.digest} wells {hashlib.sha256(flat.tobytes()).hexdigest()}"
    if truth is not None:
        truth = ((truth - centre) / scale).astype(np.float32)
    about = {"doses": tuple(doses.tolist()), "width": width, "centre": centre, "scale": scale}
    return Screened(**kept, **about, screened=screened, truth=truth)
