"""Train on some experiments and score on others, as the source of the dataset divides them (published, or its
splits.csv): in-batch on the training experiments' other sites, validation and cross-batch on experiments never seen."""

import numpy as np

from rxrx_jax.data import SPLITS, Roles
from rxrx_jax.evaluate.protocols import Protocol


def protocol(dataset) -> Protocol:
    fit, in_batch, validation, cross_batch = (np.flatnonzero(dataset.sites.split == name) for name in SPLITS)
    return Protocol(Roles(fit, {"in_batch": in_batch, "validation": validation, "cross_batch": cross_batch}))
