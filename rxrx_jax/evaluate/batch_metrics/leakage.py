"""The leakage probes: how well the batch can be predicted from the embedding. Lower is better; the floor is what an
uninformative embedding would give."""

from collections.abc import Iterator

import numpy as np

from rxrx_jax.base.spellings import TREATMENT
from rxrx_jax.evaluate.probes import logistic


def evaluate(context) -> Iterator[tuple[str, float]]:
    """`leakage/experiment_accuracy`, `leakage/experiment_floor`, `leakage/plate_accuracy`, `leakage/plate_floor`; as
    `NAME/leakage/...` also with each method NAME of `config.post_hoc`.

    experiment: a logistic regression for each cell type from the embedding to the experiment, all sites, training and
    held-out experiments alike. Within cell type, because the cell type is not a batch effect and predicts most of the
    experiment. plate: one for each experiment to the plate, on control wells alone: every plate has the same controls,
    while a treatment sits on one plate, which an embedding that reads it perfectly would tell.

    Each is fitted on every second well and scored on the others, perturbation by perturbation, so that no half has more
    of one than the other. The accuracy is the share of all scored sites, and the floor that of always predicting the
    commonest experiment of the cell type (plate of the experiment). A group with one experiment (plate) has nothing to
    predict and is left out. Where regressions did not converge, `leakage/experiment_not_converged` says how many, and
    `leakage/plate_without_controls` how many experiments have no control well, so that no plate of theirs counts.
    """
    for reading in context.readings:
        rows, features = context.embeddings(reading)
        yield from score(f"{reading}/leakage" if reading else "leakage", features, rows, context.dataset)


def score(name: str, features: np.ndarray, rows: np.ndarray, dataset) -> Iterator[tuple[str, float]]:
    """The metrics of `evaluate` under NAME, for features [n, D] of the dataset's `rows` [n]; without those of which no
    group can be scored."""
    sites = dataset.sites
    experiment, well, label = sites.experiment[rows], sites.well_id[rows], sites.label[rows]
    every, control = np.ones(len(rows), bool), sites.well_type[rows] != TREATMENT
    for batch, target, given, used in (
        ("experiment", experiment, sites.cell_type[rows], every),
        ("plate", sites.plate[rows], experiment, control),
    ):
        found = read_off(features[used], target[used], given[used], well[used], label[used])
        right, commonest, count, unfinished = found
        if count:
            yield f"{name}/{batch}_accuracy", right / count
            yield f"{name}/{batch}_floor", commonest / count
        if unfinished:
            yield f"{name}/{batch}_not_converged", unfinished
    if bare := len(np.setdiff1d(experiment, experiment[control])):
        yield f"{name}/plate_without_controls", bare


def read_off(
    features: np.ndarray, target: np.ndarray, given: np.ndarray, well: np.ndarray, label: np.ndarray
) -> tuple[int, int, int, int]:
    """How often the target can be predicted from the features, within each group and added over groups.

    Args: features [n, D]; target [n] int, constant in a well; given [n], the group; well [n], its name; label [n] int,
    its perturbation.
    Returns: of the scored rows, how many a logistic regression gets right, how many always predicting their group's
    commonest target would, and how many there are; and how many of the regressions did not converge.
    """
    _, first, number = np.unique(well, return_index=True, return_inverse=True)
    order = np.lexsort((label[first], target[first]))  # wells by target, perturbation, name
    rank = np.empty(len(order), int)
    rank[order] = np.arange(len(order)) - np.searchsorted(target[first][order], target[first][order])
    fitted = rank[number] % 2 == 0
    total = np.zeros(4, int)
    for group in np.unique(given):
        fit, held = (given == group) & fitted, (given == group) & ~fitted
        if len(np.unique(target[fit])) > 1 and held.any():
            model = logistic.fit(features[fit], target[fit])
            right = model.predict(features[held]) == target[held]
            commonest = np.unique(target[held], return_counts=True)[1].max()
            total += right.sum(), commonest, held.sum(), not model.converged
    return tuple(total.tolist())
