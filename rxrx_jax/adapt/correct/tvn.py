"""Typical variation normalisation: what varies among untreated wells is noise, and is made equal in all directions
(Ando et al. 2017, bioRxiv 161422), as `tvn_on_controls` of EFAAR 1.0 computes it.

Whitened by the controls of all groups, then each group by C^(-1/2), with C the covariance of its own controls (ddof 1)
plus half the identity; groups are not centred, as there. Unlike there, too few controls are refused: with no more of
them than features the published one divides by deviations of rounding, and returns values of 1e15 without a word.
Directions in which no control varies are left out. Signs of the axes are free; cosines do not depend on them.
"""

import numpy as np

from rxrx_jax.adapt.correct.affine import Affine
from rxrx_jax.adapt.correct.groups import inverse_root, moments, prepared, principal, with_controls
from rxrx_jax.base.errors import UserError

RIDGE = 0.5


def tvn(x: np.ndarray, groups: np.ndarray, is_control: np.ndarray) -> np.ndarray:
    """x [n, d], whitened by its controls, all and those of its group.

    Args: groups [n], experiments as a rule; is_control [n] bool, the untreated wells.
    Returns float64 [n, r], r the directions in which controls vary.
    Raises UserError for a group with fewer than two controls, and unless there are more controls than features.
    """
    return fit_tvn(x, groups, is_control)(x, groups)


def fit_tvn(x: np.ndarray, groups: np.ndarray, is_control: np.ndarray) -> Affine:
    """The map of `tvn`."""
    x, groups, is_control = prepared(x, groups, is_control)
    parts, (count, size) = with_controls(groups, is_control, least=2), x[is_control].shape
    if count <= size:
        raise UserError(f"tvn needs more untreated wells than features, and here are {count} and {size}; use "
                        "tvn_shrunk, or pca_centre_scale first")  # fmt: skip
    mean, std = moments(x[is_control])
    _, variances, axes = principal((x[is_control] - mean) / std)
    axes = axes / np.sqrt(variances) / std[:, None]
    names, turn = [], []
    for name, _, controls in parts:
        own = (x[controls] - x[controls].mean(0)) @ axes
        names.append(name)
        turn.append(inverse_root(own.T @ own / (len(own) - 1) + RIDGE * np.eye(len(variances)), name))
    return Affine(mean, axes, np.array(names), None, np.stack(turn))
