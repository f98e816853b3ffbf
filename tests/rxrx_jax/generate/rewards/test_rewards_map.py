"""Rewards of a map: the frozen tower says what the run's does, the truth is the simulator's, and what does not fit."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rxrx_jax.base.config import Config
from rxrx_jax.base.errors import UserError
from rxrx_jax.generate import scalarise
from rxrx_jax.generate.rewards import map as of_map
from rxrx_jax.generate.rewards import towers
from rxrx_jax.generate.show import judge
from rxrx_jax.models.molecule import MoleculeHead, Towers, Wells, make_molecule_encoder
from rxrx_jax.molecules import environments, library, records, screen
from rxrx_jax.molecules.vocabulary import Vocabulary

pytest.importorskip("rdkit")
MODEL = dict(name="molecule", width=16, depth=1, mlp=16, heads=2, dropout=0.1, dtype="float32", remat="none")
SEED, OUTPUTS = 4, 8
SMILES = tuple(library.simulated(40, 1))
OTHERS = ["CCO", "c1ccccc1", SMILES[7]]


def make(members=2) -> towers.Frozen:
    """Towers of random parameters on a simulated screen."""
    atoms = [environments.environments(records.standardise.standardise(text, "largest").mol)[0] for text in SMILES]
    vocabulary = Vocabulary(tuple(np.unique(np.concatenate(atoms)).tolist()), (1, 2))
    of = Towers(make_molecule_encoder(Config(MODEL), vocabulary.size), MoleculeHead(OUTPUTS), Wells(OUTPUTS))
    views = {"tokens": jnp.ones((1, 3), jnp.int32), "distances": jnp.zeros((1, 3, 3), jnp.uint8)}
    params = []
    for key in jax.random.split(jax.random.key(0), members):
        params.append({
            "encoder": of.encoder.init(key, **views)["params"],
            "head": of.head.init(key, jnp.zeros((1, 16)))["params"],
            "wells": of.wells.init(key, jnp.zeros((1, screen.DIMENSIONS)))["params"],
            "dose_tokens": jax.random.normal(key, (3, 16)),
        })  # fmt: skip
    params = tuple(jax.tree.map(np.asarray, one) for one in params)
    genes, positions = screen.genes(SEED)
    centre, scale = np.linspace(-1, 1, screen.DIMENSIONS), np.linspace(1, 2, screen.DIMENSIONS)
    trained = np.arange(len(SMILES)) < 30
    given = (params, MODEL, OUTPUTS, screen.DOSES, vocabulary, genes, positions, centre, scale, SMILES, trained, SEED)
    return towers.Frozen(*given)


FROZEN = make()


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("tower") / "tower.npz"
    towers.save(path, FROZEN)
    return path


def test_a_file_holds_the_towers_and_padding_changes_nothing(file):
    read = towers.load(str(file))
    found = read.of_molecules(OTHERS)
    assert found.shape == (2, 3, OUTPUTS) and np.abs(found[0] - found[1]).max() > 0.01
    np.testing.assert_array_equal(found, FROZEN.of_molecules(OTHERS))
    assert read.genes == FROZEN.genes and read.library == SMILES and read.screen_seed == SEED
    one = records.featurise("CCO", FROZEN.vocabulary)
    distances = np.pad(one.distances, ((1, 0), (1, 0)))[None]
    views = {"tokens": np.append(FROZEN.vocabulary.cls, one.tokens)[None].astype(np.int32), "distances": distances}
    alone = FROZEN.towers.of_molecules(FROZEN.params[1], views, np.array([2]))  # the highest dose
    np.testing.assert_allclose(found[1, 0], alone[0], atol=1e-5)


def test_objectives_are_of_the_mean_the_lower_bound_and_the_simulator(file):
    mean, lower, oracle = (of_map.make_target(str(file), "SIM03", reward) for reward in of_map.REWARDS)
    gene = (FROZEN.positions[3] - FROZEN.centre) / FROZEN.scale
    gene = np.stack([FROZEN.towers.of_wells(p, gene[None].astype(np.float32))[0] for p in FROZEN.params])
    cosines = np.einsum("mnd,md->mn", FROZEN.of_molecules(OTHERS), gene)
    np.testing.assert_allclose(mean.objective(OTHERS), (1 + cosines.mean(0)) / 2, atol=1e-5)
    np.testing.assert_allclose(lower.objective(OTHERS), (1 + cosines.mean(0) - cosines.std(0)) / 2, atol=1e-5)
    truth = screen.simulate(SMILES, SEED).truth[:, -1]
    np.testing.assert_allclose(oracle.objective(SMILES), (1 + mean.true(SMILES)) / 2)
    wells = np.einsum("mnd,md->mn", FROZEN.of_wells(truth), gene).mean(0)
    np.testing.assert_allclose(mean.true(SMILES), wells, atol=1e-5)
    found = mean.beside(SMILES)
    np.testing.assert_allclose(found["gap"], found["predicted"] - found["true"])
    assert (found["applicability"][:30] == 1).all() and (found["applicability"][30:] < 1).all()
    acts = np.linalg.norm(truth, axis=1) > 0
    assert not found["phenotype"][~acts].any() and np.abs(found["phenotype"][acts]).min() > 0


def test_the_hidden_function_is_of_any_molecule_and_genes_of_the_seed():
    function, whole = screen.hidden(SMILES, SEED), screen.simulate(SMILES, SEED)
    truth, active, _ = function.effects(SMILES[5:9])
    np.testing.assert_allclose(truth, whole.truth[5:9], atol=1e-9)
    assert (active == whole.active[5:9]).all() and np.isfinite(function.effects(["CCO"])[0]).all()
    names, positions = screen.genes(SEED)
    assert names[3] == "SIM03" and not np.allclose(positions, screen.genes(SEED + 1)[1])


def test_what_is_generated_is_judged_by_the_truth(file):
    target = of_map.make_target(str(file), "SIM00", "mean")
    problem = of_map.problem(("similarity", "qed"), target, most=2)
    state = np.array([[1, -1], [2, -1], [1, -1], [3, -1]]), np.full((4, 2, problem.environment.slots), -1)
    values = problem.checked(state, problem.objectives(state))
    w = np.array([[1.0, 0], [0, 1]], np.float32)
    found = judge.judge(problem, scalarise.weighted_sum, w, state, values, 1)
    smiles = [problem.say(judge.row(state, i)) for i in range(4)]
    best = [int(values[:2, 0].argmax()), 2 + int(values[2:, 1].argmax())]
    true = (1 + target.true(smiles)) / 2
    assert found.numbers["top1_gap"] == pytest.approx(np.mean([2 * (values[i, 0] - true[i]) for i in best]), abs=1e-5)
    assert found.numbers["true/top1_reward"] == pytest.approx((true[best[0]] + values[best[1], 1]) / 2, abs=1e-5)
    assert [one["best"][0]["state"] for one in found.preferences] == [smiles[i] for i in best]
    near = FROZEN.nearest(smiles)[best].tolist()
    assert [one["best"][0]["applicability"] for one in found.preferences] == near and found.front[0]["similarity"] > 0
    listed = problem.listed(["CCO", *smiles])
    np.testing.assert_array_equal(listed.objectives(np.arange(1, 5)), values)
    assert listed.say(np.int64(0)) == "CCO" and listed.truth(np.array([2]), values[1:2])[0, 0] == pytest.approx(true[1])


def test_what_does_not_fit_is_one_line(file, tmp_path):
    single, real = tmp_path / "single.npz", tmp_path / "real.npz"
    towers.save(single, make(1))
    towers.save(real, dataclasses.replace(FROZEN, screen_seed=None))
    (tmp_path / "bad.npz").write_bytes(file.read_bytes()[:1000])
    cases = {
        (file, "SIM3", "mean"): "task.gene='SIM3' is not in the map of .*; near it are SIM.*SIM03",
        (file, "TP53\n", "mean"): "it has SIM00, SIM01, .* and others",
        (file, "SIM01", "median"): "task.reward='median': expected mean, lower, oracle",
        (single, "SIM01", "lower"): "needs several towers, and .* has one",
        (real, "SIM01", "oracle"): "is not of a simulated screen",
        (tmp_path / "bad.npz", "SIM01", "mean"): "is damaged or not a frozen tower",
        (tmp_path / "none.npz", "SIM01", "mean"): "no such file; make it with python -m rxrx_jax.freeze_tower",
        ("", "SIM01", "mean"): "task.tower names the file",
    }
    for (path, gene, reward), message in cases.items():
        with pytest.raises(UserError, match=message) as found:
            of_map.make_target(str(path), gene, reward)
        assert "\n" not in str(found.value)
    problem = of_map.problem(("similarity",), of_map.make_target(str(real), "SIM01", "mean"))
    assert problem.truth is None and "gap" not in of_map.make_target(str(real), "SIM01", "mean").beside(OTHERS)
    with pytest.raises(UserError, match="the map has no position of"):
        FROZEN.of_molecules(["C" * 300])
    assert json.dumps(FROZEN.model)
