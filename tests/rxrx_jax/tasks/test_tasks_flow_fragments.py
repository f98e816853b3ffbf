"""Runs of mogfn.py:fragments: molecules scored by RDKit on the host, bit for bit the same after an interruption."""

import json

import pytest
import tiny
from test_tasks_flow import values
from test_tasks_flow_runs import SHORT, evaluation

from rxrx_jax.evaluate import pareto
from rxrx_jax.training import train

FEW = {"task.most": 3, "task.workers": 0, "evaluators.pareto": {"steps": 1, "samples": 8}, "total_steps": 8}


@pytest.mark.slow
def test_molecules_run_and_resume_bit_for_bit(tmp_path):
    settings = values("fragments", **SHORT | FEW)
    last = train.run(settings, tmp_path / "whole")
    with tiny.interrupted(6):
        train.run(settings, tmp_path / "stopped")
    assert train.run(settings, tmp_path / "stopped")["parameters_sha256"] == last["parameters_sha256"]
    found = evaluation(tmp_path / "whole")
    assert 0 < found["hypervolume"] < 1 and 0 < found["top10_diversity"] <= 1 and "total_variation" not in found
    front = json.loads((tmp_path / "whole" / pareto.FRONT).read_text())
    assert front and set(front[0]) == {"state", "qed", "sa", "mw"} and isinstance(front[0]["state"], str)


@pytest.mark.slow
def test_moreinforce_runs_on_the_same_trainer(tmp_path):
    train.run(
        values("loss=reinforce", **SHORT | {"total_steps": 4, "evaluators.pareto": {"steps": 2, "samples": 8}}),
        tmp_path,
    )
    assert 0 < evaluation(tmp_path)["hypervolume"] < 1
