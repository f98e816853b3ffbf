"""Which examples make up which minibatch: a pure function of (seed, step), the same on every host."""

import functools
import math

import numpy as np

from rxrx_jax.errors import UserError


class Sampler:
    """Draws minibatches of `size` rows, each from `groups_per_minibatch` groups (experiments or plates), or from all.

    An epoch visits every row at least once. Each group's rows are shuffled and cut into chunks of
    size / groups_per_minibatch; a group's last chunk is filled up from its own start; a minibatch takes one chunk
    from each of the groups that have most left (ties at random). With `groups_per_minibatch=0` all rows are one group.

    Args: rows [n] indices; group [n] the group of each row; seed, at least 0.
    Raises UserError when the numbers do not fit.
    """

    def __init__(self, rows: np.ndarray, group: np.ndarray, size: int, groups_per_minibatch: int = 0, seed: int = 0):
        if not len(rows):
            raise UserError("no example matches data.select; loosen it or check the dataset's report.md")
        if seed < 0:
            raise UserError(f"seed={seed}: use 0 or more")
        if groups_per_minibatch == 0:
            group, groups_per_minibatch = np.zeros(len(rows), np.int64), 1
        names, sizes = np.unique(group, return_counts=True)
        if size % groups_per_minibatch:
            raise UserError(f"minibatch {size} is not a multiple of data.groups_per_minibatch={groups_per_minibatch}")
        if len(names) < groups_per_minibatch:
            raise UserError(f"data.groups_per_minibatch={groups_per_minibatch}, but {len(names)} groups are selected")
        self.size, self.seed, self.groups = size, seed, groups_per_minibatch
        self.members = [rows[group == name] for name in names]
        self.chunk = size // groups_per_minibatch
        self.chunks = np.array([math.ceil(n / self.chunk) for n in sizes])
        self.examples = len(rows)
        self._epoch = functools.lru_cache(maxsize=2)(self._epoch)  # of this object alone
        self.steps_per_epoch = max(math.ceil(self.chunks.sum() / groups_per_minibatch), int(self.chunks.max()))

    def rows(self, step: int) -> np.ndarray:
        """The rows of minibatch number `step` (0, 1, ...) of the run: [size]."""
        epoch, index = divmod(step, self.steps_per_epoch)
        return self._epoch(epoch)[index].copy()

    def _epoch(self, epoch: int) -> np.ndarray:
        """[steps_per_epoch, size] rows of one epoch."""
        random = np.random.default_rng([self.seed, epoch])
        # Each group is a cycle through its own permutation, so that filling up never leaves the group.
        orders = [random.permutation(m) for m in self.members]
        taken = np.zeros(len(orders), np.int64)
        plan = np.empty((self.steps_per_epoch, self.groups, self.chunk), np.int64)
        for step in range(self.steps_per_epoch):
            left = self.chunks - taken
            chosen = np.lexsort((random.random(len(left)), -left))[: self.groups]
            for lane, g in enumerate(chosen):
                positions = (taken[g] * self.chunk + np.arange(self.chunk)) % len(orders[g])
                plan[step, lane] = orders[g][positions]
            taken[chosen] += 1
        return plan.reshape(self.steps_per_epoch, self.size)
