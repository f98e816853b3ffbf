"""What a protocol (`evaluate/protocols/`) does with a dataset's rows: which are trained on, and which are scored."""

import dataclasses

import numpy as np

from rxrx_jax.base.spellings import NEGATIVE_CONTROL, TREATMENT
from rxrx_jax.data.sites import Sites

# The scored roles as metrics are named, in the order they are printed, and in words.
ROLES = {
    "in_batch": "in-batch",  # other sites of wells that are trained on
    "in_batch_wells": "in-batch, other wells",
    "validation": "validation",
    "cross_batch": "cross-batch",
}


@dataclasses.dataclass(frozen=True)
class Roles:
    """Rows of `Dataset.sites`, each array sorted int64 [n]. Without a protocol no label is shown and nothing is scored.

    fit: trained on, with their labels. scored: by role, in the order they are printed; none of them is in `fit` or in
    two roles. A row may have no role; it is still embedded."""

    fit: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, np.int64))
    scored: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)


def hide_labels(sites: Sites, fit: np.ndarray) -> Sites:
    """The table as tasks see it: the label is -1 in every row but the protocol's `fit` rows [n]."""
    label = np.full(len(sites), -1, np.int32)
    label[fit] = sites.label[fit]
    return dataclasses.replace(sites, label=label)


def untreated(sites: Sites) -> np.ndarray:
    """Which rows are of untreated wells, the negative controls: bool [n]."""
    return np.asarray(sites.well_type == NEGATIVE_CONTROL)


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
