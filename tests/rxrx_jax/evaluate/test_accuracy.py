"""Accuracies of a small table computed by hand, and their confidence interval."""

import dataclasses
import itertools
import math
import types

import numpy as np
import pytest

from rxrx_jax.adapt.method import Method
from rxrx_jax.adapt.statistics.adabn import AdaBN
from rxrx_jax.base.config import Config
from rxrx_jax.base.errors import UserError
from rxrx_jax.data import Roles, Sites
from rxrx_jax.evaluate import accuracy, make_evaluators
from rxrx_jax.evaluate.accuracy import summarise
from rxrx_jax.evaluate.intervals import over_experiments
from rxrx_jax.evaluate.predict import make_readings


def table(rows):
    """A dataset of (well, label, experiment, cell_type) rows."""
    well, label, experiment, cell_type = zip(*rows)
    names = {field.name: np.array([""] * len(rows)) for field in dataclasses.fields(Sites)}
    names |= {"well_id": np.array(well), "label": np.array(label, np.int32)}
    names |= {"experiment": np.array(experiment, np.int32), "cell_type": np.array(cell_type, np.int32)}
    return types.SimpleNamespace(
        sites=Sites(**names),
        experiments=["A-01", "A-02", "B-01"],
        cell_types=["A", "B"],
        plates=[],
        classes=["x", "y", "z"],
    )


DATASET = table(
    [
        ("A-01_1_B02", 0, 0, 0),  # right: .9
        ("A-01_1_B02", 0, 0, 0),  # wrong: .3, but the well is right
        ("A-01_1_B03", 1, 0, 0),  # right: .4, but the well is wrong
        ("A-01_1_B03", 1, 0, 0),  # wrong: .2
        ("A-02_1_B02", 2, 1, 0),  # right
        ("A-02_1_B02", -1, 1, 0),  # unknown: left out
        ("B-01_1_B02", 1, 2, 1),  # wrong
        ("B-01_1_B02", 1, 2, 1),  # right, sure enough for the well
        ("B-01_1_B04", 0, 2, 1),  # not asked for
    ]
)
PROBABILITIES = np.array(
    [
        [0.9, 0.05, 0.05],
        [0.3, 0.6, 0.1],
        [0.3, 0.4, 0.3],
        [0.7, 0.2, 0.1],
        [0.1, 0.2, 0.7],
        [0.1, 0.8, 0.1],
        [0.5, 0.4, 0.1],
        [0.1, 0.8, 0.1],
    ]
)
ROWS = np.arange(8)


def logits_of(probabilities):
    """Any logits with these probabilities: each row has its own offset."""
    return (np.log(probabilities) + np.arange(len(probabilities))[:, None] * 3).astype(np.float32)


def test_a_table_by_hand():
    found = dict(summarise("cross_batch", logits_of(PROBABILITIES), ROWS, DATASET))
    strata = {"A-01": "A", "A-02": "A", "B-01": "B"}
    sites, wells = (over_experiments(dict(zip(strata, values)), strata) for values in ([0.5, 1, 0.5], [0.5, 1, 1]))
    expected = {
        "cross_batch/sites": 7,
        "cross_batch/site_accuracy": 4 / 7,
        "cross_batch/balanced_accuracy": (1 / 2 + 2 / 4 + 1) / 3,
        "cross_batch/site_accuracy/A": 3 / 5,
        "cross_batch/site_accuracy/B": 1 / 2,
        "cross_batch/site_accuracy/A-01": 2 / 4,
        "cross_batch/site_accuracy/A-02": 1,
        "cross_batch/site_accuracy/B-01": 1 / 2,
        "cross_batch/site_accuracy_ci_low": max(0, sites.low),
        "cross_batch/site_accuracy_ci_high": min(1, sites.high),
        "cross_batch/site_accuracy_ci": sites.how,
        "cross_batch/experiments": '{"A": ["A-01", "A-02"], "B": ["B-01"]}',
        "cross_batch/wells": 4,
        "cross_batch/well_accuracy": 3 / 4,
        "cross_batch/well_accuracy/A": 2 / 3,
        "cross_batch/well_accuracy/B": 1,
        "cross_batch/well_accuracy/A-01": 1 / 2,
        "cross_batch/well_accuracy/A-02": 1,
        "cross_batch/well_accuracy/B-01": 1,
        "cross_batch/well_accuracy_ci_low": max(0, wells.low),
        "cross_batch/well_accuracy_ci_high": min(1, wells.high),
        "cross_batch/well_accuracy_ci": wells.how,
    }
    assert found == pytest.approx(expected)
    assert "t over 3 experiments within 2 cell types (2/1; A, B: fewer than 3" in sites.how


