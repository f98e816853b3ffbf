"""Wells held out of training: how many, which, and that nothing else has them."""

import collections
import dataclasses
import types

import numpy as np
import pytest
import tiny
from protocol_tools import rxrx1, screen

from rxrx_jax.base.config import load
from rxrx_jax.evaluate import protocols
from rxrx_jax.simulate.design import Screen
from rxrx_jax.training import train


@pytest.fixture(scope="module")
def simulated():
    dataset = screen()
    return dataset, protocols.roles(dataset, "held_out_wells")


def wells(dataset, rows):
    return set(dataset.sites.well_id[rows].tolist())


def test_two_of_eight_wells_of_each_perturbation_and_experiment(simulated):
    dataset, roles = simulated
    table, base = dataset.sites, protocols.roles(dataset, "held_out_experiments")
    count = lambda rows: collections.Counter(  # noqa: E731
        (int(table.experiment[r]), int(table.label[r])) for r in rows if table.site[r] == 1
    )
    held, every = count(roles.scored["in_batch_wells"]), count(base.fit)
    assert {dataset.experiments[e] for e, _ in held} == set(Screen().splits["train"]) and held.keys() == every.keys()
    assert {(n, held[key]) for key, n in every.items()} == {(8, 2), (16, 4)}  # untreated wells are on every plate


def test_held_out_wells_are_in_no_other_role_and_whole(simulated):
    dataset, roles = simulated
    base, held = protocols.roles(dataset, "held_out_experiments"), wells(dataset, roles.scored["in_batch_wells"])
    for rows in (roles.fit, *(rows for role, rows in roles.scored.items() if role != "in_batch_wells")):
        assert len(rows) and not held & wells(dataset, rows)
    whole = np.flatnonzero(np.isin(dataset.sites.well_id, sorted(held)))
    assert roles.scored["in_batch_wells"].tolist() == whole.tolist() and len(whole) == 2 * len(held)
    assert wells(dataset, roles.fit) == wells(dataset, roles.scored["in_batch"])
    # Nothing is lost, and held-out experiments are as they were.
    parts = (roles.fit, roles.scored["in_batch"], roles.scored["in_batch_wells"])
    assert sorted(np.concatenate(parts)) == sorted(np.concatenate([base.fit, base.scored["in_batch"]]))
    for role in ("validation", "cross_batch"):
        np.testing.assert_array_equal(roles.scored[role], base.scored[role])
    assert list(roles.scored) == ["in_batch", "in_batch_wells", "validation", "cross_batch"]


def test_which_wells_depends_on_their_names_alone(simulated):
    dataset, roles = simulated
    held = wells(dataset, roles.scored["in_batch_wells"])
    order = np.random.default_rng(0).permutation(len(dataset.sites))
    values = {f.name: getattr(dataset.sites, f.name) for f in dataclasses.fields(dataset.sites)}
    mixed = type(dataset.sites)(**{key: None if v is None else v[order] for key, v in values.items()})
    other = types.SimpleNamespace(**vars(dataset) | {"sites": mixed})
    assert wells(other, protocols.roles(other, "held_out_wells").scored["in_batch_wells"]) == held
    # Not by position: they lie all over the plate, and all plates have some.
    rows, columns = zip(*((name[-3], name[-2:]) for name in held))
    assert len(set(rows)) == 14 and len(set(columns)) == 22
    share = np.mean([name[-3] < "I" for name in held])
    assert share == pytest.approx(0.5, abs=4 * 0.5 / np.sqrt(len(held)))
    plates = {name.rpartition("_")[0] for name in held}
    assert len(plates) == len(Screen().splits["train"]) * Screen().plates


@pytest.mark.parametrize("replicates, held", [(1, 0), (7, 0), (8, 2), (15, 2), (16, 4)])
def test_without_eight_replicates_nothing_is_held_out(replicates, held):
    dataset = screen(treatments=8, replicates=replicates)
    roles = protocols.roles(dataset, "held_out_wells")
    rows = [r for r in roles.scored["in_batch_wells"] if dataset.sites.label[r] < 8 and dataset.sites.site[r] == 1]
    assert len(rows) == held * 8 * len(Screen().splits["train"])
    if not held:
        base = protocols.roles(dataset, "held_out_experiments")
        np.testing.assert_array_equal(roles.fit, base.fit)
        assert not len(roles.scored["in_batch_wells"])  # nor controls, which have eight wells


def test_of_rxrx1_nothing_is_held_out(shared_data):
    dataset = rxrx1(shared_data)
    roles, base = (protocols.roles(dataset, name) for name in ("held_out_wells", "held_out_experiments"))
    assert not len(roles.scored["in_batch_wells"]) and len(roles.fit) == 40_612
    np.testing.assert_array_equal(roles.fit, base.fit)
    np.testing.assert_array_equal(roles.scored["in_batch"], base.scored["in_batch"])


def test_wells_without_a_label_are_trained_on(simulated):
    dataset, _ = simulated
    hidden = dataclasses.replace(dataset.sites, label=np.full(len(dataset.sites), -1))
    roles = protocols.roles(types.SimpleNamespace(**vars(dataset) | {"sites": hidden}), "held_out_wells")
    assert not len(roles.scored["in_batch_wells"]) and len(roles.fit) == 1624


def test_the_simulated_screen_is_trained_so_and_scored_on_both(tmp_path):
    assert load("convnet.py")["protocol"]["name"] == "held_out_wells"
    assert load("convnet.py:rxrx1")["protocol"]["name"] == "held_out_experiments"
    builder = tiny.SCREEN | {"seed": 0, "layout": "fixed", "replicates": 8, "positive_wells": 2, "untreated_wells": 2}
    values = tiny.values("convnet.py", tmp_path / "data", evaluators={"accuracy": {}}, **{"data.builder": builder})
    assert train.run(values, tmp_path / "run")["done"]
    text = (tmp_path / "run" / "metrics.jsonl").read_text()
    for name in ("in_batch/site_accuracy", "in_batch_wells/site_accuracy", "in_batch_wells/well_accuracy/SIMA-01"):
        assert f'"{name}"' in text
