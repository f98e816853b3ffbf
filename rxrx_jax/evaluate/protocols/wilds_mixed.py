"""WILDS RxRx1, mixed-to-test (arXiv 2012.07421, table 8; split_scheme `mixed-to-test` of its code): 14 of the 33
training experiments, the first of each cell type, make room for site 1 of the 14 test experiments, whose site 2 is
scored. What is scored was trained on in its batch: the upper reference for cross-batch accuracy, and named in-batch."""

from rxrx_jax.data import Roles
from rxrx_jax.evaluate.protocols import Protocol, wilds_ood
from rxrx_jax.evaluate.protocols.wilds_ood import TEST, TRAIN, VALIDATION, named, rows

LEFT_OUT = named(HEPG2=range(1, 4), HUVEC=range(1, 8), RPE=range(1, 4), U2OS=[1])
COUNTS = {"fit": (40_581, 33), "in_batch": (17_216, 14), "validation": (9_854, 4)}
PUBLISHED = {"in_batch/site_accuracy": (0.398, 0.002, "WILDS, arXiv 2012.07421v3, table 8, ERM, three channels")}


def protocol(dataset) -> Protocol:
    kept = [name for name in TRAIN if name not in LEFT_OUT]
    scored = {"in_batch": rows(dataset, TEST, 2), "validation": rows(dataset, VALIDATION, 1, 2)}
    return Protocol(Roles(rows(dataset, kept + TEST, 1), scored), COUNTS, wilds_ood.CLASSES, PUBLISHED)
