"""RxRx1 batch-separated (Sypetkowski et al. 2023, arXiv 2301.05768): trained on the 33 training experiments, scored on
the 18 others, both sites of each. Whether they count sites or wells, with controls or without, could not be confirmed,
so all four are metrics: site_accuracy and well_accuracy, under `cross_batch/` and `cross_batch/treatments/`.

All 1,139 classes compete in each of them. The numbers in secondary sources (75.1 %, six channels of 512 x 512) are not
published values here.
"""

from rxrx_jax.data import Roles, Scoring
from rxrx_jax.evaluate.protocols import Protocol
from rxrx_jax.evaluate.protocols.wilds_ood import CLASSES, TEST, TRAIN, VALIDATION, rows

COUNTS = {"fit": (81_224, 33), "cross_batch": (44_286, 18)}


def protocol(dataset) -> Protocol:
    scored = {"cross_batch": rows(dataset, VALIDATION + TEST, 1, 2)}
    return Protocol(Roles(rows(dataset, TRAIN, 1, 2), scored, scoring=Scoring(treatments=True)), COUNTS, CLASSES)
