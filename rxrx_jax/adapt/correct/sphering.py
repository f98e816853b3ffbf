"""Sphering of profiles by their untreated wells (ZCA: the whitening that changes them least; Kessy et al. 2016, arXiv
1512.00809), on features standardised by the same wells. Groups are not told apart.

form="cytominer": (eigenvalue + regularisation)^(-1/2) of the covariance (ddof 1), with regularisation 1, as `whiten` of
the R package cytominer, turned back by the eigenvectors. form="pycytominer": `Spherize(method="ZCA-cor")`, whose
epsilon, 1e-6, is added to the singular values of the controls; as there, they must vary in every direction.
"""

import numpy as np

from rxrx_jax.adapt.correct.affine import Affine
from rxrx_jax.adapt.correct.groups import moments, prepared, principal
from rxrx_jax.base.errors import UserError

DEFAULTS = {"cytominer": 1.0, "pycytominer": 1e-6}


def sphering(
    x: np.ndarray,
    groups: np.ndarray,
    is_control: np.ndarray,
    form: str = "cytominer",
    regularisation: float | None = None,
) -> np.ndarray:
    """x [n, d], so that the covariance of its controls is near the identity.

    Args: groups [n], not used; is_control [n] bool, the untreated wells; form, whose definition; regularisation, None
    for that of `form`.
    Returns float64 [n, d]. Raises UserError for fewer than two controls, and in form "pycytominer" for controls that do
    not vary in every direction.
    """
    return fit_sphering(x, groups, is_control, form, regularisation)(x, groups)


def fit_sphering(
    x: np.ndarray,
    groups: np.ndarray,
    is_control: np.ndarray,
    form: str = "cytominer",
    regularisation: float | None = None,
) -> Affine:
    """The map of `sphering`, which is one for all groups."""
    x, _, is_control = prepared(x, groups, is_control)
    if (count := is_control.sum()) < 2:
        raise UserError(f"sphering needs at least 2 untreated wells, not {count}")
    epsilon = DEFAULTS[form] if regularisation is None else regularisation
    mean, std = moments(x[is_control])
    _, variances, axes = principal((x[is_control] - mean) / std)
    values = variances * count / (count - 1)
    if form == "cytominer":
        rest = np.eye(x.shape[1]) - axes @ axes.T  # directions in which no control varies
        whitened = (axes / np.sqrt(values + epsilon)) @ axes.T + rest / np.sqrt(epsilon)
        return Affine(mean, whitened / std[:, None])
    if len(variances) < x.shape[1]:
        raise UserError(f"sphering of form pycytominer needs untreated wells that vary in all {x.shape[1]} directions, "
                        f"and these {count} vary in {len(variances)}; use form cytominer")  # fmt: skip
    whitened = (axes / (np.sqrt(values) + epsilon / np.sqrt(count - 1))) @ axes.T
    return Affine(mean, whitened / std[:, None])
