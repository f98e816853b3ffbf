"""As `held_out_cell_type`, with k labelled wells per class of the held-out cell type as support, which evaluators alone
read: the metrics are `neighbours/class_mean/...`, the nearest of the support's class means (prototypes).

k: 1, 2, 4 or any other. Experiments give support in an order drawn by `seed`, as few as it takes for most classes to
have k wells; of each class the first k wells there. RxRx1 has a treatment in one well per experiment, so these are k
experiments. Their other wells are scored as in_batch_wells, all other experiments of the cell type as cross_batch.
controls: the control wells of all experiments of the cell type are support too (mark C); each experiment is first moved
so that its controls lie where the controls of the experiments that give support do, and treatments alone are scored.
"""

import dataclasses

import numpy as np

from rxrx_jax.base.errors import UserError
from rxrx_jax.data import Scoring
from rxrx_jax.data.roles import treated
from rxrx_jax.evaluate.protocols import Protocol, draw, held_out_cell_type

EVALUATORS = {"neighbours": {"k": ()}}


def protocol(dataset, cell_type: str = "HUVEC", k: int = 1, controls: bool = False, seed: int = 0) -> Protocol:
    base, sites = held_out_cell_type.protocol(dataset, cell_type), dataset.sites
    if k < 1:
        raise UserError(f"protocol k_shot:k={k}: expected 1 or more")
    held_out = base.roles.scored["cross_batch"]
    giving, wells = supporting(dataset, held_out, k, seed)
    support = np.isin(sites.well_id[held_out], wells)
    if controls:
        control, experiment = ~treated(sites)[held_out], sites.experiment[held_out]
        if len(without := np.setdiff1d(experiment, experiment[control])):
            raise UserError(f"protocol k_shot:controls: {dataset.experiments[without[0]]} has no control well; leave "
                            "controls out")  # fmt: skip
        support |= control
    beside = np.isin(sites.experiment[held_out], giving)
    scored = base.roles.scored | {
        "in_batch_wells": held_out[beside & ~support],
        "cross_batch": held_out[~beside & ~support],
    }
    scoring = Scoring(evaluators=EVALUATORS)
    roles = dataclasses.replace(base.roles, scored=scored, support=held_out[support], scoring=scoring)
    counts = dict(base.counts)
    if counts:  # all that is left, and that k experiments gave support
        images, experiments = counts["cross_batch"]
        counts["cross_batch"] = images - len(roles.support) - len(scored["in_batch_wells"]), experiments - k
    return Protocol(roles, counts, base.classes)


def supporting(dataset, held_out: np.ndarray, k: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(numbers of the experiments that give support [e], names of the wells that are support [m]), of the rows
    `held_out` [n] of one cell type. Raises UserError where the cell type has too few wells."""
    sites = dataset.sites
    names, first = np.unique(sites.well_id[held_out], return_index=True)
    experiment, label = sites.experiment[held_out][first], sites.label[held_out][first]
    order = np.unique(experiment)
    order = order[np.argsort(draw(seed, [dataset.experiments[number] for number in order]))]
    classes = np.unique(label[label >= 0])
    for many in range(1, len(order)):  # one is left to score
        giving = np.isin(experiment, order[:many]) & (label >= 0)
        if len(classes) and np.median(np.bincount(label[giving], minlength=classes[-1] + 1)[classes]) >= k:
            break
    else:
        raise UserError(
            f"protocol k_shot:k={k}: the {len(order)} experiments of this cell type have too few wells per class to "
            "spare these and score another experiment; ask for fewer"
        )
    place = np.empty(len(dataset.experiments), int)
    place[order] = np.arange(len(order))
    wells = np.flatnonzero(giving)
    wells = wells[np.lexsort((draw(seed, names[wells].tolist()), place[experiment[wells]], label[wells]))]
    start = np.searchsorted(label[wells], label[wells])  # of each class
    return order[:many], names[wells[np.arange(len(wells)) - start < k]]
