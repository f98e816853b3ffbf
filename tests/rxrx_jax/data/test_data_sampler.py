"""The samplers: what they depend on, what an epoch covers, how groups share a minibatch, what makes a pair."""

import collections
import types

import numpy as np
import pytest

from rxrx_jax import data
from rxrx_jax.base.errors import UserError
from rxrx_jax.data.sampler import PairSampler, Sampler

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
    with pytest.raises(UserError, match="data.groups_per_minibatch=6, but training images are of 5 alone"):
        make(12, 6)


# 7 perturbations (one unknown), 3 + 2 experiments of two cell types, 200 rows at random; perturbation 5 is in one
# experiment only and perturbation 4 in one of each cell type.
RANDOM = np.random.default_rng(1)
PAIRED = 5000 + 2 * RANDOM.permutation(200)
EXPERIMENT = RANDOM.integers(0, 5, 200)
CELL_TYPE = np.array([7, 7, 7, 2, 2])[EXPERIMENT]
PERTURBATION = RANDOM.integers(-1, 6, 200)
EXPERIMENT[PERTURBATION == 5], CELL_TYPE[PERTURBATION == 5] = 1, 7
EXPERIMENT[PERTURBATION == 4] = np.where(EXPERIMENT[PERTURBATION == 4] > 2, 4, 0)
CELL_TYPE[PERTURBATION == 4] = np.where(EXPERIMENT[PERTURBATION == 4] > 2, 2, 7)


def pairs(size=12, seed=0, rows=slice(None)):
    return PairSampler(PAIRED[rows], PERTURBATION[rows], EXPERIMENT[rows], CELL_TYPE[rows], size, seed)


def of_row(column, rows):
    lookup = dict(zip(PAIRED.tolist(), column.tolist()))
    return np.vectorize(lookup.get)(rows)


@pytest.mark.parametrize("size", [2, 12, 500])
def test_a_pair_is_one_perturbation_in_two_experiments_of_one_cell_type(size):
    sampler = pairs(size)
    for number in range(4):
        first, second = epoch(sampler, number).reshape(-1, 2).T
        for column in (PERTURBATION, CELL_TYPE):
            np.testing.assert_array_equal(of_row(column, first), of_row(column, second))
        assert (of_row(EXPERIMENT, first) != of_row(EXPERIMENT, second)).all()
        assert (of_row(PERTURBATION, first) >= 0).all()


@pytest.mark.parametrize("size", [2, 12, 500])
def test_an_epoch_has_every_row_with_a_partner_once_as_the_first_of_its_pair(size):
    sampler = pairs(size)
    alone = (PERTURBATION < 0) | (PERTURBATION > 3)
    assert {-1, 4, 5} == set(PERTURBATION[alone]) and sampler.left_out == alone.sum() > 0
    assert sampler.examples == 200 - alone.sum()
    assert sampler.steps_per_epoch == -(-sampler.examples // (size // 2))
    orders = []
    for number in range(2):
        first = epoch(sampler, number)[:, 0::2].ravel()
        assert set(first[: sampler.examples]) == set(PAIRED[~alone])  # as many as there are, so each once
        again = np.resize(first[: sampler.examples], len(first))  # filled up from the epoch's own start
        np.testing.assert_array_equal(first, again)
        orders.append(first.tolist())
    assert orders[0] != orders[1]


def test_pairs_are_a_function_of_seed_and_step():
    one, other = pairs(), pairs()
    steps = range(3 * one.steps_per_epoch)
    forwards = [one.rows(step).tolist() for step in steps]
    backwards = {step: other.rows(step).tolist() for step in reversed(steps)}
    assert [backwards[step] for step in steps] == forwards
    assert [pairs(seed=1).rows(step).tolist() for step in steps[:3]] != forwards[:3]
    taken = one.rows(0)
    taken[:] = 0
    assert one.rows(0).tolist() == forwards[0]  # a copy


def test_a_partner_is_uniform_over_the_other_experiments_then_over_its_rows():
    """One perturbation with 1, 2 and 6 rows in three experiments, and a stranger before and after it in the table."""
    experiment = np.array([0, 1, 1, 2, 2, 2, 2, 2, 2, 0, 1, 0, 1])
    perturbation = np.array([3] * 9 + [1, 1, 8, 8])
    sampler = PairSampler(np.arange(13), perturbation, experiment, np.zeros(13, int), size=26)
    drawn = np.concatenate([sampler.rows(step).reshape(-1, 2) for step in range(3000)])
    for first, expected in ((0, {1: 1 / 2, 2: 1 / 2}), (1, {0: 1 / 2, 2: 1 / 2}), (5, {0: 1 / 2, 1: 1 / 2})):
        seconds = drawn[drawn[:, 0] == first, 1]
        assert len(seconds) == 3000
        for place, share in expected.items():
            rows = np.flatnonzero((experiment == place) & (perturbation == 3))
            for row in rows:  # standard error of a share of 3,000 draws: at most 0.009
                assert abs((seconds == row).mean() - share / len(rows)) < 0.04


def test_pair_errors_name_the_key():
    with pytest.raises(UserError, match="minibatch 7 does not hold a whole number of pairs"):
        pairs(7)
    with pytest.raises(UserError, match="seed=-1"):
        pairs(seed=-1)
    for rows in (PERTURBATION < 0, PERTURBATION > 3, np.zeros(200, bool)):
        with pytest.raises(UserError, match="data.pairs=perturbation: no perturbation occurs in two"):
            pairs(rows=rows)


def table():
    """Four experiments, two perturbations in each, twice; the last two experiments are held out."""
    experiment, perturbation, _ = np.indices((4, 2, 2)).reshape(3, -1)
    zeros = np.zeros(16, np.int32)
    same = {key: zeros for key in ("split", "index", "site_id", "well_id", "site", "well_type", "plate", "cell_type")}
    sites = data.Sites(label=perturbation.astype(np.int32), experiment=experiment, **same)
    return types.SimpleNamespace(sites=sites, roles=data.Roles(np.flatnonzero(experiment < 2)))


def test_pairs_are_made_with_labels_of_the_fitted_rows_alone(capsys):
    """Rows of held-out experiments that were let in by mistake find no partner, and their labels change nothing."""
    dataset = table()
    sampler = data.make_sampler(dataset, np.arange(16), 8, "experiment", 0, 0, "perturbation")
    drawn = [sampler.rows(step) for step in range(20)]
    assert set(np.concatenate(drawn)) == set(dataset.roles.fit)
    assert capsys.readouterr().err == "8 of 16 training sites have no partner and are left out\n"
    dataset.sites.label[8:] = RANDOM.permutation(dataset.sites.label[8:])
    again = data.make_sampler(dataset, np.arange(16), 8, "experiment", 0, 0, "perturbation")
    np.testing.assert_array_equal([again.rows(step) for step in range(20)], drawn)


def test_which_sampler_a_dataset_gets(capsys):
    dataset, rows = table(), np.arange(8)
    assert isinstance(data.make_sampler(dataset, rows, 4, "experiment", 0, 0), Sampler)
    assert isinstance(data.make_sampler(dataset, rows, 4, "experiment", 0, 0, "perturbation"), PairSampler)
    assert capsys.readouterr().err == ""  # no site is left out
    with pytest.raises(UserError, match="data.pairs='well': expected perturbation or nothing"):
        data.make_sampler(dataset, rows, 4, "experiment", 0, 0, "well")
    with pytest.raises(UserError, match="data.groups_per_minibatch=0, not 2"):
        data.make_sampler(dataset, rows, 4, "experiment", 2, 0, "perturbation")
