"""Harmony (Korsunsky et al. 2019, Nature Methods 16, 1289-1296) by `harmonypy`, an extra: soft clusters with as many
wells of each group as can be, within which the groups are moved together (transductive).

Its defaults are harmonypy's own. Arevalo et al. 2024 (Nature Communications 15, 6516), where it led, take 300 clusters
and at most 20 rounds. The mean of the whole is kept, as published.
"""

from typing import NamedTuple

import numpy as np

from rxrx_jax.adapt.correct.groups import members, prepared
from rxrx_jax.base.errors import UserError, missing_extra

WIDTH = 0.1  # of a cluster, harmonypy's sigma
STEPS = 20  # in which a well finds its clusters, each half of the way, as whole ones may go back and forth


class Clusters(NamedTuple):
    """x -> x less the shifts of its group in the clusters that it belongs to: those whose centres are near to the
    direction of what comes out. It differs from harmonypy's own values in that these spread each group over clusters
    as evenly as can be, which needs all wells at once.

    centres [d, k], of length 1; names [G], of the groups; shifts [G, k, d].
    """

    centres: np.ndarray
    names: np.ndarray
    shifts: np.ndarray

    def __call__(self, x: np.ndarray, groups: np.ndarray) -> np.ndarray:
        """The image of x [n, d] whose rows are of these groups [n], float64 [n, d]. Raises UserError as Affine does."""
        x, groups, _ = prepared(x, groups, np.zeros(len(x), bool))
        if len(self.centres) != x.shape[1]:
            raise UserError(f"fitted on {len(self.centres)} features, and these embeddings have {x.shape[1]}")
        number = {name: i for i, name in enumerate(self.names.tolist())}
        for name, rows in members(groups):
            if name not in number:
                raise UserError(f"{name} was not there when this was fitted")
            start, shifts = x[rows], self.shifts[number[name]]
            moved = start.copy()
            for _ in range(STEPS):
                moved += (start - self._of(moved) @ shifts - moved) / 2
            x[rows] = start - self._of(moved) @ shifts
        return x

    def _of(self, x: np.ndarray) -> np.ndarray:
        """How far each row belongs to each cluster, [n, k]."""
        from scipy.special import softmax

        length = np.linalg.norm(x, axis=1, keepdims=True)
        return softmax(2 / WIDTH * (x / np.where(length > 0, length, 1)) @ self.centres, axis=1)


def harmony(
    x: np.ndarray, groups: np.ndarray, is_control: np.ndarray, clusters: int | None = None, rounds: int = 10
) -> np.ndarray:
    """x [n, d] with its groups moved together.

    Args: groups [n], experiments as a rule; is_control [n], not used; clusters, None for harmonypy's min(n / 30, 100);
    rounds, at most.
    Returns float64 [n, d]. Raises UserError where harmonypy is not installed, and for fewer than 30 rows.
    """
    found, _, _ = _run(x, groups, is_control, clusters, rounds)
    return np.asarray(found.Z_corr, np.float64)


def fit_harmony(
    x: np.ndarray, groups: np.ndarray, is_control: np.ndarray, clusters: int | None = None, rounds: int = 10
) -> Clusters:
    """A map near to `harmony`: its clusters, and the shifts by which it has moved each group in them."""
    found, x, groups = _run(x, groups, is_control, clusters, rounds)
    moved, share = x - np.asarray(found.Z_corr, np.float64), np.asarray(found.R, np.float64)
    parts = members(groups)
    shifts = [np.linalg.lstsq(share[rows], moved[rows], rcond=1e-6)[0] for _, rows in parts]
    return Clusters(np.asarray(found.Y, np.float64), np.array([name for name, _ in parts]), np.stack(shifts))


def _run(x, groups, is_control, clusters, rounds):
    try:
        import harmonypy
    except ImportError:
        raise missing_extra("harmonypy", "harmony") from None
    x, groups, _ = prepared(x, groups, is_control)
    if len(x) < 30:
        raise UserError(f"harmony needs at least 30 embeddings, not {len(x)}")
    _, group = np.unique(groups, return_inverse=True)
    limits = dict(nclust=clusters, max_iter_harmony=rounds, sigma=WIDTH)
    return harmonypy.run_harmony(x, {"group": group}, "group", verbose=False, **limits), x, groups
