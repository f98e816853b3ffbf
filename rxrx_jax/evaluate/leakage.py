"""The leakage probe: how well the experiment can be read from the embedding. Lower is better; chance is the floor."""

from collections.abc import Iterator

import numpy as np

from rxrx_jax.evaluate.linear import fit_linear


def evaluate(context) -> Iterator[tuple[str, float]]:
    """`leakage/experiment_accuracy` and `leakage/chance` (the share of the largest experiment).

    A logistic regression from the embedding to the experiment, fitted on every second well of every experiment
    (training and held-out) and scored on the others. No perturbation label is used.
    """
    rows, features = context.embeddings()
    experiment = context.dataset.sites.experiment[rows]
    if len(np.unique(experiment)) < 2:
        return
    _, well = np.unique(context.dataset.sites.well_id[rows], return_inverse=True)
    fit, score = well % 2 == 0, well % 2 == 1
    model = fit_linear(features[fit], experiment[fit], iterations=100)
    predicted = model.predict(features[score].astype(np.float64))
    yield "leakage/experiment_accuracy", float((predicted == experiment[score]).mean())
    yield "leakage/chance", float(np.bincount(experiment[score]).max() / score.sum())
