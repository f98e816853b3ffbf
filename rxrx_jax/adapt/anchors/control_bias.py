"""Control bias: in each experiment the head's bias is fitted again to its controls, whose labels are known.

The added bias b [K] minimises the mean cross-entropy of logits + b over the control classes, each weighing the same,
plus `penalty` |b|^2 / 2: classes that the experiment's controls are mistaken for are lowered, treatments too. By
default the penalty is chosen on validation experiments, by control classes that b was not fitted to, and is recorded as
`chosen_penalty`; no treatment's label is used.
"""

import dataclasses

import numpy as np

from rxrx_jax.adapt.controls import Penalised, choose, log_sum_exp


@dataclasses.dataclass(frozen=True)
class ControlBias(Penalised):
    def at_test(self, predict, network, group):
        outputs, controls, domain = self.read(predict, network, group)

        def move(one, kept, out, penalty):
            return controls.logits[out] + bias(controls.logits[kept], controls.label[kept], penalty)

        penalty = self.penalty or choose(controls, move, lambda moved: moved)
        logits = outputs["logits"].astype(np.float64)
        for one in np.unique(domain):
            here = controls.of(one)
            logits[domain == one] += bias(controls.logits[here], controls.label[here], penalty)
        return outputs | {"logits": logits.astype(np.float32), "chosen_penalty": np.full(len(domain), penalty)}


def bias(logits: np.ndarray, label: np.ndarray, penalty: float) -> np.ndarray:
    """b [K] for the logits [n, K] of images with these labels [n]."""
    from scipy.optimize import minimize  # not needed by a command's `--help`

    classes, of, count = np.unique(label, return_inverse=True, return_counts=True)
    weight = 1 / (count[of] * len(classes))
    right = np.bincount(label, weight, logits.shape[1])

    def loss(b):
        z = logits + b
        total = log_sum_exp(z)
        value = weight @ (total - z[np.arange(len(z)), label]) + penalty * (b @ b) / 2
        return value, weight @ np.exp(z - total[:, None]) - right + penalty * b

    return minimize(loss, np.zeros(logits.shape[1]), jac=True, method="L-BFGS-B", options={"gtol": 1e-8}).x
