"""Typical variation normalisation with covariances shrunk as Ledoit and Wolf derive it (2004, Journal of Multivariate
Analysis 88, 365-411), so that fewer controls than features will do.

As `tvn`, with their estimate in place of both covariances, and each group centred on its own controls first, since
C^(-1/2) would else turn and stretch the group's offset instead of removing it.
"""

import numpy as np

from rxrx_jax.adapt.correct.affine import Affine
from rxrx_jax.adapt.correct.groups import inverse_root, moments, prepared, with_controls


def tvn_shrunk(x: np.ndarray, groups: np.ndarray, is_control: np.ndarray) -> np.ndarray:
    """x [n, d], whitened by its controls, all and those of its group, each group's controls with mean 0.

    Args: groups [n], experiments as a rule; is_control [n] bool, the untreated wells.
    Returns float64 [n, d]. Raises UserError for a group with fewer than three controls, or with ones that do not vary:
    of two there is nothing to estimate the shrinkage by.
    """
    return fit_tvn_shrunk(x, groups, is_control)(x, groups)


def fit_tvn_shrunk(x: np.ndarray, groups: np.ndarray, is_control: np.ndarray) -> Affine:
    """The map of `tvn_shrunk`."""
    x, groups, is_control = prepared(x, groups, is_control)
    parts = with_controls(groups, is_control, least=3)
    mean, std = moments(x[is_control])
    axes = inverse_root(ledoit_wolf((x[is_control] - mean) / std)[0], "the whole") / std[:, None]
    names, offset, turn = [], [], []
    for name, _, controls in parts:
        own = (x[controls] - mean) @ axes
        names.append(name)
        offset.append(own.mean(0))
        turn.append(inverse_root(ledoit_wolf(own)[0], name))
    return Affine(mean, axes, np.array(names), np.stack(offset), np.stack(turn))


def ledoit_wolf(x: np.ndarray) -> tuple[np.ndarray, float]:
    """(covariance [d, d], shrinkage a) of x [n, d]: (1 - a) S + a m I, with S the population covariance, m its mean
    variance, and a = min(b, s) / s, where s = |S - m I|^2 and b = (mean |x|^4 - |S|^2) / n, of centred x."""
    x = x - x.mean(0)
    n, d = x.shape
    sample = x.T @ x / n
    mean = np.trace(sample) / d
    spread = np.square(sample).sum() - d * mean**2
    error = (np.square(np.square(x).sum(1)).mean() - np.square(sample).sum()) / n
    shrinkage = min(max(error, 0) / spread, 1) if spread > 0 else 0.0
    return (1 - shrinkage) * sample + shrinkage * mean * np.eye(d), shrinkage
