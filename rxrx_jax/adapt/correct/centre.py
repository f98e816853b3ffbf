"""Centring and scaling by group: the simplest corrections.

On all wells of each group (transductive), as `centerscale_by_batch` of EFAAR 1.0 (Celik et al. 2022, bioRxiv
2022.12.09.519400); or on its untreated wells alone, as `centerscale_on_controls` there. The deviation is the
population's, and a constant feature is not scaled, both as there.
"""

import numpy as np

from rxrx_jax.adapt.correct.groups import members, moments, prepared, with_controls


def centre(x: np.ndarray, groups: np.ndarray, is_control: np.ndarray, on: str = "all") -> np.ndarray:
    """x [n, d] less the mean of its group.

    Args: groups [n], such as names of experiments or plates; is_control [n] bool, the untreated wells; on, "all" or
    "controls", the wells that the mean is of.
    Returns float64 [n, d]. Raises UserError for a group without controls.
    """
    x, groups, is_control = prepared(x, groups, is_control)
    for _, rows, used in _used(groups, is_control, on, least=1):
        x[rows] -= x[used].mean(0)
    return x


def centre_scale(x: np.ndarray, groups: np.ndarray, is_control: np.ndarray, on: str = "all") -> np.ndarray:
    """As `centre`, and divided by the deviation of the same wells, two of them at least where they are controls."""
    x, groups, is_control = prepared(x, groups, is_control)
    for _, rows, used in _used(groups, is_control, on, least=2):
        mean, std = moments(x[used])
        x[rows] = (x[rows] - mean) / std
    return x


def _used(groups, is_control, on, least):
    if on not in ("all", "controls"):
        raise ValueError(f"on={on!r}: expected all or controls")
    if on == "controls":
        return with_controls(groups, is_control, least)
    return [(name, rows, rows) for name, rows in members(groups)]
