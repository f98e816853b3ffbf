"""In-batch and cross-batch accuracy, per site and per well, by cell type and experiment, with a confidence interval."""

import json
from collections.abc import Iterator

import numpy as np

from rxrx_jax.base.spellings import TREATMENT
from rxrx_jax.data import Sites, untreated
from rxrx_jax.evaluate import intervals


def evaluate(context) -> Iterator[tuple[str, float]]:
    """`in_batch/...`, `validation/...`, `cross_batch/...` accuracies of the task's logits, for every scored role; as
    `NAME/cross_batch/...` also those of each method NAME of `config.post_hoc`. Where one uses controls, all of them
    again without control wells, as `cross_batch/treatments/...`; what a method chose is `cross_batch/chosen_...`."""
    anchored = any(method.needs.controls for method in context.readings.values())
    for reading, method in context.readings.items():
        prefix = f"{reading}/" if reading else ""
        for role in context.dataset.roles.scored:
            out = context.predict(role, reading)
            if len(out["row"]):
                if reading:
                    rows = context.dataset.roles.scored[role]
                    extra = method.needs.marks(untreated(context.dataset.sites)[rows])
                    yield f"marks/{prefix}{role}", context.marks(role, extra=extra)
                given = out["logits"], out["row"], context.dataset
                yield from of_protocol(f"{prefix}{role}", *given, treatments=anchored)
                for key in (key for key in out if key.startswith("chosen_")):
                    yield f"{prefix}{role}/{key}", float(out[key][0])


def of_protocol(
    name: str, logits: np.ndarray, rows: np.ndarray, dataset, treatments: bool = False
) -> Iterator[tuple[str, float | str]]:
    """`summarise`, and what the protocol of the dataset's roles has besides (`data.roles.Scoring`)."""
    scoring = dataset.roles.scoring
    yield from summarise(name, logits, rows, dataset, treatments or scoring.treatments)
    if scoring.also and len(rows):
        yield from ((f"{name}/{key}", value) for key, value in scoring.also(logits, rows, dataset))


def summarise(
    name: str, logits: np.ndarray, rows: np.ndarray, dataset, treatments: bool = False
) -> Iterator[tuple[str, float | str]]:
    """Accuracies of logits [n, classes] for the dataset's `rows` [n]; rows whose label is unknown are left out.

    A well's prediction is the mean of its sites' class probabilities. Names: NAME/site_accuracy, NAME/well_accuracy,
    each also with /CELL_TYPE and /EXPERIMENT; NAME/balanced_accuracy, the mean over the classes of the rows of each
    one's accuracy per site; NAME/site_accuracy_ci_low, .._ci_high and, in words, .._ci: the interval
    of the mean over experiments, each weighing the same, stratified by cell type (`intervals.over_experiments`);
    NAME/sites, NAME/wells; NAME/experiments, JSON of {cell type: [experiment]}. With `treatments` all of them again
    without control wells, as NAME/treatments/...
    """
    sites: Sites = dataset.sites
    known = sites.label[rows] >= 0
    rows, logits = rows[known], logits[known]
    if not len(rows):
        return
    probabilities, by_well, _ = well_probabilities(logits, sites.well_id[rows])
    yield f"{name}/sites", len(rows)
    yield f"{name}/experiments", json.dumps(experiments_of(rows, dataset), ensure_ascii=False)
    correct = probabilities.argmax(1) == sites.label[rows]
    yield from by_group(f"{name}/site_accuracy", correct, rows, dataset)
    number, right = np.bincount(sites.label[rows]), np.bincount(sites.label[rows], correct)
    yield f"{name}/balanced_accuracy", float((right[number > 0] / number[number > 0]).mean())

    _, first = np.unique(sites.well_id[rows], return_index=True)
    yield f"{name}/wells", len(first)
    yield from by_group(f"{name}/well_accuracy", by_well.argmax(1) == sites.label[rows[first]], rows[first], dataset)
    if treatments:
        treated = sites.well_type[rows] == TREATMENT
        yield from summarise(f"{name}/treatments", logits[treated], rows[treated], dataset)


def well_probabilities(logits: np.ndarray, well_id: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Class probabilities of sites [n, K] and, added over the sites of each, of wells [w, K], float64, wells in order
    of their names; and the well of each site, int [n]. Args: logits [n, K]; well_id [n], names."""
    from scipy.special import softmax  # a third of a second that `--help` of a command does not wait for

    probabilities = softmax(logits.astype(np.float64), axis=1)
    wells, well = np.unique(well_id, return_inverse=True)
    summed = np.zeros((len(wells), probabilities.shape[1]))
    np.add.at(summed, well, probabilities)
    return probabilities, summed, well


def experiments_of(rows, dataset) -> dict[str, list[str]]:
    """Cell type -> its experiments among the rows. An experiment on several cell types counts for that of its first."""
    found: dict[str, list[str]] = {}
    numbers, first = np.unique(dataset.sites.experiment[rows], return_index=True)
    for number, cell_type in zip(numbers, dataset.sites.cell_type[rows[first]]):
        found.setdefault(dataset.cell_types[cell_type], []).append(dataset.experiments[number])
    return found


def by_group(name: str, correct: np.ndarray, rows: np.ndarray, dataset) -> Iterator[tuple[str, float | str]]:
    """The mean of `correct` [n] bool of the dataset's `rows` [n], by cell type and experiment, and its interval: names
    as `summarise` says."""
    yield name, float(correct.mean())
    sites, by_experiment = dataset.sites, {}
    for names, groups in ((dataset.cell_types, sites.cell_type), (dataset.experiments, sites.experiment)):
        number, right = np.bincount(groups[rows]), np.bincount(groups[rows], correct)
        for g in np.flatnonzero(number):
            accuracy = float(right[g] / number[g])
            yield f"{name}/{names[g]}", accuracy
            if names is dataset.experiments:
                by_experiment[names[g]] = accuracy
    strata = {name: cell_type for cell_type, names in experiments_of(rows, dataset).items() for name in names}
    found = intervals.clipped(intervals.over_experiments(by_experiment, strata))
    yield f"{name}_ci_low", found.low
    yield f"{name}_ci_high", found.high
    yield f"{name}_ci", found.how
