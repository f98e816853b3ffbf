"""WILDS RxRx1 (rxrx1_v1.0; Koh et al. 2021, arXiv 2012.07421, appendix E.3; wilds/datasets/rxrx1_dataset.py): train on
site 1 of 33 experiments, choose the epoch on 4 others, score 14 others, each image by itself, controls included.

Beside these the same run is scored in-batch, on site 2 of its training wells (`wilds_id`), as in their table 7.
The paper's text has two misprints, 81,442 images for 2 x 40,612 and 3 U2OS experiments for validation's one; the counts
here are those of its code.
"""

import numpy as np

from rxrx_jax.data import Roles
from rxrx_jax.evaluate.protocols import Protocol


def named(**numbers) -> list[str]:
    """Experiments as RxRx1 names them, from the numbers of each cell type."""
    return [f"{cell_type}-{number:02d}" for cell_type, found in numbers.items() for number in found]


TRAIN = named(HEPG2=range(1, 8), HUVEC=range(1, 17), RPE=range(1, 8), U2OS=range(1, 4))
VALIDATION = named(HEPG2=[8], HUVEC=[17], RPE=[8], U2OS=[4])
TEST = named(HEPG2=range(9, 12), HUVEC=range(18, 25), RPE=range(9, 12), U2OS=[5])
CLASSES = 1_139  # 1,108 treatments, 30 positive controls and the negative one
COUNTS = {"fit": (40_612, 33), "in_batch": (40_612, 33), "validation": (9_854, 4), "cross_batch": (34_432, 14)}
ERM = "WILDS, arXiv 2012.07421v3, table 7, ERM, three channels"
PUBLISHED = {
    "in_batch/site_accuracy": (0.359, 0.004, ERM),
    "validation/site_accuracy": (0.194, 0.002, ERM),
    "cross_batch/site_accuracy": (0.299, 0.004, ERM),
}


def rows(dataset, experiments: list[str], *sites: int) -> np.ndarray:
    """The dataset's rows of these sites of these experiments: sorted int64 [n]."""
    table = dataset.sites
    named = np.array(dataset.experiments, str)[table.experiment]
    return np.flatnonzero(np.isin(named, experiments) & np.isin(table.site, sites))


def protocol(dataset) -> Protocol:
    scored = {
        "in_batch": rows(dataset, TRAIN, 2),
        "validation": rows(dataset, VALIDATION, 1, 2),
        "cross_batch": rows(dataset, TEST, 1, 2),
    }
    return Protocol(Roles(rows(dataset, TRAIN, 1), scored), COUNTS, CLASSES, PUBLISHED)
