"""The stages of the competition: plates whose answer is known, and what is refused."""

import dataclasses
import itertools
import types

import numpy as np
import pytest
from protocol_tools import screen

from rxrx_jax.base.errors import UserError
from rxrx_jax.data import Roles
from rxrx_jax.evaluate import cellsignal

ONE_WELL = dict(version="v2", replicates=1, treatments=8, positive_controls=1, positive_wells=1, untreated_wells=1)
GROUPS = np.array([0, 0, 0, 1, 1, 1, -1])


def logits(*rows):
    return np.array(rows, np.float64)


def test_a_plate_whose_answer_is_known():
    """Two wells want class 0: the first loses less by class 1, which the third then leaves to it for class 2."""
    z = logits(
        [5.0, 4.0, 0.0, -9, -9, -9, 0],
        [5.0, 1.0, 0.0, -9, -9, -9, 0],
        [1.0, 2.0, 1.5, -9, -9, -9, 0],
    )
    by_plate, once = cellsignal.assign(z, np.zeros(3, int), np.zeros(3, int), GROUPS)
    assert by_plate.tolist() == [0, 0, 1] and once.tolist() == [1, 0, 2]


def test_two_plates_that_want_one_group_do_not_both_get_it():
    z = logits([3.0, 0, 0, 0, 0, 0, 0], [2.0, 0, 0, 0, 1.0, 0, 0])
    by_plate, once = cellsignal.assign(z, np.zeros(2, int), np.arange(2), GROUPS)
    assert by_plate.tolist() == once.tolist() == [0, 4]
    by_plate, _ = cellsignal.assign(z, np.arange(2), np.arange(2), GROUPS)  # of two experiments they both do
    assert by_plate.tolist() == [0, 0]


def test_groups_go_to_plates_as_the_best_of_all_assignments_and_wells_as_the_best_of_all_matchings():
    """Against every permutation, tried one by one."""
    random = np.random.default_rng(0)
    groups = np.repeat(np.arange(4), 3)[random.permutation(12)]
    z = random.normal(size=(12, 12))
    z += 1.0 * (groups[None] == np.repeat([2, 0, 3, 1], 3)[:, None])
    plate = np.repeat([7, 3, 9, 5], 3)
    by_plate, once = cellsignal.assign(z, np.zeros(12, int), plate, groups)
    log_p = z - np.log(np.exp(z).sum(1, keepdims=True))

    def likelihood(order):
        of = dict(zip(np.unique(plate), order))
        return sum(np.log(np.exp(log_p[w])[groups == of[plate[w]]].sum()) for w in range(12))

    best = max(itertools.permutations(range(4)), key=likelihood)
    of = dict(zip(np.unique(plate), best))
    for p in np.unique(plate):
        wells, members = np.flatnonzero(plate == p), np.flatnonzero(groups == of[p])
        assert by_plate[wells].tolist() == [members[log_p[w, members].argmax()] for w in wells]
        matchings = itertools.permutations(members)
        assert once[wells].tolist() == list(max(matchings, key=lambda m: sum(log_p[w, c] for w, c in zip(wells, m))))


def test_classes_that_a_fit_never_saw_have_no_chance_and_no_nan():
    z = np.maximum(logits([0.0, -np.inf, -np.inf, -9, -9, -9, 9], [-np.inf] * 7), cellsignal.LEAST)
    by_plate, once = cellsignal.assign(z, np.zeros(2, int), np.zeros(2, int), GROUPS)
    assert by_plate[0] == once[0] == 0 and once[1] in (1, 2)


def test_a_treatment_may_be_on_its_plate_as_often_as_in_training():
    z = logits(*[[3.0, 1, 0, -9, -9, -9, 0]] * 4)
    _, once = cellsignal.assign(z, np.zeros(4, int), np.zeros(4, int), GROUPS, capacity=2)
    assert sorted(once.tolist()) == [0, 0, 1, 1]
    with pytest.raises(UserError, match=r"^plate A/2: 4 treated wells for 3 treatments, at most 1 times each; remove"):
        cellsignal.assign(z, np.zeros(4, int), np.zeros(4, int), GROUPS, names=["A/2"])


def test_more_plates_than_groups_are_refused():
    with pytest.raises(UserError, match="its experiment has 3 plates and there are 2 groups of treatments"):
        cellsignal.assign(np.zeros((3, 7)), np.zeros(3, int), np.arange(3), GROUPS)


def held_out(layout="fixed", **settings):
    """The simulated screen, trained on its train split and scored on the treated wells of its test split."""
    dataset = screen(layout=layout, **(ONE_WELL | settings))
    sites = dataset.sites
    fit, test = (np.flatnonzero(np.isin(sites.split, names)) for names in (("train", "id_test"), ("test",)))
    dataset.roles = Roles(fit, {"private": test[sites.well_type[test] == "treatment"]})
    return dataset


