"""In-batch and cross-batch accuracy, per site and per well, by cell type and experiment, with a confidence interval."""

from collections.abc import Iterator

import numpy as np
import scipy.special
import scipy.stats

from rxrx_jax.data import Sites
from rxrx_jax.evaluate.predict import prefix


def evaluate(context, statistics=("running",)) -> Iterator[tuple[str, float]]:
    """`in_batch/...`, `validation/...`, `cross_batch/...` accuracies of the task's logits, for every scored role.

    statistics: which BatchNorm statistics to read the network with: "running", "experiment", "plate"; the last two
    re-estimate them (AdaBN) and their metrics are called `adabn_experiment/cross_batch/...`.
    """
    for kind in statistics:
        start = prefix("accuracy", kind)
        for role in context.dataset.roles.scored:
            out = context.predict(role, kind)
            if len(out["row"]):
                yield from summarise(f"{start}{role}", out["logits"], out["row"], context.dataset)


def summarise(name: str, logits: np.ndarray, rows: np.ndarray, dataset) -> Iterator[tuple[str, float]]:
    """Accuracies of logits [n, classes] for the dataset's `rows` [n]; rows whose label is unknown are left out.

    A well's prediction is the mean of its sites' class probabilities. Names: NAME/site_accuracy, NAME/well_accuracy,
    each also with /CELL_TYPE and /EXPERIMENT; NAME/site_accuracy_ci_low and .._ci_high; NAME/sites, NAME/wells.
    """
    sites: Sites = dataset.sites
    known = sites.label[rows] >= 0
    rows, logits = rows[known], logits[known]
    if not len(rows):
        return
    probabilities = scipy.special.softmax(logits.astype(np.float64), axis=1)
    yield f"{name}/sites", len(rows)
    yield from _by_group(f"{name}/site_accuracy", probabilities.argmax(1) == sites.label[rows], rows, dataset)

    wells, first, well = np.unique(sites.well_id[rows], return_index=True, return_inverse=True)
    summed = np.zeros((len(wells), probabilities.shape[1]))
    np.add.at(summed, well, probabilities)
    yield f"{name}/wells", len(wells)
    yield from _by_group(f"{name}/well_accuracy", summed.argmax(1) == sites.label[rows[first]], rows[first], dataset)


def _by_group(name, correct, rows, dataset):
    yield name, float(correct.mean())
    by_experiment = []
    sites = dataset.sites
    for names, groups in ((dataset.cell_types, sites.cell_type), (dataset.experiments, sites.experiment)):
        number, right = np.bincount(groups[rows]), np.bincount(groups[rows], correct)
        for g in np.flatnonzero(number):
            accuracy = float(right[g] / number[g])
            yield f"{name}/{names[g]}", accuracy
            if names is dataset.experiments:
                by_experiment.append(accuracy)
    low, high = confidence_interval(by_experiment)
    yield f"{name}_ci_low", low
    yield f"{name}_ci_high", high


def confidence_interval(by_experiment, level: float = 0.95) -> tuple[float, float]:
    """Student's t interval of the mean over experiments: the experiment is the unit, because the images of one share
    its batch effect. (nan, nan) with fewer than two experiments. Clipped to [0, 1]."""
    values = np.asarray(by_experiment, float)
    if len(values) < 2:
        return float("nan"), float("nan")
    half = scipy.stats.t.ppf(0.5 + level / 2, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return float(max(0.0, values.mean() - half)), float(min(1.0, values.mean() + half))