def test_a_well_averages_probabilities_and_not_logits():
    probabilities = np.array([[0.4, 0.6 - 1e-9, 1e-9], [0.15, 1e-4, 0.85 - 1e-4]])
    assert probabilities.mean(0).argmax() == 2 and np.log(probabilities).mean(0).argmax() == 0
    for label, expected in ((0, 0), (1, 0), (2, 1)):
        dataset = table([("A-01_1_B02", label, 0, 0)] * 2)
        found = dict(summarise("x", logits_of(probabilities), np.arange(2), dataset))
        assert found["x/well_accuracy"] == expected


def test_a_well_with_a_missing_site_is_scored_by_the_other():
    there = np.delete(ROWS, 7)
    found = dict(summarise("x", logits_of(PROBABILITIES)[there], there, DATASET))
    assert (found["x/sites"], found["x/wells"]) == (6, 4)
    assert found["x/well_accuracy/B-01"] == 0 and found["x/well_accuracy"] == 2 / 4


def test_the_order_of_rows_does_not_matter():
    order = np.random.default_rng(0).permutation(8)
    shuffled = dict(summarise("x", logits_of(PROBABILITIES)[order], ROWS[order], DATASET))
    assert shuffled == pytest.approx(dict(summarise("x", logits_of(PROBABILITIES), ROWS, DATASET)))


def test_only_unknown_labels_give_nothing():
    assert list(summarise("x", logits_of(PROBABILITIES[5:6]), ROWS[5:6], DATASET)) == []


def test_one_experiment_has_no_interval():
    found = dict(summarise("x", logits_of(PROBABILITIES[:4]), ROWS[:4], DATASET))
    assert found["x/site_accuracy"] == 0.5
    assert math.isnan(found["x/site_accuracy_ci_low"]) and math.isnan(found["x/well_accuracy_ci_high"])


def test_a_class_that_a_probe_never_saw_has_probability_zero():
    logits = np.array([[-np.inf, np.log(0.3), np.log(0.7)]])
    assert dict(summarise("x", logits, ROWS[4:5], DATASET))["x/site_accuracy"] == 1


class Context:
    """Predictions of three roles, validation without rows."""

    roles = Roles(scored={"in_batch": ROWS[:4], "validation": ROWS[:0], "cross_batch": ROWS[4:]})
    dataset = types.SimpleNamespace(**vars(DATASET), roles=roles)
    readings = {"": Method(), "mine": AdaBN(read="plate")}

    def __init__(self):
        self.asked = []

    def marks(self, where, extra):
        return extra

    def predict(self, role, reading):
        self.asked.append((role, reading))
        rows = self.roles.scored[role]
        return {"row": rows, "logits": logits_of(PROBABILITIES)[rows]} if len(rows) else {"row": rows}


def test_names_say_role_and_how_the_network_is_read():
    context = Context()
    found = dict(accuracy.evaluate(context))
    assert found["in_batch/site_accuracy"] == 0.5 and found["mine/cross_batch/site_accuracy"] == 2 / 3
    assert found["marks/mine/cross_batch"] == "T"
    assert {name.rpartition("_batch/")[0] for name in found if not name.startswith("marks/")} == {
        "in",
        "cross",
        "mine/in",
        "mine/cross",
    }
    assert not any("validation" in name for name in found)
    assert set(context.asked) == set(itertools.product(context.roles.scored, ("", "mine")))


def test_evaluators_are_found_by_name_and_their_settings_checked():
    chosen = make_evaluators(Config({"probe": {"blocks": [1, 2]}, "accuracy": {}}, "evaluators."))
    assert [(name, settings) for name, _, settings in chosen] == [
        ("probe", {"blocks": (1, 2)}),
        ("accuracy", {}),
    ]
    assert chosen[1][1] is accuracy.evaluate
    with pytest.raises(UserError, match="evaluators.f1: expected one of accuracy"):
        make_evaluators(Config({"f1": {}}))
    with pytest.raises(UserError, match="evaluators.accuracy.statistic: accuracy takes no settings"):
        make_evaluators(Config({"accuracy": {"statistic": "plate"}}))


def test_methods_to_also_read_a_network_by_are_checked():
    shares = {"experiment": (0.5, 0.5), "plate": (1.0,)}
    make = lambda has_batch_norm=True, **post_hoc: make_readings(  # noqa: E731
        Config({"post_hoc": post_hoc}), Method(), shares, has_batch_norm
    )
    found = make(mine={"name": "adabn", "read": "plate"})
    assert found == {"": Method(), "mine": AdaBN((0.5, 0.5), read="plate")} and make() == {"": Method()}
    for post_hoc, message in (
        (
            {"mine": {"name": "adabn", "read": "well"}},
            "mine.read='well': expected minibatch, experiment or plate",
        ),
        ({"mine": {"name": "corall"}}, "post_hoc.mine.name='corall'"),
        ({"mine": {"name": "adabn", "x": 1}}, "post_hoc.mine.x: AdaBN takes train, read, context, support"),
    ):
        with pytest.raises(UserError, match=message):
            make(**post_hoc)
    with pytest.raises(UserError, match="post_hoc.mine: this model has no BatchNorm"):
        make(False, mine={"name": "adabn"})