@pytest.fixture(scope="module")
def dataset():
    return held_out()


def test_groups_are_those_of_the_design(dataset):
    from rxrx_jax.simulate import design

    groups, capacity = cellsignal.groups_of(dataset)
    found = {frozenset(np.flatnonzero(groups == g).tolist()) for g in range(4)}
    assert found == {frozenset(g) for g in design.groups(design.Screen(**ONE_WELL), "SIMA-01")} and capacity == 1
    assert groups[8:].tolist() == [-1, -1]
    assert cellsignal.groups_of(held_out(replicates=2))[1] == 2


def test_a_layout_without_groups_is_refused():
    with pytest.raises(UserError, match="an experiment has 4 plates and treatments are in . groups? that always share"):
        cellsignal.groups_of(held_out(layout="reshuffled"))
    other = held_out()
    other.sites = dataclasses.replace(other.sites, plate=None)
    with pytest.raises(UserError, match="no column plate"):
        cellsignal.groups_of(other)


def noisy(dataset, noise, seed=0):
    """Logits of the scored rows that know the label but for noise, with control classes that look better still."""
    rows = dataset.roles.scored["private"]
    z = np.eye(10)[dataset.sites.label[rows]] * 2 + np.random.default_rng(seed).normal(size=(len(rows), 10)) * noise
    z[:, 8:] = 99  # never among the 1,108
    return z, rows


def test_the_stages_are_what_ten_lines_say_of_the_same_logits(dataset):
    z, rows = noisy(dataset, 2.0)
    found = dict(cellsignal.stages(z, rows, dataset))
    label, sites = dataset.sites.label, dataset.sites
    assert found["stages/site"] == np.mean(z[:, :8].argmax(1) == label[rows])
    by_well = {}
    for row, logit in zip(rows, z):
        by_well.setdefault(sites.well_id[row], [label[row], 0])[1] += logit
    assert found["stages/well"] == np.mean([logit[:8].argmax() == truth for truth, logit in by_well.values()])
    assert found["stages/wells"] == len(by_well) == len(rows) / 2
    for stage in ("site", "well", "plate_group", "hungarian"):
        assert found[f"stages/{stage}_ci_low"] <= found[f"stages/{stage}"] <= found[f"stages/{stage}_ci_high"]
    assert not any("without" in name for name in found)


def test_each_stage_gains_where_the_prior_holds(dataset):
    found = [dict(cellsignal.stages(*noisy(dataset, 1.4, seed), dataset)) for seed in range(4)]
    of = lambda stage: np.mean([one[f"stages/{stage}"] for one in found])  # noqa: E731
    assert of("site") < of("well") < of("plate_group") < of("hungarian") < 1
    sure = dict(cellsignal.stages(*noisy(dataset, 0.01), dataset))
    assert [sure[f"stages/{stage}"] for stage in ("site", "well", "plate_group", "hungarian")] == [1, 1, 1, 1]


def test_withheld_labels_take_part_and_are_not_scored(dataset):
    z, rows = noisy(dataset, 2.0)
    whole = cellsignal.of_wells(z, rows, dataset)
    label = dataset.sites.label.copy()
    label[dataset.sites.experiment == dataset.experiments.index("SIMA-05")] = -1
    hidden = types.SimpleNamespace(**vars(dataset) | {"sites": dataclasses.replace(dataset.sites, label=label)})
    found = dict(cellsignal.stages(z, rows, hidden))
    known = label[whole.row] >= 0
    assert found["stages/hungarian"] == np.mean((whole.hungarian == label[whole.row])[known])
    assert found["stages/wells"] == known.sum() < len(known) and "stages/well/SIMA-05" not in found
    label[:] = -1
    hidden = types.SimpleNamespace(**vars(dataset) | {"sites": dataclasses.replace(dataset.sites, label=label)})
    hidden.roles = Roles(dataset.roles.fit[:0], dataset.roles.scored)
    with pytest.raises(UserError, match="no treated well with a label is trained on"):
        dict(cellsignal.stages(z, rows, hidden))


def test_without_huvec_18(dataset):
    named = [{"SIMA-05": "HUVEC-18"}.get(name, name) for name in dataset.experiments]
    other = types.SimpleNamespace(**vars(dataset) | {"experiments": named})
    z, rows = noisy(dataset, 2.0)
    found = dict(cellsignal.stages(z, rows, other))
    kept = rows[dataset.sites.experiment[rows] != named.index("HUVEC-18")]
    mine = np.isin(rows, kept)
    part = dict(cellsignal.stages(z[mine], kept, dataset))
    for stage in ("site", "well", "plate_group", "hungarian"):
        assert found[f"stages_without_HUVEC-18/{stage}"] == part[f"stages/{stage}"] != found[f"stages/{stage}"]
    alone = rows[~mine]
    assert not any("without" in name for name in dict(cellsignal.stages(z[~mine], alone, other)))
