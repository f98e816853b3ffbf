"""Objectives of trees of pieces are those of their molecules, computed on the host."""

import math

import numpy as np
import pytest
from reference.peers.generate import seh as torch_seh

from rxrx_jax.base.errors import UserError
from rxrx_jax.generate import genetic
from rxrx_jax.generate.rewards import chemistry, fragments, proxy


def terminal(environment, count=12):
    rng = np.random.default_rng(0)
    trees = [genetic.random_tree(rng, environment) for _ in range(count)]
    found = zip(*[genetic.arrays(environment, tree) for tree in trees])
    return tuple(map(np.stack, found)), [genetic.smiles(environment, tree) for tree in trees]


def test_they_are_those_of_the_molecules(tmp_path):
    np.savez(tmp_path / "seh.npz", **torch_seh.weights())
    problem = fragments.problem(("sa", "seh", "qed"), weights=str(tmp_path / "seh.npz"))
    given, smiles = terminal(problem.environment)
    found = problem.objectives(given)
    expected = chemistry.Rewards(("sa", "qed"))(smiles)
    seh = np.clip(proxy.predict(torch_seh.weights(), smiles) / 8, 0, 1)
    np.testing.assert_allclose(found, np.stack([expected[:, 0], seh, expected[:, 1]], 1), atol=1e-6)
    np.testing.assert_array_equal(found, problem.objectives(given))
    assert problem.on_host and problem.say([x[3] for x in given]) == smiles[3]
    apart = problem.distances(given)
    assert apart.shape == (12, 12) and not np.diag(apart).any() and 0.5 < apart[0, 1:].mean() <= 1


def test_bad_input(monkeypatch, tmp_path):
    with pytest.raises(UserError, match="set task.proxy=seh_proxy.npz"):
        fragments.problem(("seh",))
    with pytest.raises(UserError, match="'logp' is unknown; expected qed, sa, mw, seh"):
        fragments.problem(("logp",))
    with pytest.raises(UserError, match="task.most=0"):
        fragments.problem(("mw",), most=0)
    problem = fragments.problem(("mw",))
    given, smiles = terminal(problem.environment, 1)
    monkeypatch.setitem(chemistry.OBJECTIVES, "mw", lambda mol: math.nan)
    with pytest.raises(UserError, match="the objective mw of .* is nan"):
        problem.objectives(given)
