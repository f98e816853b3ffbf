"""Objectives of molecules are RDKit's; each molecule is computed once; a killed worker is started again."""

import math
import os
import signal

import numpy as np
import pytest

from rxrx_jax.base.errors import UserError
from rxrx_jax.generate.environments import assemble
from rxrx_jax.generate.environments.fragments import Fragments
from rxrx_jax.generate.rewards import chemistry
from rxrx_jax.molecules import library

SMILES = ("CC(=O)Oc1ccccc1C(=O)O", "CCO", "c1ccc2c(c1)ccc1ccccc12", "CC1(C)SC2C(NC(=O)Cc3ccccc3)C(=O)N2C1C(=O)O")


def test_objectives_are_rdkits():
    from rdkit import Chem
    from rdkit.Chem import QED, Descriptors

    smiles = [*SMILES, *library.simulated(30)]
    found = chemistry.Rewards()(smiles)
    for one, (qed, sa, mw) in zip(smiles, found):
        mol = Chem.MolFromSmiles(one)
        assert qed == QED.qed(mol) and sa == (10 - chemistry._scorer().calculateScore(mol)) / 9
        assert mw == pytest.approx(min(1, (1000 - Descriptors.MolWt(mol)) / 700), abs=1e-12)
    assert found.shape == (34, 3) and found.dtype == np.float64
    # What the literature has of aspirin: QED 0.550 (RDKit's documentation), SA 1.58, and 180.16 Da.
    np.testing.assert_allclose(found[0], [0.5501, (10 - 1.58) / 9, 1], atol=1e-3)


def test_the_term_of_weight():
    assert [chemistry.weight_term(x) for x in (18, 300, 650, 1000, 1500)] == [1, 1, 0.5, 0, 0]


def test_a_molecule_is_computed_once(monkeypatch):
    seen = []
    monkeypatch.setitem(chemistry.OBJECTIVES, "qed", lambda mol: seen.append(mol.GetNumAtoms()) or 0.5)
    rewards = chemistry.Rewards(("mw", "qed"))
    found = rewards(["CCO", "OCC", "CCC", "CCO"])
    assert found.tolist() == [[1, 0.5]] * 4 and (rewards.calls, rewards.computed, len(seen)) == (4, 2, 2)
    rewards(["C(C)O"])
    assert (rewards.calls, rewards.computed) == (5, 2) and rewards([]).shape == (0, 2)


@pytest.mark.parametrize("value", [math.nan, math.inf, -0.1, 1.5])
def test_an_objective_that_is_no_reward_is_named_with_its_molecule(monkeypatch, value):
    monkeypatch.setitem(chemistry.OBJECTIVES, "qed", lambda mol: value if mol.GetNumAtoms() == 3 else 0.5)
    with pytest.raises(UserError, match=f"the objective qed of CCO is {value}: expected a finite number from 0"):
        chemistry.Rewards(("mw", "qed"))(["CC", "OCC"])


def test_bad_input(monkeypatch):
    with pytest.raises(UserError, match="the objective 'logp' is unknown; expected qed, sa, mw"):
        chemistry.Rewards(("qed", "logp"))
    with pytest.raises(UserError, match="different objectives"):
        chemistry.Rewards(("qed", "qed"))
    with pytest.raises(UserError, match="workers=-1"):
        chemistry.Rewards(workers=-1)
    with pytest.raises(UserError, match=r"invalid SMILES 'C1CC'"):
        chemistry.Rewards()(["CC", "C1CC"])
    chemistry._scorer.cache_clear()
    from rdkit import RDConfig

    monkeypatch.setattr(RDConfig, "RDContribDir", "/nowhere")
    with pytest.raises(UserError, match="/nowhere/SA_Score/sascorer.py is missing"):
        chemistry.Rewards(("sa",))(["CC"])


def test_without_rdkit_one_line_names_the_extra(without_rdkit):
    assemble.tables.cache_clear()
    for use in (chemistry.Rewards, Fragments):
        with pytest.raises(UserError, match=r"pip install 'rxrx_jax\[molecules\]'"):
            use()


@pytest.mark.slow
def test_a_killed_worker_is_restarted_and_counted(capsys):
    smiles = library.simulated(60)
    with chemistry.Rewards(workers=2) as rewards:
        first = rewards(smiles[:30])
        process = next(iter(rewards._pool._processes))
        os.kill(process, signal.SIGKILL)
        second = rewards(smiles)
        assert rewards.restarts == 1 and (rewards.calls, rewards.computed) == (90, 60)
    assert rewards._pool is None and "a reward worker was killed; restarted, 1 so far" in capsys.readouterr().err
    expected = chemistry.Rewards()(smiles)
    np.testing.assert_array_equal(first, expected[:30])
    np.testing.assert_array_equal(second, expected)
