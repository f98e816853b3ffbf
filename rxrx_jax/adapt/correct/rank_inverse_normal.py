"""Rank-based inverse normal transformation, feature by feature within each group (transductive).

Blom's (1958) scores, Phi^-1((rank - 3/8) / (n + 1/4)), as the preprocessing that led in the comparison of Arevalo et
al. 2024 (Nature Communications 15, 6516); ties share their mean rank, where the package used there draws an order.
"""

import numpy as np

from rxrx_jax.adapt.correct.groups import members, prepared

OFFSET = 3 / 8


def rank_inverse_normal(x: np.ndarray, groups: np.ndarray, is_control: np.ndarray) -> np.ndarray:
    """The normal scores of x [n, d] among the wells of its group.

    Args: groups [n], plates as a rule; is_control [n], not used.
    Returns float64 [n, d].
    """
    from scipy.special import ndtri  # not needed by a command's `--help`
    from scipy.stats import rankdata

    x, groups, _ = prepared(x, groups, is_control)
    for _, rows in members(groups):
        x[rows] = ndtri((rankdata(x[rows], axis=0) - OFFSET) / (len(rows) + 1 - 2 * OFFSET))
    return x
