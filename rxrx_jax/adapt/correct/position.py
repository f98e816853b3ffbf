"""Effects of a plate's rows and columns, such as of its edge, taken out within each batch: the least-squares fit of one
effect per row and one per column to all wells of the batch (transductive). The batch's mean stays.

Where the same treatments stand in the same wells of every batch their effects go along in part.
"""

import re

import numpy as np

from rxrx_jax.adapt.correct.affine import Affine
from rxrx_jax.adapt.correct.groups import members, prepared
from rxrx_jax.base.errors import UserError

LEAST = 4  # wells of a batch, on average, in one of its rows or columns


def position(x: np.ndarray, groups: np.ndarray, is_control: np.ndarray) -> np.ndarray:
    """x [n, d] less what its row and its column add.

    Args: groups [n], names BATCH/WELL such as HUVEC-01/B02; is_control [n], not used.
    Returns float64 [n, d]. Raises UserError for a name that is not such, and for a batch with too few wells in a row or
    column.
    """
    return fit_position(x, groups, is_control)(x, groups)


def fit_position(x: np.ndarray, groups: np.ndarray, is_control: np.ndarray) -> Affine:
    """The map of `position`, for every well on a row and a column that a batch has."""
    x, groups, _ = prepared(x, groups, is_control)
    wells, of = np.unique(groups.astype(str), return_inverse=True)
    batch, row, column = np.array([_parts(name) for name in wells.tolist()], object)[of].T
    names, offsets = [], []
    for name, rows in members(batch):
        (letters, i), (digits, j) = (np.unique(place[rows].astype(str), return_inverse=True) for place in (row, column))
        if len(rows) < LEAST * max(len(letters), len(digits)):
            raise UserError(f"{name} has {len(rows)} wells in {len(letters)} rows and {len(digits)} columns, and "
                            f"position needs {LEAST} in each of them on average")  # fmt: skip
        design = np.concatenate([np.eye(len(letters))[i], np.eye(len(digits))[j]], axis=1)
        effect = np.linalg.lstsq(design, x[rows] - x[rows].mean(0), rcond=None)[0]
        grid = effect[: len(letters), None] + effect[len(letters) :]
        names += [f"{name}/{r}{c}" for r in letters.tolist() for c in digits.tolist()]
        offsets.append(grid.reshape(-1, x.shape[1]))
    return Affine(names=np.array(names), offset=np.concatenate(offsets))


def _parts(name: str) -> tuple[str, ...]:
    if not (match := re.fullmatch(r"(.+)/([A-Z]+)(\d+)", name)):
        raise UserError(f"{name} is not a batch and a well such as HUVEC-01/B02")
    return match.groups()
