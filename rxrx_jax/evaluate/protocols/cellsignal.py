"""NeurIPS 2019 CellSignal (Kaggle, "Recursion Cellular Image Classification"): the treated wells of RxRx1's 18 test
experiments, 1,108 classes, accuracy per well: 4 experiments on the public leaderboard, 14 on the private one.

Stage by stage (`evaluate.cellsignal`): `private/stages/` site, well, plate_group and hungarian, and without HUVEC-18,
whose layout repeats RPE-03's: `private/stages_without_HUVEC-18/`. The last two stages look at all wells of an
experiment together (mark T) and use that the same 277 treatments share a plate in every experiment, which no other
screen offers; compare nothing with them. The workdir gets submission.csv.

Trained on both sites of the 33 training experiments, controls included. controls: and on the control wells of the 18
(their labels were given in the competition), mark C. Labels of treated test wells may be withheld, as Kaggle's are.
"""

import re

import numpy as np

from rxrx_jax.data import Roles, Scoring
from rxrx_jax.data.roles import treated
from rxrx_jax.evaluate import cellsignal
from rxrx_jax.evaluate.protocols import Protocol
from rxrx_jax.evaluate.protocols.wilds_ood import CLASSES, TEST, TRAIN, VALIDATION, rows

# Images; the tables of the competition's relaunch have two wells more of each kind, of which no image was published.
COUNTS = {"fit": (81_224, 33), "public": (8_862, 4), "private": (30_932, 14)}
RELAUNCH = {"fit": (81_228, 33), "public": (8_862, 4), "private": (30_936, 14)}
CONTROLS = 4_492


def protocol(dataset, controls: bool = False) -> Protocol:
    is_treated, counts = treated(dataset.sites), dict(COUNTS)
    if any(re.fullmatch(r"sirna_\d+", str(name)) for name in dataset.classes):
        counts = dict(RELAUNCH)
    held_out = {"public": rows(dataset, VALIDATION, 1, 2), "private": rows(dataset, TEST, 1, 2)}
    fit = rows(dataset, TRAIN, 1, 2)
    if controls:
        counts["fit"] = counts["fit"][0] + CONTROLS, 51
        fit = np.union1d(fit, np.concatenate([found[~is_treated[found]] for found in held_out.values()]))
    scored = {role: found[is_treated[found]] for role, found in held_out.items()}
    scoring = Scoring(also=cellsignal.stages, jointly=cellsignal.JOINTLY, evaluators={"cellsignal": {}})
    return Protocol(Roles(fit, scored, scoring=scoring), counts, CLASSES, withheld=True)
