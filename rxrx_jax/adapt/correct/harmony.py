"""Harmony (Korsunsky et al. 2019, Nature Methods 16, 1289-1296) by `harmonypy`, an extra: soft clusters with as many
wells of each group as can be, within which the groups are moved together (transductive).

Its defaults are harmonypy's own. Arevalo et al. 2024 (Nature Communications 15, 6516), where it led, take 300 clusters
and at most 20 rounds.
"""

import numpy as np

from rxrx_jax.adapt.correct.groups import prepared
from rxrx_jax.base.errors import UserError, missing_extra


def harmony(
    x: np.ndarray, groups: np.ndarray, is_control: np.ndarray, clusters: int | None = None, rounds: int = 10
) -> np.ndarray:
    """x [n, d] with its groups moved together.

    Args: groups [n], experiments as a rule; is_control [n], not used; clusters, None for harmonypy's min(n / 30, 100);
    rounds, at most.
    Returns float64 [n, d]. Raises UserError where harmonypy is not installed, and for fewer than 30 rows.
    """
    try:
        import harmonypy
    except ImportError:
        raise missing_extra("harmonypy", "harmony") from None
    x, groups, _ = prepared(x, groups, is_control)
    if len(x) < 30:
        raise UserError(f"harmony needs at least 30 embeddings, not {len(x)}")
    _, group = np.unique(groups, return_inverse=True)
    limits = dict(nclust=clusters, max_iter_harmony=rounds)
    found = np.asarray(harmonypy.run_harmony(x, {"group": group}, "group", verbose=False, **limits).Z_corr, np.float64)
    return found if found.shape == x.shape else found.T  # harmonypy before 0.1 gives [d, n]
