"""Which examples make up which minibatch: a pure function of (seed, step), the same on every host."""

import functools
import math

import numpy as np

from rxrx_jax.base import hosts
from rxrx_jax.base.errors import UserError
from rxrx_jax.data.roles import hide_labels


class Sampler:
    """Draws minibatches of `size` rows, each from `groups_per_minibatch` groups (experiments or plates), or from all.

    An epoch visits every row at least once. Each group's rows are shuffled and cut into chunks of
    size / groups_per_minibatch; a group's last chunk is filled up from its own start; a minibatch takes one chunk
    from each of the groups that have most left (ties at random). With `groups_per_minibatch=0` all rows are one group.

    Args: rows [n] indices; group [n] the group of each row; seed, at least 0.
    Raises UserError when the numbers do not fit.
    """

    unit = 1  # rows that belong together

    def __init__(self, rows: np.ndarray, group: np.ndarray, size: int, groups_per_minibatch: int = 0, seed: int = 0):
        if not len(rows):
            raise UserError("no example matches data.select; loosen it or check the dataset's report.html")
        if seed < 0:
            raise UserError(f"seed={seed}: use 0 or more")
        self.grouped = groups_per_minibatch > 0
        if groups_per_minibatch == 0:
            group, groups_per_minibatch = np.zeros(len(rows), np.int64), 1
        names, sizes = np.unique(group, return_counts=True)
        if size % groups_per_minibatch:
            raise UserError(f"minibatch {size} is not a multiple of data.groups_per_minibatch={groups_per_minibatch}")
        if len(names) < groups_per_minibatch:
            raise UserError(
                f"data.groups_per_minibatch={groups_per_minibatch}, but training images are of {len(names)} alone"
            )
        self.size, self.seed, self.groups, self.drawn_from = size, seed, groups_per_minibatch, rows
        self.members = np.split(rows[np.argsort(group, kind="stable")], np.cumsum(sizes)[:-1])  # by group
        self.chunk = size // groups_per_minibatch
        self.chunks = np.array([math.ceil(n / self.chunk) for n in sizes])
        self.examples = len(rows)
        self._epoch = functools.lru_cache(maxsize=2)(self._epoch)  # per object
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


class Repeated:
    """A Sampler whose minibatches have each row `count` times, one after the other, for as many crops of one record.

    An epoch has as many examples as without: over `count` epochs it visits every row at least once.
    """

    def __init__(self, sampler: Sampler, count: int):
        self.sampler, self.count = sampler, count
        self.size, self.steps_per_epoch = sampler.size * count, math.ceil(sampler.steps_per_epoch / count)

    def rows(self, step: int) -> np.ndarray:
        """The rows of minibatch number `step` (0, 1, ...) of the run: [size]."""
        return np.repeat(self.sampler.rows(step), self.count)

    def __getattr__(self, name):
        return getattr(self.sampler, name)


