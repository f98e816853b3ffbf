"""Three cell types of RxRx1 are trained on, the fourth is scored: batches and cells are new.

cell_type: the one that is held out. Trained on site 1 of the experiments of the others; in_batch is their site 2,
validation the WILDS validation experiments of the others, cross_batch all experiments of the one held out, both sites.
"""

import numpy as np

from rxrx_jax.base.errors import UserError
from rxrx_jax.data import Roles
from rxrx_jax.evaluate.protocols import Protocol
from rxrx_jax.evaluate.protocols.wilds_ood import CLASSES, VALIDATION, rows

COUNTS = {
    "HEPG2": {"fit": (45_512, 37), "validation": (7_392, 3), "cross_batch": (27_094, 11)},
    "HUVEC": {"fit": (29_535, 24), "validation": (7_390, 3), "cross_batch": (59_050, 24)},
    "RPE": {"fit": (45_525, 37), "validation": (7_390, 3), "cross_batch": (27_070, 11)},
    "U2OS": {"fit": (52_912, 43), "validation": (7_390, 3), "cross_batch": (12_296, 5)},
}


def protocol(dataset, cell_type: str = "HUVEC") -> Protocol:
    if cell_type not in dataset.cell_types:
        raise UserError(f"protocol cell_type={cell_type}: the dataset has {', '.join(dataset.cell_types)}")
    kinds = np.array(dataset.cell_types, str)[dataset.sites.cell_type]
    others = sorted(set(np.array(dataset.experiments, str)[dataset.sites.experiment[kinds != cell_type]].tolist()))
    kept = [name for name in others if name not in VALIDATION]
    scored = {
        "in_batch": rows(dataset, kept, 2),
        "validation": rows(dataset, [name for name in others if name in VALIDATION], 1, 2),
        "cross_batch": np.flatnonzero(kinds == cell_type),
    }
    counts = dict(COUNTS[cell_type]) if cell_type in COUNTS else {}
    if counts:
        counts["in_batch"] = counts["fit"]
    return Protocol(Roles(rows(dataset, kept, 1), scored), counts, CLASSES)
