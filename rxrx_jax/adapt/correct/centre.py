"""Centring and scaling by group: the simplest corrections.

On all wells of each group (transductive), as `centerscale_by_batch` of EFAAR 1.0 (Celik et al. 2022, bioRxiv
2022.12.09.519400); or on its untreated wells alone, as `centerscale_on_controls` there. The deviation is the
population's, and a constant feature is not scaled, both as there.
"""

import numpy as np

from rxrx_jax.adapt.correct.affine import Affine
from rxrx_jax.adapt.correct.groups import members, moments, prepared, with_controls


def centre(x: np.ndarray, groups: np.ndarray, is_control: np.ndarray, on: str = "all") -> np.ndarray:
    """x [n, d] less the mean of its group.

    Args: groups [n], such as names of experiments or plates; is_control [n] bool, the untreated wells; on, "all" or
    "controls", the wells that the mean is of.
    Returns float64 [n, d]. Raises UserError for a group without controls.
    """
    return fit_centre(x, groups, is_control, on)(x, groups)


def centre_scale(x: np.ndarray, groups: np.ndarray, is_control: np.ndarray, on: str = "all") -> np.ndarray:
    """As `centre`, and divided by the deviation of the same wells, two of them at least where they are controls."""
    return fit_centre_scale(x, groups, is_control, on)(x, groups)


def fit_centre(x: np.ndarray, groups: np.ndarray, is_control: np.ndarray, on: str = "all") -> Affine:
    """The map of `centre`."""
    x, groups, is_control = prepared(x, groups, is_control)
    used = _used(groups, is_control, on, least=1)
    return Affine(names=np.array([name for name, _ in used]), offset=np.stack([x[rows].mean(0) for _, rows in used]))


def fit_centre_scale(x: np.ndarray, groups: np.ndarray, is_control: np.ndarray, on: str = "all") -> Affine:
    """The map of `centre_scale`."""
    x, groups, is_control = prepared(x, groups, is_control)
    used = _used(groups, is_control, on, least=2)
    found = [moments(x[rows]) for _, rows in used]
    names, offset, std = [name for name, _ in used], [mean for mean, _ in found], [std for _, std in found]
    return Affine(names=np.array(names), offset=np.stack(offset), turn=1 / np.stack(std))


def _used(groups, is_control, on, least):
    if on not in ("all", "controls"):
        raise ValueError(f"on={on!r}: expected all or controls")
    if on == "controls":
        return [(name, controls) for name, _, controls in with_controls(groups, is_control, least)]
    return members(groups)