class PairSampler:
    """Draws minibatches of `size` rows in pairs: rows 2i and 2i+1 show the same perturbation in different experiments.

    Both are of one cell type, because the same perturbation does different things to different cells (Haslum et al.
    2023, arXiv 2212.11595, pair within HUVEC). An epoch has every row once as the first of its pair, shuffled; its
    partner is drawn uniformly over the other experiments with that perturbation, then over its rows there. The last
    minibatch is filled up from the start of the epoch's order. Rows with an unknown perturbation or with no partner
    are left out (`left_out`, their number).

    Args: rows [n] indices; perturbation, experiment, cell_type [n] of each row, perturbation -1 where unknown; seed, at
    least 0. Raises UserError when the numbers do not fit or no row has a partner.
    """

    unit = 2

    def __init__(self, rows, perturbation, experiment, cell_type, size: int, seed: int = 0):
        if size < 2 or size % 2:
            raise UserError(f"minibatch {size} does not hold a whole number of pairs; use an even one")
        if seed < 0:
            raise UserError(f"seed={seed}: use 0 or more")
        known = perturbation >= 0
        table = np.stack([perturbation, cell_type, experiment], 1)[known]
        # A place is a perturbation in an experiment, a kind one in a cell type; the places of a kind are neighbours.
        places, place = np.unique(table, axis=0, return_inverse=True)
        _, kind = np.unique(places[:, :2], axis=0, return_inverse=True)
        place, kind = place.reshape(-1), kind.reshape(-1)  # their shape depends on numpy's version
        order = np.argsort(place, kind="stable")
        self._rows, self._place = rows[known][order], place[order]  # by place
        self._count = np.bincount(place, minlength=len(places))  # rows of each place
        self._start = np.cumsum(self._count) - self._count
        self._number = np.bincount(kind)[kind]  # places of each place's kind
        self._first_place = np.searchsorted(kind, kind)  # of each place's kind
        self._paired = np.flatnonzero(self._number[self._place] > 1)
        self.size, self.seed, self.drawn_from = size, seed, rows
        self.examples = len(self._paired)
        self.left_out = len(rows) - self.examples
        if not self.examples:
            raise UserError(
                "data.pairs=perturbation: no perturbation occurs in two training experiments of one cell type; "
                "loosen data.select or use a dataset that repeats its perturbations"
            )
        self._epoch = functools.lru_cache(maxsize=2)(self._epoch)  # per object
        self.steps_per_epoch = math.ceil(self.examples / (size // 2))

    def rows(self, step: int) -> np.ndarray:
        """The rows of minibatch number `step` (0, 1, ...) of the run: [size]."""
        epoch, index = divmod(step, self.steps_per_epoch)
        return self._epoch(epoch)[index].copy()

    def _epoch(self, epoch: int) -> np.ndarray:
        """[steps_per_epoch, size] rows of one epoch."""
        random = np.random.default_rng([self.seed, epoch])
        first = np.resize(random.permutation(self._paired), self.steps_per_epoch * (self.size // 2))
        place = self._place[first]
        start = self._first_place[place]
        other = start + random.integers(self._number[place] - 1)
        other += other >= place  # skips the experiment of the first
        second = self._start[other] + random.integers(self._count[other])
        return self._rows[np.stack([first, second], 1)].reshape(self.steps_per_epoch, self.size)


class ControlSampler:
    """Draws untreated images beside each minibatch of a Sampler: of each of its groups as many, and in its order, drawn
    at random without one twice.

    Args: sampler, whose minibatches come from groups; rows [n], the untreated ones; group, of every row of the table;
    names, of the groups; size, of a minibatch of all groups; seed, at least 0.
    Raises UserError where a group has too few, naming it.
    """

    unit = 1

    def __init__(self, sampler: Sampler, rows: np.ndarray, group: np.ndarray, names: list[str], size: int, seed: int):
        each, rest = divmod(size, sampler.groups)
        if rest or not each:
            raise UserError(f"data.control_minibatch={size} is not a multiple of the {sampler.groups} groups beside it")
        self.size, self.seed, self.drawn_from, self._sampler, self._group, self._each = (
            size, seed, rows, sampler, group, each
        )  # fmt: skip
        self._of = {}
        for g in np.unique(group[sampler.drawn_from]).tolist():
            self._of[g] = rows[group[rows] == g]
            if len(self._of[g]) < each:
                raise UserError(
                    f"{names[g]} has {len(self._of[g])} untreated images to train with, fewer than {each}: lower "
                    "data.control_minibatch, or leave it out with data.select"
                )

    def rows(self, step: int) -> np.ndarray:
        """The rows beside minibatch number `step` (0, 1, ...): [size]."""
        random = np.random.default_rng([self.seed, step])
        first = self._sampler.rows(step).reshape(self._sampler.groups, -1)[:, 0]
        drawn = [random.choice(self._of[g], self._each, replace=False) for g in self._group[first].tolist()]
        return np.concatenate(drawn)


class BucketSampler:
    """Draws minibatches of `size` rows of similar length, so that little of what they are padded to is padding.

    An epoch visits every row at least once. The rows of each bucket are shuffled and cut into minibatches; what is left
    of a bucket joins the next larger one, and what is left of the largest is filled up from its own start. Then the
    minibatches are shuffled.

    Args: rows [n] indices; length [n] of each row; buckets, the largest length of each, ascending; seed, at least 0.
    Raises UserError when the numbers do not fit.
    """

    unit = 1

    def __init__(self, rows: np.ndarray, length: np.ndarray, size: int, buckets: tuple[int, ...], seed: int = 0):
        if not len(rows):
            raise UserError("no example to train on: the dataset's split train is empty")
        if seed < 0:
            raise UserError(f"seed={seed}: use 0 or more")
        if length.max() > buckets[-1]:
            raise UserError(f"an example of length {length.max()} is longer than the largest bucket, {buckets[-1]}")
        self.size, self.seed, self.drawn_from = size, seed, rows
        bucket = np.searchsorted(buckets, length)
        self._members = [rows[bucket == b] for b in np.unique(bucket)]  # the smallest first
        self.examples, self.steps_per_epoch = len(rows), math.ceil(len(rows) / size)
        self._epoch = functools.lru_cache(maxsize=2)(self._epoch)  # per object

    def rows(self, step: int) -> np.ndarray:
        """The rows of minibatch number `step` (0, 1, ...) of the run: [size]."""
        epoch, index = divmod(step, self.steps_per_epoch)
        return self._epoch(epoch)[index].copy()

    def _epoch(self, epoch: int) -> np.ndarray:
        """[steps_per_epoch, size] rows of one epoch."""
        random = np.random.default_rng([self.seed, epoch])
        left, plan = self._members[0][:0], []
        for members in self._members:
            mine = np.concatenate([left, random.permutation(members)])
            whole = len(mine) // self.size * self.size
            plan.append(mine[:whole].reshape(-1, self.size))
            left = mine[whole:]
        if len(left):
            plan.append(np.concatenate([left, np.resize(mine, self.size - len(left))])[None])
        return random.permutation(np.concatenate(plan))


def make_sampler(
    dataset, rows: np.ndarray, size: int, group: str, groups_per_minibatch: int, seed: int, pairs: str = "",
    crops: int = 1,
):  # fmt: skip
    """A Sampler over `rows` whose groups are the dataset's experiments or plates; with `pairs="perturbation"` a
    PairSampler, which uses the labels of the protocol's fit rows alone; with `crops` above 1 each row of a minibatch
    stands in it so many times. Reports how many sites have no partner, and how many groups have fewer rows than a
    minibatch takes of one."""
    if group not in ("experiment", "plate"):
        raise UserError(f"data.group={group!r}: expected experiment or plate")
    if type(crops) is not int or crops < 1 or size % crops:
        raise UserError(f"data.crops_per_record={crops}: use a divisor of the minibatch, {size}")
    if pairs and crops > 1:
        raise UserError(f"data.pairs={pairs} needs data.crops_per_record=1, not {crops}")
    if not pairs:
        sampler = Sampler(rows, getattr(dataset.sites, group)[rows], size // crops, groups_per_minibatch, seed)
        if sampler.grouped and (small := sorted((len(m), m[0]) for m in sampler.members if len(m) < sampler.chunk)):
            fewest, row = small[0]
            name = getattr(dataset, f"{group}s")[getattr(dataset.sites, group)[row]]
            hosts.say(
                f"note: {len(small)} of {len(sampler.members)} {group}s have fewer training images than the "
                f"{sampler.chunk} that a minibatch takes of one (fewest: {name}, {fewest}), which repeat "
                "in it: a lower data.minibatch repeats none"
            )
        return Repeated(sampler, crops) if crops > 1 else sampler
    if pairs != "perturbation":
        raise UserError(f"data.pairs={pairs!r}: expected perturbation or nothing")
    if groups_per_minibatch:
        raise UserError(f"data.pairs={pairs} needs data.groups_per_minibatch=0, not {groups_per_minibatch}")
    sites = hide_labels(dataset.sites, dataset.roles.fit)
    sampler = PairSampler(rows, sites.label[rows], sites.experiment[rows], sites.cell_type[rows], size, seed)
    if sampler.left_out:
        hosts.say(f"{sampler.left_out} of {len(rows)} training sites have no partner and are left out")
    return sampler


def make_control_sampler(dataset, sampler, rows: np.ndarray, size: int, group: str, seed: int):
    """A ControlSampler over the untreated `rows`, beside a Sampler whose minibatches are drawn from groups."""
    if getattr(sampler, "grouped", False):
        names = [f"{group} {name}" for name in getattr(dataset, f"{group}s")]
        return ControlSampler(sampler, rows, getattr(dataset.sites, group), names, size, seed)
    raise UserError("data.control_minibatch needs minibatches of few groups: set data.groups_per_minibatch above 0")
