"""The 24 HUVEC experiments of RxRx1 in six rotations: 16 are trained on, the next four are validation, the next four
are scored (Haslum et al. 2023, arXiv 2212.11595; `splits` in defaults/datasets.py of cfredinh/CDCL). Both sites, all
classes.

rotation: 1 to 6; a number over all six is the mean of six runs. The encoder is read by k-nearest neighbours (10,
cosine) and by the linear probe. Their table could not be read: no published value.
"""

from rxrx_jax.base.errors import UserError
from rxrx_jax.data import Roles, Scoring
from rxrx_jax.evaluate.protocols import Protocol
from rxrx_jax.evaluate.protocols.wilds_ood import CLASSES, named, rows

HUVEC = named(HUVEC=range(1, 25))
STEP = 4
# Images by rotation: in 16, 4 and 4 experiments.
IMAGES = {
    1: (39_342, 9_854, 9_854),
    2: (39_340, 9_854, 9_856),
    3: (39_340, 9_856, 9_854),
    4: (39_340, 9_854, 9_856),
    5: (39_418, 9_856, 9_776),
    6: (39_420, 9_776, 9_854),
}
EVALUATORS = {"neighbours": {"k": (10,)}, "probe": {"corrections": ("none",)}}


def protocol(dataset, rotation: int = 1) -> Protocol:
    if rotation not in IMAGES:
        raise UserError(f"protocol huvec_16_4_4:rotation={rotation}: expected 1 to {len(IMAGES)}")
    start = STEP * (rotation - 1)
    order = HUVEC[start:] + HUVEC[:start]
    parts = dict(fit=order[:16], validation=order[16:20], cross_batch=order[20:])
    found = {role: rows(dataset, experiments, 1, 2) for role, experiments in parts.items()}
    counts = {role: (images, len(parts[role])) for role, images in zip(parts, IMAGES[rotation])}
    return Protocol(Roles(found.pop("fit"), found, scoring=Scoring(evaluators=EVALUATORS)), counts, CLASSES)
