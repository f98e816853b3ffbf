"""Corrections of embeddings for the batch: numpy in, numpy out, usable without training.

Each is a function (x [n, d], groups [n], is_control [n]) -> x [n, k] in a file of this folder, float64 inside.
`CORRECTIONS` has them as commands and evaluators name them; a name says by what and on which wells where there is a
choice.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from rxrx_jax.adapt.correct.centre import centre, centre_scale
from rxrx_jax.adapt.correct.harmony import harmony
from rxrx_jax.adapt.correct.pca_centre_scale import pca_centre_scale
from rxrx_jax.adapt.correct.rank_inverse_normal import rank_inverse_normal
from rxrx_jax.adapt.correct.sphering import sphering
from rxrx_jax.adapt.correct.tvn import tvn
from rxrx_jax.adapt.correct.tvn_shrunk import tvn_shrunk
from rxrx_jax.base.errors import UserError

UNTREATED = "negative_control"


class Correction(NamedTuple):
    """by: "experiment" or "plate", its groups. marks: of metrics on what it gives, "T" where it uses all wells without
    labels, those of held-out experiments too; "C" where it is told which of them are untreated."""

    function: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
    by: str
    marks: str


def _by_group() -> dict[str, Correction]:
    return {
        f"{function.__name__}_{by}{suffix}": Correction(functools.partial(function, on=on), by, mark)
        for function in (centre, centre_scale)
        for by in ("experiment", "plate")
        for on, suffix, mark in (("all", "", "T"), ("controls", "_controls", "C"))
    }


CORRECTIONS = {
    "none": Correction(lambda x, groups, is_control: x, "experiment", ""),
    **_by_group(),
    "rank_inverse_normal": Correction(rank_inverse_normal, "plate", "T"),
    "pca_centre_scale": Correction(pca_centre_scale, "experiment", "C"),
    "tvn": Correction(tvn, "experiment", "C"),
    "tvn_shrunk": Correction(tvn_shrunk, "experiment", "C"),
    "sphering": Correction(sphering, "experiment", "C"),
    "harmony": Correction(harmony, "experiment", "T"),
}


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
