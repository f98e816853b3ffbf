"""Logistic regression on embeddings, for the probes (scikit-learn's L-BFGS, L2 penalty C=1, no tuning)."""

import warnings

import numpy as np

from rxrx_jax.base.errors import UserError


def fit_linear(features: np.ndarray, labels: np.ndarray, iterations: int = 300):
    """Fits features [n, D] (standardised by their own mean and deviation first) to labels [n]: a fitted pipeline.

    Raises UserError when there are fewer than two classes to tell apart, and for features that are not finite."""
    check_finite(features)
    if len(np.unique(labels)) < 2:
        raise UserError("a linear probe needs training sites of two classes; evaluators.probe cannot run here")
    # Imported here: that takes longer than many runs without a probe need to start.
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=iterations))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the iteration cap is part of the protocol
        return model.fit(features.astype(np.float64), labels)


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


def log_probabilities(model, features: np.ndarray, classes: int) -> np.ndarray:
    """[n, classes]; a class that the fit never saw gets -inf."""
    check_finite(features)
    out = np.full((len(features), classes), -np.inf)
    with np.errstate(divide="ignore"):  # a probability may underflow
        out[:, model.classes_] = np.log(model.predict_proba(features.astype(np.float64)))
    return out
