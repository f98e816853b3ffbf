"""ComBat (Johnson, Li and Rabinovic 2007, Biostatistics 8, 118-127): each group's mean and variance of every feature,
shrunk towards those of all features, are brought to the whole's (transductive). Parametric, without covariates.

The mean of the whole is kept, as published; centre on controls first where it should not dominate cosines.
"""

import numpy as np

from rxrx_jax.adapt.correct.affine import Affine
from rxrx_jax.adapt.correct.groups import members, moments, prepared
from rxrx_jax.base.errors import UserError

ENOUGH = 1e-4  # relative change at which the estimates have converged, as published
ROUNDS = 1_000


def combat(x: np.ndarray, groups: np.ndarray, is_control: np.ndarray) -> np.ndarray:
    """x [n, d] with its groups adjusted.

    Args: groups [n], experiments as a rule; is_control [n], not used.
    Returns float64 [n, d]. Raises UserError for a single group or feature, and for a group of one row.
    """
    return fit_combat(x, groups, is_control)(x, groups)


def fit_combat(x: np.ndarray, groups: np.ndarray, is_control: np.ndarray) -> Affine:
    """The map of `combat`."""
    x, groups, _ = prepared(x, groups, is_control)
    parts = members(groups)
    if len(parts) < 2 or x.shape[1] < 2:
        raise UserError(f"combat needs at least 2 groups and 2 features, not {len(parts)} and {x.shape[1]}")
    if small := [name for name, rows in parts if len(rows) < 2]:
        raise UserError(f"combat needs at least 2 embeddings of a group, and {small[0]} has one")
    mean = x.mean(0)
    within = np.concatenate([x[rows] - x[rows].mean(0) for _, rows in parts])
    _, std = moments(within)
    shift, scale = [], []
    for name, rows in parts:
        one, two = _shrunk((x[rows] - mean) / std, name)
        shift.append(one)
        scale.append(two)
    turn = 1 / np.sqrt(scale)
    return Affine(names=np.array([name for name, _ in parts]), offset=mean + std * shift - mean / turn, turn=turn)


def _shrunk(z: np.ndarray, name: object) -> tuple[np.ndarray, np.ndarray]:
    """(mean [d], variance [d]) of a group's standardised rows z [n, d]: the posterior's, with a normal prior of means
    and an inverse gamma one of variances, both fitted to the features by moments."""
    n, found_mean, found_variance = len(z), z.mean(0), z.var(0, ddof=1)
    found_variance = np.where(found_variance > 0, found_variance, 1)
    centre, spread = found_mean.mean(), found_mean.var(ddof=1)
    m, s = found_variance.mean(), found_variance.var(ddof=1)
    if not s > 0 or not spread > 0:
        raise UserError(f"combat cannot fit its priors to {name}: all features have the same mean or variance there")
    shape, rate = (2 * s + m**2) / s, (m * s + m**3) / s
    squares = np.square(z - found_mean).sum(0)
    mean, variance = found_mean, found_variance
    for _ in range(ROUNDS):
        new_mean = (spread * n * found_mean + variance * centre) / (spread * n + variance)
        new_variance = ((squares + n * np.square(found_mean - new_mean)) / 2 + rate) / (n / 2 + shape - 1)
        with np.errstate(divide="ignore", invalid="ignore"):  # signed, as published
            changes = (np.abs(new_mean - mean) / mean).max(), (np.abs(new_variance - variance) / variance).max()
        mean, variance = new_mean, new_variance
        if not max(changes) > ENOUGH:
            return mean, variance
    raise UserError(f"combat did not converge on {name} in {ROUNDS} rounds")
