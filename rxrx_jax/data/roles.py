"""What a protocol (`evaluate/protocols/`) does with a dataset's rows: which are trained on, and which are scored."""

import dataclasses
from collections.abc import Callable

import numpy as np

from rxrx_jax.base.errors import UserError
from rxrx_jax.base.spellings import NEGATIVE_CONTROL, TREATMENT
from rxrx_jax.data.sites import Sites

# The scored roles as metrics are named, in the order they are printed, and in words.
ROLES = {
    "in_batch": "in-batch",  # other sites of wells that are trained on
    "in_batch_wells": "in-batch, other wells",
    "validation": "validation",
    "cross_batch": "cross-batch",
    "public": "public leaderboard",
    "private": "private leaderboard",
}


@dataclasses.dataclass(frozen=True)
class Scoring:
    """How a protocol's scored rows are scored besides accuracy per site and per well over all classes.

    treatments: also without control wells. also: a function (logits [n, K], rows [n], dataset) that yields further
    (metric, value), named after the role; jointly: the parts of their names under which the images of an experiment are
    scored together, each by what the others look like (mark T). chosen_by: the metric by which blocks are chosen on
    validation. evaluators: those that a run has besides its config's, with their settings. partial: what the counts
    differ in, in words, where the protocol's name allows it."""

    treatments: bool = False
    also: Callable | None = None
    jointly: tuple[str, ...] = ()
    chosen_by: str = "site_accuracy"
    evaluators: dict[str, dict] = dataclasses.field(default_factory=dict)
    partial: str = ""


@dataclasses.dataclass(frozen=True)
class Roles:
    """Rows of `Dataset.sites`, each array sorted int64 [n]. Without a protocol no label is shown and nothing is scored.

    fit: trained on, with their labels. scored: by role, in the order they are printed; none of them is in `fit` or in
    two roles. support: of held-out experiments, with labels that evaluators alone use, and neither fitted nor scored.
    A row may have no role; it is still embedded. context: of every row of the table what a classifier's head is given
    beside the image, float32 [rows, d]; None for nothing."""

    fit: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, np.int64))
    scored: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    support: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, np.int64))
    scoring: Scoring = Scoring()
    context: np.ndarray | None = None


def hide_labels(sites: Sites, fit: np.ndarray) -> Sites:
    """The table as tasks see it: the label is -1 in every row but the protocol's `fit` rows [n]."""
    label = np.full(len(sites), -1, np.int32)
    label[fit] = sites.label[fit]
    return dataclasses.replace(sites, label=label)


def untreated(sites: Sites) -> np.ndarray:
    """Which rows are of untreated wells, the negative controls: bool [n]."""
    return np.asarray(sites.well_type == NEGATIVE_CONTROL)


def treated(sites: Sites) -> np.ndarray:
    """Which rows are of treated wells, no controls: bool [n]. Raises UserError where the table does not say."""
    if sites.well_type is None:
        raise UserError("this protocol needs to know which wells are controls, and the table has no column well_type")
    return np.asarray(sites.well_type == TREATMENT)


def only_controls_told(dataset, rows: np.ndarray) -> np.ndarray:
    """Numbers of the experiments of which all of `rows` [n] are of control wells and at least one is: [e]; none where
    the table does not say which wells are controls."""
    if dataset.sites.well_type is None:
        return np.zeros(0, np.int64)
    experiment, control = dataset.sites.experiment[rows], ~treated(dataset.sites)[rows]
    return np.setdiff1d(experiment[control], experiment[~control])


def show_controls(sites: Sites, told: bool) -> Sites:
    """The table as methods see it at test: with the labels of control wells alone, or, where it is not `told` which
    wells are controls, with none and without types of wells."""
    if told:
        return hide_labels(sites, np.flatnonzero(np.asarray(sites.well_type != TREATMENT)))
    return dataclasses.replace(hide_labels(sites, np.zeros(0, np.int64)), well_type=np.full(len(sites), ""))


def held_out_rows(dataset) -> np.ndarray:
    """The scored rows of experiments that no fitted row is of, sorted int64 [n], of a dataset with sites and roles."""
    experiment, roles = dataset.sites.experiment, dataset.roles
    rows = np.sort(np.concatenate([np.zeros(0, np.int64), *roles.scored.values()]))
    return rows[~np.isin(experiment[rows], experiment[roles.fit])]
