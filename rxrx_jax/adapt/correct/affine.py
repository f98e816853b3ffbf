"""What most corrections have fitted: one affine map per group, so that it can be kept, saved and applied again."""

from typing import NamedTuple

import numpy as np

from rxrx_jax.adapt.correct.groups import members, prepared
from rxrx_jax.base.errors import UserError


class Affine(NamedTuple):
    """x -> ((x - mean) @ axes - offset[g]) times turn[g], with g the group of a row; what is None is left out.

    mean [d]; axes [d, r]; names [G], of the groups; offset [G, r]; turn, [G, r] (value by value) or [G, r, r].
    """

    mean: np.ndarray | None = None
    axes: np.ndarray | None = None
    names: np.ndarray | None = None
    offset: np.ndarray | None = None
    turn: np.ndarray | None = None

    def __call__(self, x: np.ndarray, groups: np.ndarray) -> np.ndarray:
        """The image of x [n, d] whose rows are of these groups [n], float64 [n, r]. Raises UserError for a group that
        was not there when it was fitted, for another number of features, and for values that are not finite."""
        x, groups, _ = prepared(x, groups, np.zeros(len(x), bool))
        for array, axis in ((self.mean, 0), (self.axes, 0), (self.offset, 1), (self.turn, 1)):
            if array is not None and array.shape[axis] != x.shape[1]:
                raise UserError(f"fitted on {array.shape[axis]} features, and these embeddings have {x.shape[1]}")
            if array is not None:
                break
        if self.mean is not None:
            x -= self.mean
        if self.axes is not None:
            x = x @ self.axes
        if self.names is None:
            return x
        number = {name: i for i, name in enumerate(self.names.tolist())}
        for name, rows in members(groups):
            if name not in number:
                raise UserError(f"{name} was not there when this was fitted")
            part = x[rows] - self.offset[number[name]] if self.offset is not None else x[rows]
            if self.turn is not None:
                part = part * self.turn[number[name]] if self.turn.ndim == 2 else part @ self.turn[number[name]]
            x[rows] = part
        return x
