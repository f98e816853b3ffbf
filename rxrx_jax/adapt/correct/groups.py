"""What the corrections share: the wells of a group, its controls, their means, spreads and principal axes."""

import numpy as np

from rxrx_jax.base.errors import UserError

TINY = 1e-12  # a deviation below this part of the largest value is rounding


def prepared(x: np.ndarray, groups: np.ndarray, is_control: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(x [n, d] as a float64 copy, groups [n], is_control [n] bool). Raises UserError where lengths differ or a row of
    x is not finite."""
    x, groups, is_control = np.array(x, np.float64), np.asarray(groups), np.asarray(is_control, bool)
    if x.ndim != 2 or not len(x) == len(groups) == len(is_control):
        raise UserError(f"a correction takes embeddings [n, d] and n groups and controls, not {x.shape}, "
                        f"{groups.shape} and {is_control.shape}")  # fmt: skip
    if len(bad := np.flatnonzero(~np.isfinite(x).all(1))):
        raise UserError(f"embedding {bad[0]} of {len(x)} has NaN or infinite values; leave out such rows first")
    return x, groups, is_control


def members(groups: np.ndarray) -> list[tuple[object, np.ndarray]]:
    """(name, rows) of each group."""
    names, of = np.unique(groups, return_inverse=True)
    order = np.argsort(of, kind="stable")
    return list(zip(names.tolist(), np.split(order, np.cumsum(np.bincount(of, minlength=len(names)))[:-1])))


def with_controls(groups: np.ndarray, is_control: np.ndarray, least: int) -> list[tuple]:
    """(name, rows, those of them that are controls) of each group. Raises UserError for one with fewer than `least`."""
    found = []
    for name, rows in members(groups):
        controls = rows[is_control[rows]]
        if len(controls) < least:
            has = f"only {len(controls)} untreated" if len(controls) else "no untreated wells"
            raise UserError(f"{name} has {has}, and this correction needs at least {least} there")
        found.append((name, rows, controls))
    return found


def moments(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(mean, population deviation) of each column of x [n, d]; the deviation of a constant column is 1."""
    mean, std = x.mean(0), x.std(0)
    return mean, np.where(std > TINY * np.abs(x).max(0), std, 1)


def principal(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(mean [d], population variances [r], axes [d, r]) of the directions in which x [n, d] varies, the largest first.
    Raises UserError where it does not vary."""
    mean = x.mean(0)
    variances, axes = np.linalg.eigh((x - mean).T @ (x - mean) / len(x))
    kept = np.flatnonzero(variances > variances[-1] * len(variances) * np.finfo(float).eps)[::-1]
    if not len(kept) or variances[-1] <= (TINY * np.abs(x).max()) ** 2:
        raise UserError("the untreated wells all have the same embedding, so their variation cannot be estimated")
    return mean, variances[kept], axes[:, kept]


def inverse_root(covariance: np.ndarray, name: object) -> np.ndarray:
    """C^(-1/2) of a covariance [d, d]. Raises UserError, naming whose it is, where it is not positive definite."""
    values, vectors = np.linalg.eigh(covariance)
    if values[0] <= TINY * values[-1]:
        raise UserError(f"the untreated wells of {name} vary too little, or are too few, to estimate a covariance from")
    return (vectors / np.sqrt(values)) @ vectors.T
