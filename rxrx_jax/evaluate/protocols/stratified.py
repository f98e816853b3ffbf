"""RxRx1 batch-stratified: as many wells are trained on and scored as in `separated`, but drawn within every experiment,
so that no batch is new. What `separated` loses against it is what the batches cost.

seed: of the draw, which depends on it and on the wells' names alone. Aggregation as in `separated`, four metrics of
`in_batch_wells`.
"""

import numpy as np

from rxrx_jax.data import Roles, Scoring
from rxrx_jax.evaluate.protocols import Protocol, draw
from rxrx_jax.evaluate.protocols.wilds_ood import CLASSES, TEST, TRAIN, VALIDATION, rows

SCORED, WELLS = 22_143, 62_755  # of all wells, as many as the 18 experiments of `separated` have
COUNTS = {"fit": (81_224, 51), "in_batch_wells": (44_286, 51)}


def protocol(dataset, seed: int = 0) -> Protocol:
    every, sites = rows(dataset, TRAIN + VALIDATION + TEST, 1, 2), dataset.sites
    held = np.isin(sites.well_id[every], drawn(sites, every, seed))
    roles = Roles(every[~held], {"in_batch_wells": every[held]}, scoring=Scoring(treatments=True))
    return Protocol(roles, COUNTS, CLASSES)


def drawn(sites, every: np.ndarray, seed: int) -> np.ndarray:
    """Names of the wells that are scored among those of the rows `every` [n], str [m]: of each experiment its share,
    rounded so that they add up (largest remainders first)."""
    names, first = np.unique(sites.well_id[every], return_index=True)
    experiment = sites.experiment[every][first]
    numbers, count = np.unique(experiment, return_counts=True)
    share = count * SCORED / WELLS
    quota = share.astype(int)
    left = round(len(names) * SCORED / WELLS) - quota.sum()
    quota[np.argsort(quota - share, kind="stable")[:left]] += 1
    order = np.lexsort((draw(seed, names.tolist()), experiment))
    start = np.cumsum(count) - count
    return np.concatenate([names[:0], *(names[order[s : s + q]] for s, q in zip(start, quota))])
