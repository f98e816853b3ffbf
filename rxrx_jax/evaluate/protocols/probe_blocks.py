"""The linear probe of every block of a ViT by balanced accuracy, the mean over classes of each one's accuracy, with the
best block chosen on validation (Kenyon-Dean et al. 2024, arXiv 2411.02572, who do not say which experiments they hold
out: these are those of `wilds_ood`). The metric is `probe/best_block/cross_batch/balanced_accuracy`.
"""

import dataclasses

from rxrx_jax.data import Scoring
from rxrx_jax.evaluate.protocols import Protocol, wilds_ood

METRIC = "balanced_accuracy"


def protocol(dataset) -> Protocol:
    whole = wilds_ood.protocol(dataset)
    scoring = Scoring(chosen_by=METRIC, evaluators={"probe": {"blocks": True, "corrections": ("none",)}})
    return dataclasses.replace(whole, roles=dataclasses.replace(whole.roles, scoring=scoring), published={})
