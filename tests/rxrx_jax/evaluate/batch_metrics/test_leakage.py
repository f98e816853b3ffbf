"""The leakage probes on embeddings that are known to tell everything, nothing, or what is not a batch effect."""

import functools
import types

import numpy as np
import pytest

from rxrx_jax.data import Sites
from rxrx_jax.evaluate.batch_metrics import leakage
from rxrx_jax.simulate import design

NAMES = {f"x/{batch}_{what}" for batch in ("experiment", "plate") for what in ("accuracy", "floor")}


def table(screen=None):
    """The simulated screen's table, without images."""
    rows = design.sites(screen or design.Screen())
    column = lambda key: np.array([row[key] for row in rows])  # noqa: E731
    codes = lambda *keys: np.unique([" ".join(str(row[k]) for k in keys) for row in rows], return_inverse=True)[1]  # noqa: E731
    sites = Sites(
        split=column("split"),
        index=None,
        site_id=column("site_id"),
        well_id=column("well_id"),
        site=column("site"),
        well_type=column("well_type"),
        label=column("perturbation_id"),
        experiment=codes("experiment"),
        plate=codes("experiment", "plate"),
        cell_type=codes("cell_type"),
    )
    return types.SimpleNamespace(sites=sites)


DATASET = table()
ROWS = np.arange(len(DATASET.sites))


@functools.cache
def tells(*columns):
    """Embeddings that tell these columns of the table, one value per direction (of plates the number), and noise."""
    random, plates = np.random.default_rng(0), design.Screen().plates
    known = {name: getattr(DATASET.sites, name) % (plates if name == "plate" else 99) for name in columns}
    parts = [np.eye(codes.max() + 1)[codes] for codes in known.values()]
    noise = random.normal(size=(len(DATASET.sites), 4))
    signal = [4 * part + random.normal(size=part.shape) / 4 for part in parts]
    return np.concatenate([noise, *signal], 1).astype(np.float32)


def probe(features, rows=ROWS):
    return dict(leakage.score("x", features[rows], rows, DATASET))


def test_all_leaks():
    found = probe(tells("experiment", "plate"))
    assert found.keys() == NAMES
    assert found["x/experiment_accuracy"] > 0.99 and found["x/plate_accuracy"] > 0.99


def test_none_leaks_and_the_floors_are_those_of_the_screen():
    found = probe(tells())
    # Five, four and four experiments of as many wells: the largest of each cell type are 3 of 13. Four plates.
    assert found["x/experiment_floor"] == pytest.approx(3 / 13) and found["x/plate_floor"] == pytest.approx(1 / 4)
    assert found["x/experiment_accuracy"] == pytest.approx(3 / 13, abs=0.03)
    assert found["x/plate_accuracy"] == pytest.approx(0.25, abs=0.06)


def test_an_experiment_without_controls_is_counted():
    treated = DATASET.sites.well_type == "treatment"
    rows = ROWS[treated | (DATASET.sites.experiment > 1)]
    found = probe(tells(), rows)
    assert found.keys() == NAMES | {"x/plate_without_controls"} and found["x/plate_without_controls"] == 2
    assert probe(tells(), ROWS[treated])["x/plate_without_controls"] == 13


def test_the_cell_type_alone_is_not_a_leak():
    """Across cell types it would tell a quarter of the experiments, three times their floor."""
    assert probe(tells("cell_type"))["x/experiment_accuracy"] == pytest.approx(0.25, abs=0.03)


def test_the_perturbation_alone_is_not_a_leak():
    """Though each treatment sits on one plate: all wells together would tell it."""
    features, sites = tells("label"), DATASET.sites
    found = probe(features)
    assert found["x/plate_accuracy"] == pytest.approx(0.25, abs=0.06)
    assert found["x/experiment_accuracy"] == pytest.approx(3 / 13, abs=0.03)
    right, _, count, _ = leakage.read_off(features, sites.plate, sites.experiment, sites.well_id, sites.label)
    assert right / count > 0.8


def test_the_experiment_alone_does_not_tell_the_plate():
    found = probe(tells("experiment"))
    assert found["x/experiment_accuracy"] > 0.99 and found["x/plate_accuracy"] == pytest.approx(0.25, abs=0.06)


def test_what_a_well_alone_says_is_never_scored_on_its_own_sites():
    """An embedding of wells drawn at random says nothing about other wells, however alike the sites of one are."""
    _, well = np.unique(DATASET.sites.well_id, return_inverse=True)
    found = probe(np.random.default_rng(0).normal(size=(well.max() + 1, 32))[well])
    assert found["x/experiment_accuracy"] == pytest.approx(0.25, abs=0.04)


def test_groups_that_cannot_be_told_apart_are_left_out():
    """A cell type with one experiment would be right by itself; with only such cell types there is no probe."""
    sites = DATASET.sites
    names = np.array(["SIMA-01", "SIMA-02", "SIMB-01"])
    three = np.flatnonzero(np.isin([name.partition("_")[0] for name in sites.well_id], names))
    found = probe(tells(), three)
    assert found["x/experiment_floor"] == pytest.approx(1 / 2)
    one_each = three[np.char.find(sites.well_id[three], "SIMA-02") < 0]
    assert probe(tells(), one_each).keys() == {"x/plate_accuracy", "x/plate_floor"}
    assert probe(tells(), three[sites.well_type[three] == "treatment"]).keys() == {
        "x/experiment_accuracy",
        "x/experiment_floor",
        "x/plate_without_controls",
    }
    assert probe(tells(), three[:0]) == {}


def test_unequal_experiments_by_hand():
    """Wells alternate within each target; the floor counts the scored sites alone."""
    label = np.zeros(20, int)
    target = np.repeat([0, 1, 2], [10, 6, 4])
    well = np.array([f"{t}_{i}" for t, n in ((0, 10), (1, 6), (2, 4)) for i in range(n)])
    features = np.eye(3)[target]
    assert leakage.read_off(features, target, np.zeros(20), well, label) == (10, 5, 10, 0)
    given = np.where(target == 2, 1, 0)  # 2 stands alone
    assert leakage.read_off(features, target, given, well, label) == (8, 5, 8, 0)
    swapped = features[np.random.default_rng(0).permutation(20)]
    right, commonest, count, _ = leakage.read_off(swapped, target, np.zeros(20), well, label)
    assert right < count == 10 and commonest == 5


class Context:
    dataset = DATASET

    readings = {"": None, "adabn": None}

    def embeddings(self, reading):
        return ROWS, tells() if reading else tells("experiment")


def test_names_say_how_the_network_is_read():
    found = dict(leakage.evaluate(Context()))
    assert found.keys() == {name.replace("x/", f"{p}leakage/") for name in NAMES for p in ("", "adabn/")}
    assert found["leakage/experiment_accuracy"] > 0.9 > 0.5 > found["adabn/leakage/experiment_accuracy"]


@pytest.mark.parametrize("wells", [1, 2, 8])
def test_no_half_has_more_wells_of_a_perturbation(wells):
    """Else an embedding of the perturbation alone is below the floor: what one half has more of, the other lacks."""
    target, label, i = (x.ravel() for x in np.indices((3, 10, wells)))
    names = np.random.default_rng(0).permutation(len(target)).astype(str)
    right, _, count, _ = leakage.read_off(np.eye(10)[label], target, np.zeros(len(target)), names, label)
    assert count == len(target) / 2 and right == pytest.approx(count / 3, abs=1)
