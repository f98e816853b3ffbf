"""Principal components of the untreated wells, then centring and scaling by each group's untreated wells.

`pca_centerscale_on_controls` of EFAAR, by which the embeddings of RxRx3-core are corrected: the axes are fitted to the
controls of all groups. There 128 components are taken however few controls there are; here at most a quarter of their
number, as the last axes of a few points are noise that scaling would raise to the level of all others.
"""

import numpy as np

from rxrx_jax.adapt.correct.affine import Affine
from rxrx_jax.adapt.correct.centre import fit_centre_scale
from rxrx_jax.adapt.correct.groups import prepared, principal, with_controls
from rxrx_jax.base.errors import UserError

PER_COMPONENT = 4  # controls


def pca_centre_scale(x: np.ndarray, groups: np.ndarray, is_control: np.ndarray, components: int = 128) -> np.ndarray:
    """x [n, d] on at most `components` axes of its controls, with mean 0 and deviation 1 of each group's controls.

    Args: groups [n], experiments as a rule; is_control [n] bool, the untreated wells.
    Returns float64 [n, k], k the least of `components`, a quarter of the controls, and the directions they vary in.
    Raises UserError for a group with fewer than two controls, and for fewer than four in all.
    """
    return fit_pca_centre_scale(x, groups, is_control, components)(x, groups)


def fit_pca_centre_scale(x: np.ndarray, groups: np.ndarray, is_control: np.ndarray, components: int = 128) -> Affine:
    """The map of `pca_centre_scale`."""
    x, groups, is_control = prepared(x, groups, is_control)
    most = min(components, is_control.sum() // PER_COMPONENT)
    if most < 1:
        raise UserError(f"pca_centre_scale needs at least {PER_COMPONENT} untreated wells, not {is_control.sum()}")
    with_controls(groups, is_control, least=2)
    controls = x[is_control]
    mean, _, axes = principal(controls)
    axes = axes[:, :most]
    of_groups = fit_centre_scale((controls - mean) @ axes, groups[is_control], np.ones(len(controls), bool))
    return of_groups._replace(mean=mean, axes=axes)
