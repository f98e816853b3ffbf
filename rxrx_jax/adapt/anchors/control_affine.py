"""Control affine: the features of each experiment are mapped so that the means of its control classes (31 in RxRx1) lie
where they lay in training, in experiments of the same cell type where there are any.

With S and T [c, D] the centred class means here and there, features x become (x - mean_here) A + mean_there, where A
minimises |S A - T|^2 + l |A - I|^2: ridge regression towards no change. l is `penalty` times |S|^2 / c; large ones
leave a shift alone. By default the penalty is chosen on validation experiments, by control classes that the map was not
fitted to, and is recorded as `chosen_penalty`; no treatment's label is used.
"""

import dataclasses

import numpy as np

from rxrx_jax.adapt.controls import Penalised, choose


@dataclasses.dataclass(frozen=True)
class ControlAffine(Penalised):
    def at_test(self, predict, network, group):
        outputs, controls, domain = self.read(predict, network, group)

        def move(one, kept, out, penalty):
            return affine(controls.features[out], *means(controls, kept, controls.reference(one)), penalty)

        penalty = self.penalty or choose(controls, move, lambda moved: predict.logits(network, moved))
        moved = outputs["embedding"].astype(np.float64)
        for one in np.unique(domain):
            here = means(controls, controls.of(one), controls.reference(one))
            moved[domain == one] = affine(moved[domain == one], *here, penalty)
        outputs["chosen_penalty"] = np.full(len(domain), penalty)
        return outputs | {"embedding": moved.astype(np.float32), "logits": predict.logits(network, moved)}


def means(controls, here: np.ndarray, there: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The means [c, D] of the classes that are in both, here and there."""
    classes = np.intersect1d(controls.label[here], controls.label[there])
    of = lambda chosen: [controls.features[chosen & (controls.label == c)].mean(0) for c in classes]  # noqa: E731
    size = len(classes), controls.features.shape[1]
    return np.reshape(of(here), size), np.reshape(of(there), size)


def affine(x: np.ndarray, here: np.ndarray, there: np.ndarray, penalty: float) -> np.ndarray:
    """x [n, D] mapped as the means `here` [c, D] are to those `there`; unchanged without any."""
    if not len(here):
        return x
    centre = here.mean(0)
    s, t = here - centre, there - there.mean(0)
    x, ridge = x - centre, penalty * np.square(s).sum() / len(s)
    if ridge:  # A = I + S' (S S' + l I)^-1 (T - S), of c equations in place of D
        x = x + x @ s.T @ np.linalg.solve(s @ s.T + ridge * np.eye(len(s)), t - s)
    return x + there.mean(0)
