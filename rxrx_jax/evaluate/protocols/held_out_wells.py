"""As `held_out_experiments`, but whole wells of the training experiments are held out too: another site of a training
well shares what is that well's alone, such as its position, its cell count and its edge of the plate, and counts as
in-batch accuracy; another well of the same experiment does not.

Two of every eight wells of each perturbation in an experiment, wherever most perturbations of that experiment are in
eight wells or more; so none of RxRx1, where a treatment is in one well per experiment. Which ones depends on the wells'
names alone.
"""

import numpy as np

from rxrx_jax.data import Roles
from rxrx_jax.evaluate.protocols import Protocol, draw, held_out_experiments

OF, HELD_OUT = 8, 2


def protocol(dataset) -> Protocol:
    base, sites = held_out_experiments.protocol(dataset).roles, dataset.sites
    held = np.isin(sites.well_id, held_out(sites, base.fit))  # of a training experiment, all sites of it
    in_batch = base.scored["in_batch"]
    wells = np.sort(np.concatenate([rows[held[rows]] for rows in (base.fit, in_batch)]))
    scored = {"in_batch": in_batch[~held[in_batch]], "in_batch_wells": wells}
    return Protocol(
        Roles(base.fit[~held[base.fit]], scored | {r: base.scored[r] for r in base.scored if r not in scored})
    )


def held_out(sites, rows: np.ndarray) -> np.ndarray:
    """Names of the wells to hold out among those of the rows [n], str [m]."""
    names, first = np.unique(sites.well_id[rows], return_index=True)
    experiment, label = sites.experiment[rows][first], sites.label[rows][first]
    drawn = draw(0, names.tolist())
    chosen = [names[:0]]
    for one in np.unique(experiment):
        here = (experiment == one) & (label >= 0)
        perturbations, counts = np.unique(label[here], return_counts=True)
        if len(counts) and np.median(counts) >= OF:
            for perturbation, count in zip(perturbations, counts):
                wells = np.flatnonzero(here & (label == perturbation))
                order = sorted(wells, key=lambda i: (drawn[i], names[i]))
                chosen.append(names[order[: HELD_OUT * (count // OF)]])
    return np.concatenate(chosen)
