"""Control mean: the features of each plate are moved so that its untreated wells lie where the untreated wells that the
network was trained on lie, those of the same cell type where there are any.

The simplest anchor: centring on controls, as of embeddings (`correct/centre.py`), for a classifier that is trained
already.
"""

import dataclasses

import numpy as np

from rxrx_jax.adapt.controls import Anchored


@dataclasses.dataclass(frozen=True)
class ControlMean(Anchored):
    domain: str = "plate"

    def at_test(self, predict, network, group):
        outputs, controls, domain = self.read(predict, network, group, only_untreated=True)
        moved = outputs["embedding"].astype(np.float64)
        for one in np.unique(domain):
            here, there = controls.features[controls.of(one)], controls.features[controls.reference(one)]
            moved[domain == one] += there.mean(0) - here.mean(0)
        return outputs | {"embedding": moved.astype(np.float32), "logits": predict.logits(network, moved)}
