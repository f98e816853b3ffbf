"""RxRx1 by its own train and test, the column `dataset` of its metadata.csv (Sypetkowski et al. 2023, arXiv 2301.05768,
"batch-separated"): both sites of 33 experiments are trained on, both of 18 are scored, controls included.

The 18 are WILDS' 4 for validation and 14 for test; none is left to choose an epoch by, so the last one counts.
"""

from rxrx_jax.data import Roles
from rxrx_jax.evaluate.protocols import Protocol
from rxrx_jax.evaluate.protocols.wilds_ood import CLASSES, TEST, TRAIN, VALIDATION, rows

COUNTS = {"fit": (81_224, 33), "cross_batch": (44_286, 18)}


def protocol(dataset) -> Protocol:
    scored = {"cross_batch": rows(dataset, VALIDATION + TEST, 1, 2)}
    return Protocol(Roles(rows(dataset, TRAIN, 1, 2), scored), COUNTS, CLASSES)
