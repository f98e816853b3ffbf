"""Whole runs of mogfn.py: they learn, resume exactly, and end in the target as far as can be computed."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from test_tasks_flow import flow, make, values

from rxrx_jax.base.config import load
from rxrx_jax.base.errors import UserError
from rxrx_jax.evaluate import pareto
from rxrx_jax.generate.show import judge
from rxrx_jax.training import metrics, train

SHORT = {"total_steps": 12, "log_steps": 4, "checkpoint_steps": 4, "data.minibatch": 8}


def evaluation(workdir):
    return [line for line in metrics.read(workdir / "metrics.jsonl") if line.get("final")][-1]


@pytest.mark.slow
def test_a_run_resumes_bit_for_bit_and_says_what_it_reached(tmp_path, capsys):
    settings = values(**SHORT)
    last = train.run(settings, tmp_path / "whole")
    with tiny.interrupted(7):
        train.run(settings, tmp_path / "stopped")
    again = train.run(settings, tmp_path / "stopped")
    assert again["parameters_sha256"] == last["parameters_sha256"] and last["done"] and not last["transductive"]
    found = evaluation(tmp_path / "whole")
    same = {k: v for k, v in evaluation(tmp_path / "stopped").items() if k != "seconds"}
    assert same.items() >= {k: v for k, v in found.items() if isinstance(v, float)}.items()
    assert 0 < found["total_variation"] <= found["total_variation_worst"] < 1 and 0 < found["hypervolume"] < 1
    assert found["hypervolume_share"] <= 1 + 1e-9 and found["r2"] > 0 and found["log_z_error"] > 0
    front = json.loads((tmp_path / "whole" / pareto.FRONT).read_text())
    assert front and set(front[0]) == {"state", "branin", "currin"}
    other = train.run(values(**SHORT | {"seed": 1}), tmp_path / "seed")
    assert other["parameters_sha256"] != last["parameters_sha256"]


@pytest.mark.slow
def test_strings_run_and_log_z_has_its_own_rate(tmp_path):
    few = {"steps": 2, "samples": 8, "exponents": (1.0,)}
    few = {"task.letters": "ACV", "task.length": 4, "evaluators.pareto": few}
    train.run(values("strings", **SHORT | few), tmp_path / "run")
    found = evaluation(tmp_path / "run")
    assert 0 < found["exponent_1/total_variation"] < found["total_variation"] < 1 and "top10_diversity" in found
    with pytest.raises(UserError, match="optim.lr_factors.logz=2.0: expected a number above 0, of log_z, policy"):
        train.run(values(**SHORT | {"optim.lr_factors": {"logz": 2.0}}), tmp_path / "other")


@pytest.mark.slow
def test_rewards_on_the_host_resume_bit_for_bit_too(tmp_path, monkeypatch):
    """The same objectives in numpy: trajectories are sampled before each step, which replays them."""

    def hosted(task):
        found = flow.make_grid(task)
        one = jax.jit(jax.vmap(found.objectives))
        return dataclasses.replace(found, objectives=lambda x: np.asarray(one(x)), on_host=True)

    settings = values(**SHORT)
    jitted = train.run(settings, tmp_path / "jitted")
    monkeypatch.setitem(flow.PROBLEMS, "grid", hosted)
    last = train.run(settings, tmp_path / "whole")
    with tiny.interrupted(7):
        train.run(settings, tmp_path / "stopped")
    assert train.run(settings, tmp_path / "stopped")["parameters_sha256"] == last["parameters_sha256"]
    found, other = evaluation(tmp_path / "whole"), evaluation(tmp_path / "jitted")
    assert found["total_variation"] == pytest.approx(other["total_variation"], abs=1e-3) and jitted["done"]


def context(task, workdir):
    return pareto.SampleContext(task, None, 8, workdir, 0)


def test_a_constant_objective_gives_no_hypervolume_and_is_named(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(flow.grid.OBJECTIVES, "branin", lambda x: jnp.float32(0.5))
    task = make()
    state = type("State", (), {"network": lambda self: (task.init(jax.random.key(0), None)["params"], {})})()
    found = dict(pareto.evaluate(context(task, tmp_path).use(state), steps=2, samples=8))
    assert found["hypervolume"] == 0 and "branin: constant over all samples" in capsys.readouterr().err
    assert found["follows_preference"] <= 0
    with pytest.raises(UserError, match="evaluators.pareto.exponents=.*: expected numbers above 0"):
        dict(pareto.evaluate(context(task, tmp_path).use(state), exponents=(0.0,)))


def test_following_a_preference_is_a_rank_correlation():
    w = np.array([[0, 1], [0.5, 0.5], [1, 0]])
    assert judge.follows(w, w**2) == 1 and judge.follows(w, 1 - w) == -1
    assert judge.follows(w, np.stack([w[:, 0], w[:, 0]], 1)) == -1


@pytest.mark.slow
def test_the_larger_a_weight_the_more_of_its_letter(tmp_path):
    few = {"total_steps": 80, "data.minibatch": 64, "evaluators.pareto": {"steps": 10, "samples": 64}}
    train.run(values("strings", **SHORT | few | {"model.width": 64, "task.length": 8}), tmp_path)
    assert evaluation(tmp_path)["follows_preference"] > 0.9


@pytest.mark.full
@pytest.mark.parametrize(("side", "most"), [(8, 0.03), (32, 0.08)])
def test_the_learned_distribution_is_the_target(tmp_path, capsys, side, most):
    """One policy for exponents from 0.8 to 40. At 1, 8 and 32 the total variation, by dynamic programming, is below
    `most` and log Z within 0.05 for eleven preferences, both ends among them, none of which was drawn; and the larger a
    weight, the larger its objective. The uniform policy's is printed."""
    train.run(load(f"mogfn.py:exact,side={side}"), tmp_path / "run")
    found = evaluation(tmp_path / "run")
    with capsys.disabled():
        print(f"\n{side} x {side}: {found}")
    assert found["exponent_32/total_variation_uniform"] > 0.5 and found["follows_preference"] > 0.9
    for prefix in ("exponent_1/", "exponent_8/", "exponent_32/"):
        assert found[f"{prefix}total_variation_worst"] < most, prefix
        assert found[f"{prefix}log_z_error"] < 0.05, prefix


@pytest.mark.full
def test_subtrajectory_balance_converges_too(tmp_path):
    """On 8 x 8 cells, the mean over eleven preferences; it needs more steps than trajectory balance."""
    train.run(load("mogfn.py:loss=subtb") | {"total_steps": 3000}, tmp_path / "run")
    found = evaluation(tmp_path / "run")
    assert found["total_variation"] < 0.03 and found["total_variation_uniform"] > 0.5, found
