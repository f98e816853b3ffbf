"""Consistency and average precision by hand, and their nulls: what belongs to a plate is not a perturbation's."""

import math

import numpy as np
import pytest

from rxrx_jax.evaluate.batch_metrics import replicates
from rxrx_jax.maps import relate


def at(*degrees):
    """Unit rows at these angles."""
    return np.stack([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))], 1)


def test_average_precision_by_hand():
    """A treated well at 0 degrees: positives of other experiments at 10 and 30, untreated wells of its plate at 20 and
    40: precisions 1 and 2/3. What is nearer but of its own experiment, or untreated on another plate, is not ranked."""
    u = at(0, 1, 10, 30, 20, 40, 2)
    group = np.array([1, 1, 1, 1, 0, 0, 0])
    experiment, plate = np.array([0, 0, 1, 2, 0, 0, 1]), np.array([0, 0, 3, 4, 0, 0, 3])
    untreated = group == 0
    ap, positives, ranked = replicates.average_precision(u, group, experiment, plate, untreated)
    assert ap[0] == pytest.approx((1 + 2 / 3) / 2) and (positives[0], ranked[0]) == (2, 4)
    # At 10: positives at 0, 1 and 30, against 2 degrees: 9, 10 and 20 away, and 8.
    assert ap[2] == pytest.approx((1 / 2 + 2 / 3 + 3 / 4) / 3)
    assert math.isnan(ap[3]) and ranked[3] == 3  # no untreated well on its plate
    assert np.isnan(ap[untreated]).all()


def test_equal_cosines_share_their_precision():
    u = at(0, 90, 90)
    ap, _, _ = replicates.average_precision(
        u, np.array([1, 1, 0]), np.array([0, 1, 0]), np.array([0, 1, 0]), np.array([False, False, True])
    )
    assert ap[0] == pytest.approx((1 + 1 / 2) / 2)


@pytest.fixture(scope="module")
def wells():
    """group, experiment and plate of three experiments of two plates: groups 1 to 6 by three wells per experiment, on
    the first plate (1 to 3) or the second (4 to 6), and 12 untreated wells per plate."""
    rows = [(0, e, p) for e in range(3) for p in range(2) for _ in range(12)]
    rows += [(g, e, (g - 1) // 3) for e in range(3) for g in range(1, 7) for _ in range(3)]
    group, experiment, plate = np.array(rows).T
    return group, experiment, 2 * experiment + plate


def noise(n, *effects, scale=4.0, seed=0):
    """Rows [n, 24] of noise, and of a direction for each number of the given columns."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(n, 24))
    for codes in effects:
        x += scale * random.normal(size=(codes.max() + 1, 24))[codes]
    return relate.unit(x)


def consistent(u, wells):
    group, experiment, plate = (values[wells[0] > 0] for values in wells)
    return replicates.consistency(u[wells[0] > 0], group, experiment, plate)


def test_a_perturbation_is_consistent_and_noise_is_not(wells):
    group, experiment, plate = wells
    none = [consistent(noise(len(group), seed=seed), wells) for seed in range(20)]
    for null in ("consistency_above_plate_null", "consistency_above_experiment_null"):
        assert np.mean([found[null] for found in none]) < 0.1
    assert np.mean([found["consistency"] for found in none]) == pytest.approx(0, abs=0.02)
    all_ = consistent(noise(len(group), group), wells)
    assert all_["consistency_above_plate_null"] == all_["consistency_above_experiment_null"] == 1
    assert all_["consistency"] > 0.9 > 0.5 > all_["consistency_plate_null"]


def test_an_effect_of_the_place_on_the_plate_passes_one_null_and_not_the_other(wells):
    """All first plates alike, and all second ones: the replicates agree, but so do all wells of their plates."""
    group, experiment, plate = wells
    found = consistent(noise(len(group), plate % 2, scale=1.0), wells)
    assert found["consistency_above_experiment_null"] == 1 and found["consistency_above_plate_null"] == 0
    assert found["consistency"] == pytest.approx(found["consistency_plate_null"], abs=0.05)


def test_one_well_each_has_no_consistency(wells):
    group, experiment, plate = wells
    found = replicates.consistency(noise(6), np.arange(6), np.arange(6) % 2, np.arange(6) % 2)
    assert len(found) == 5 and all(math.isnan(value) for value in found.values())


def test_mean_average_precision_of_an_effect_and_of_none(wells):
    group, experiment, plate = wells
    about = group, experiment, plate, group == 0
    none = replicates.mean_average_precision(noise(len(group)), *about)
    assert none["mean_average_precision_normalised"] == pytest.approx(0, abs=0.1) and none["retrieved"] == 0
    found = replicates.mean_average_precision(noise(len(group), group), *about)
    assert found["mean_average_precision"] > 0.99 and found["retrieved"] == 1
    batch = replicates.mean_average_precision(noise(len(group), experiment, scale=9), *about)
    assert batch["mean_average_precision_normalised"] < -0.3 and batch["retrieved"] == 0  # plates are nearer
    alone = replicates.mean_average_precision(noise(len(group)), group, experiment * 0, plate, group == 0)
    assert len(alone) == 3 and all(math.isnan(value) for value in alone.values())
