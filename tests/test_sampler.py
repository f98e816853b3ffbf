"""The sampler: what it depends on, what an epoch covers, how groups share a minibatch."""

import collections

import numpy as np
import pytest

from rxrx_jax.errors import UserError
from rxrx_jax.sampler import Sampler

# 100 rows (not 0..99, so that rows and positions differ) in five groups of 40, 25, 20, 14 and 1.
SIZES = (40, 25, 20, 14, 1)
GROUP = np.random.default_rng(0).permutation(np.repeat([7, 3, 11, 5, 2], SIZES))
ROWS = 1000 + 3 * np.arange(100)


def group_of(rows):
    return GROUP[(np.asarray(rows) - 1000) // 3]


def epoch(sampler, number):
    first = number * sampler.steps_per_epoch
    return np.stack([sampler.rows(step) for step in range(first, first + sampler.steps_per_epoch)])


def make(size=12, groups=0, seed=0):
    return Sampler(ROWS, GROUP, size, groups, seed)


@pytest.mark.parametrize("groups", [0, 1, 3])
def test_a_minibatch_is_a_function_of_seed_and_step(groups):
    one = make(groups=groups)
    steps = range(3 * one.steps_per_epoch)
    forwards = [one.rows(step).tolist() for step in steps]
    other = make(groups=groups)  # fresh, read in another order, twice
    backwards = {step: other.rows(step).tolist() for step in reversed(steps)}
    assert [backwards[step] for step in steps] == forwards
    assert make(groups=groups).rows(steps[-1]).tolist() == forwards[-1]
    assert [make(groups=groups, seed=1).rows(step).tolist() for step in steps[:3]] != forwards[:3]
    assert epoch(one, 0).tolist() != epoch(one, 1).tolist()


@pytest.mark.parametrize("size, groups", [(12, 0), (12, 1), (12, 3), (10, 5), (100, 0), (128, 0), (7, 1)])
def test_an_epoch_covers_every_row(size, groups):
    sampler = make(size, groups)
    assert sampler.examples == 100
    for number in range(3):
        rows = epoch(sampler, number)
        assert rows.shape == (sampler.steps_per_epoch, size)
        assert set(rows.ravel()) == set(ROWS)


def test_without_groups_no_row_comes_twice_before_the_last_minibatch():
    sampler = make(12, 0)
    assert sampler.steps_per_epoch == 9  # ceil(100 / 12)
    counts = collections.Counter(epoch(sampler, 0).ravel().tolist())
    assert sum(count - 1 for count in counts.values()) == 9 * 12 - 100
    assert max(counts.values()) == 2
    assert len(set(epoch(sampler, 0)[:8].ravel())) == 96


@pytest.mark.parametrize("groups", [1, 3, 5])
def test_exactly_so_many_groups_in_every_minibatch(groups):
    """Also at the tail of an epoch: a group that is used up starts again at its own beginning."""
    sampler = make(15, groups)
    for rows in np.concatenate([epoch(sampler, 0), epoch(sampler, 1)]):
        counts = collections.Counter(group_of(rows).tolist())
        assert len(counts) == groups
        assert set(counts.values()) == {15 // groups}


@pytest.mark.parametrize(
    "size, groups, steps",
    [
        (10, 1, 4 + 3 + 2 + 2 + 1),  # chunks of 10
        (
            12,
            3,
            10,
        ),  # chunks of 4: 10 + 7 + 5 + 4 + 1 = 27, so nine minibatches of three; the first group needs ten
        (9, 3, 14),  # chunks of 3: 14 + 9 + 7 + 5 + 1 = 36 = 12 * 3, but the first group needs 14
        (50, 5, 4),  # chunks of 10: the largest group decides
    ],
)
def test_steps_per_epoch_with_uneven_groups(size, groups, steps):
    assert make(size, groups).steps_per_epoch == steps


def test_uneven_groups_are_repeated_as_little_as_the_largest_allows():
    sampler = make(12, 3)  # chunks of 4
    counts = collections.Counter(epoch(sampler, 0).ravel().tolist())
    by_group = {name: [counts[row] for row in ROWS[GROUP == name]] for name in np.unique(GROUP)}
    assert set(by_group[7]) == {1}  # the largest: ten chunks in ten steps
    for values in by_group.values():
        assert max(values) - min(values) <= 1  # a group goes round its own permutation
    assert sum(counts.values()) == 120


def test_a_group_smaller_than_its_chunk_repeats_itself():
    sampler = make(10, 1)
    lonely = ROWS[GROUP == 2][0]
    assert [lonely] * 10 in epoch(sampler, 0).tolist()


def test_equal_groups_give_each_row_exactly_once():
    rows, group = np.arange(60), np.arange(60) % 6
    sampler = Sampler(rows, group, size=10, groups_per_minibatch=2, seed=3)
    assert sampler.steps_per_epoch == 6
    for number in range(4):
        assert sorted(epoch(sampler, number).ravel()) == list(range(60))


def test_the_pairing_of_groups_changes_from_epoch_to_epoch():
    rows, group = np.arange(60), np.arange(60) % 6
    sampler = Sampler(rows, group, 10, 2, seed=0)
    pairs = {tuple(sorted(set((m % 6).tolist()))) for number in range(20) for m in epoch(sampler, number)}
    assert len(pairs) == 15


def test_errors_name_the_key():
    with pytest.raises(UserError, match="data.select"):
        Sampler(ROWS[:0], GROUP[:0], 4)
    with pytest.raises(UserError, match="minibatch 10 is not a multiple of data.groups_per_minibatch=3"):
        make(10, 3)
    with pytest.raises(UserError, match="data.groups_per_minibatch=6, but 5 groups"):
        make(12, 6)
