"""Probes: how well simple classifiers tell classes apart by frozen embeddings."""

import numpy as np

from rxrx_jax.base.errors import UserError


def check_finite(features: np.ndarray) -> None:
    """Raises UserError where features [n, D] hold NaN or infinite values."""
    if wrong := int((~np.isfinite(features).all(1)).sum()):
        raise UserError(f"{wrong:,} embeddings hold NaN or infinite values: embed again")


def absent(fitted: np.ndarray, scored: np.ndarray) -> dict[str, int]:
    """How many classes of the scored labels [n] the fitted ones [m] have not, and how many rows of these: they are
    scored as wrong; {} where all are there. Unknown labels, -1, do not count."""
    classes, count = np.unique(scored[scored >= 0], return_counts=True)
    lost = ~np.isin(classes, fitted)
    return {"absent_classes": int(lost.sum()), "absent_sites": int(count[lost].sum())} if lost.any() else {}


def among(logits: np.ndarray, there: np.ndarray, classes: int) -> np.ndarray:
    """Logits [n, K] of the classes `there` [K] as those of all: float32 [n, classes], -inf for the others."""
    out = np.full((len(logits), classes), -np.inf, np.float32)
    out[:, there] = logits
    return out
