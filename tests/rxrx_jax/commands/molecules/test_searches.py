"""Searches that are compared: equal budgets, the best of what was scored, and runs of each kind."""

import json

import numpy as np
import pytest

from rxrx_jax import searches, tables
from rxrx_jax.base import config_flag
from rxrx_jax.base.errors import UserError
from rxrx_jax.evaluate import pareto as evaluator
from rxrx_jax.generate import pareto, scalarise
from rxrx_jax.generate.rewards import Problem
from rxrx_jax.generate.show import judge
from rxrx_jax.report import runs
from rxrx_jax.training import metrics


def values(method, on, **changes):
    found = config_flag.values([f"--config=rxrx_jax/searches.py:method={method},on={on},seed=2"])
    found["stage"]["model"] |= {"width": 8, "log_z_width": 8}
    found["stage"]["data"]["minibatch"] = 16
    for key, value in changes.items():
        part = found["stage"]["task"] if key in found["stage"]["task"] else found["stage"]
        part[key] = value
    return found | {"lattice": 2, "samples": 16}


def test_rows_of_a_table_have_equal_budgets(tmp_path):
    for name in ("mogfn", "mogfn_fragments", "mogfn_map"):
        table = tables.load(name)
        found = [runs.values(run, tmp_path, 1) for run in table.runs if run.module == "rxrx_jax.searches"]
        budgets = {}
        for one in found:
            stage = one["stage"]
            assert stage["seed"] == one["seed"] == 1 and stage["evaluators"] == {}
            budget = stage["total_steps"], stage["data"]["minibatch"], one["lattice"], one["samples"]
            budgets.setdefault(stage["task"]["environment"], set()).add(budget)
        assert all(len(one) == 1 for one in budgets.values()) and len(budgets) == (2 if name == "mogfn" else 1)
    changed = {run.name: runs.values(run, tmp_path, 1)["stage"]["task"] for run in tables.load("mogfn").runs}
    assert changed["strings-beta"]["exponents"] == (4.0, 4.0) and changed["strings-mogfn"]["exponents"] == (16.0, 16.0)
    assert changed["grid-mean"]["preference"] == (0.5, 0.5) and changed["grid-reinforce"]["exponents"] == (1.0, 1.0)


def test_the_best_of_all_is_of_different_states_and_of_the_preference():
    problem = searches.make(values("search", "grid")["stage"]).problem
    states = np.array([[0.0, 0], [1, 0], [0, 1], [1, 0]], np.float32)
    points = np.array([[0.1, 0.9], [0.8, 0.2], [0.5, 0.5], [0.8, 0.2]])
    w = np.array([[1.0, 0], [0, 1]], np.float32)
    chosen, found = judge.best_of_all(problem, scalarise.weighted_sum, w, states, points, 2)
    np.testing.assert_array_equal(found, points[[1, 2, 0, 2]])
    np.testing.assert_array_equal(chosen, states[[1, 2, 0, 2]])
    assert judge.best_of_all(problem, scalarise.weighted_sum, w, states, points, 5)[1].shape == (10, 2)


def test_objects_that_are_there_twice_count_once():
    names, w = np.array(["CCO", "OCC", "CCN", "CCO"]), np.array([[0.5, 0.5]], np.float32)
    alike = lambda x: 1 - (names[x][:, None] == names[x]).astype(float)  # noqa: E731
    beside = lambda x: {"gap": x.astype(float)}  # noqa: E731
    problem = Problem(None, ("a", "b"), None, alike, lambda i: str(names[i]), True, beside=beside)
    points = np.array([[0.9, 0.5], [0.4, 0.4], [0.2, 0.8], [0.9, 0.5]])
    found = judge.judge(problem, scalarise.weighted_sum, w, np.arange(4), points, 2)
    assert found.numbers["unique"] == 0.75 and found.numbers["top2_diversity"] == 1
    assert found.numbers["top2_reward"] == pytest.approx(0.6, abs=1e-6) and found.numbers["top2_gap"] == 1
    assert [one["state"] for one in found.front] == ["CCN", "CCO"] and len(found.preferences[0]["best"]) == 2


def test_a_genetic_algorithm_makes_as_many_calls_on_cells_and_letters():
    for on, states in (("grid", 16), ("strings", 20)):
        problem, found, points = searches.evolved(searches.make(values("nsga2", on)["stage"]), 150, 0)
        assert len(points) == 150 and np.isfinite(points).all()
        whole = found * 15 if on == "grid" else found
        assert (whole == np.round(whole)).all() and whole.min() >= 0 and whole.max() < states
        np.testing.assert_allclose(searches.objectives(problem, found[-3:]), points[-3:], atol=1e-6)


@pytest.mark.parametrize("argument", ["method=annealing", "on=maze", "method=library,on=grid"])
def test_mistakes_are_one_line(argument):
    with pytest.raises(UserError, match="config argument (method|on)=") as found:
        searches.get_config(argument)
    assert "\n" not in str(found.value)


@pytest.mark.slow
def test_policies_are_judged_for_all_preferences(tmp_path):
    numbers = {}
    for method in ("mogfn", "mean", "each", "random"):
        given = values(method, "strings", letters="ACV", length=3, total_steps=6)
        searches.run(given, tmp_path / method)
        (numbers[method],) = [x for x in metrics.read(tmp_path / method / metrics.NAME) if x.get("final")]
        samples = json.loads((tmp_path / method / evaluator.SAMPLES).read_text())
        assert len(samples["preferences"]) == len(pareto.simplex(2, 2)) and samples["objectives"] == ["A", "C"]
    calls = {method: found["reward_calls"] for method, found in numbers.items()}
    assert calls == {"mogfn": 6 * 16 + 48, "mean": 6 * 16 + 48, "each": 6 * 16 + 48, "random": 48}
    assert (tmp_path / "each" / "policy2").is_dir() and metrics.finished(tmp_path / "mean" / metrics.NAME)


@pytest.mark.slow
def test_molecules_of_a_genetic_algorithm_are_different():
    pytest.importorskip("rdkit")
    task = searches.make(values("nsga2", "fragments", most=3)["stage"])
    problem, states, points = searches.evolved(task, 80, 0)
    smiles = [problem.say(i) for i in states]
    assert len(set(smiles)) == len(smiles) == len(points) <= 80
    np.testing.assert_allclose(problem.objectives(states[:4]), points[:4])
