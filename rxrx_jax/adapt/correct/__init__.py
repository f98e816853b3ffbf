"""Corrections of embeddings for the batch: numpy in, numpy out, usable without training.

Each is a function (x [n, d], groups [n], is_control [n]) -> x [n, k] in a file of this folder, float64 inside.
`CORRECTIONS` has them as commands and evaluators name them; a name says by what and on which wells where there is a
choice.
"""

import functools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from rxrx_jax.adapt.correct.affine import Affine
from rxrx_jax.adapt.correct.centre import centre, centre_scale, fit_centre, fit_centre_scale
from rxrx_jax.adapt.correct.combat import combat, fit_combat
from rxrx_jax.adapt.correct.harmony import Clusters, fit_harmony, harmony
from rxrx_jax.adapt.correct.pca_centre_scale import fit_pca_centre_scale, pca_centre_scale
from rxrx_jax.adapt.correct.position import fit_position, position
from rxrx_jax.adapt.correct.rank_inverse_normal import rank_inverse_normal
from rxrx_jax.adapt.correct.sphering import fit_sphering, sphering
from rxrx_jax.adapt.correct.tvn import fit_tvn, tvn
from rxrx_jax.adapt.correct.tvn_shrunk import fit_tvn_shrunk, tvn_shrunk
from rxrx_jax.base.errors import UserError

UNTREATED = "negative_control"  # as base.spellings has it: corrections are usable by themselves


class Correction(NamedTuple):
    """by: "experiment", "plate" or "well" (BATCH/WELL), its groups. marks: of metrics on what it gives, "T" where it
    uses all wells without labels, those of held-out experiments too; "C" where it is told which of them are untreated.
    fit: what gives the map that `function` applies, to be kept; None where it is not one."""

    function: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
    by: str
    marks: str
    fit: Callable[[np.ndarray, np.ndarray, np.ndarray], Affine | Clusters] | None = None


def _on(function, fit, on: str, mark: str) -> Correction:
    return Correction(functools.partial(function, on=on), "experiment", mark, functools.partial(fit, on=on))


# By what they do, whichever the groups are; `by` is the usual one.
ALIGNMENTS = {
    "none": Correction(lambda x, groups, is_control: x, "experiment", "", lambda x, groups, is_control: Affine()),
    "centre": _on(centre, fit_centre, "all", "T"),
    "centre_controls": _on(centre, fit_centre, "controls", "C"),
    "centre_scale": _on(centre_scale, fit_centre_scale, "all", "T"),
    "centre_scale_controls": _on(centre_scale, fit_centre_scale, "controls", "C"),
    "rank_inverse_normal": Correction(rank_inverse_normal, "plate", "T"),
    "pca_centre_scale": Correction(pca_centre_scale, "experiment", "C", fit_pca_centre_scale),
    "tvn": Correction(tvn, "experiment", "C", fit_tvn),
    "tvn_shrunk": Correction(tvn_shrunk, "experiment", "C", fit_tvn_shrunk),
    "sphering": Correction(sphering, "experiment", "C", fit_sphering),
    "combat": Correction(combat, "experiment", "T", fit_combat),
    "harmony": Correction(harmony, "experiment", "T", fit_harmony),
    "position": Correction(position, "well", "T", fit_position),
}


def _named() -> Iterator[tuple[str, Correction]]:
    """Centring and scaling by experiments and by plates, and the others; not those by wells, which maps alone know."""
    for name, found in ALIGNMENTS.items():
        if found.by == "well":
            continue
        if not name.startswith("centre"):
            yield name, found
            continue
        what = name.removesuffix("_controls")
        for by in ("experiment", "plate"):
            yield name.replace(what, f"{what}_{by}"), found._replace(by=by)


CORRECTIONS = dict(_named())


def find(name: str, key: str) -> Correction:
    """The correction of this name. Raises UserError, naming the `key` that it was given by."""
    if name not in CORRECTIONS:
        raise UserError(f"{key}={name!r}: expected {', '.join(CORRECTIONS)}")
    return CORRECTIONS[name]


def correct(
    name: str, x: np.ndarray, experiment: np.ndarray, plate: np.ndarray | None, well_type: np.ndarray | None, key: str
) -> np.ndarray:
    """x [n, d] corrected by name.

    Args: experiment and plate [n], names, those of plates unique over experiments; well_type [n]. None for what is not
    known. key, that the name was given by, for messages.
    Raises UserError where a correction needs what is None, and where it cannot be applied.
    """
    found = find(name, key)
    groups = experiment if found.by == "experiment" else plate
    missing = "plate" if groups is None else "well_type" if "C" in found.marks and well_type is None else ""
    if missing:
        raise UserError(f"{key}={name} needs to know the {missing} of every embedding, and these have no such column")
    is_control = np.zeros(len(x), bool) if well_type is None else np.asarray(well_type) == UNTREATED
    try:
        return found.function(x, groups, is_control)
    except UserError as error:
        raise UserError(f"{key}={name}: {error}") from error
