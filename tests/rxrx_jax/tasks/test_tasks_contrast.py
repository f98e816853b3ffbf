"""Molecules against wells: means and weights of replicates, the loss by a loop, the dose as a token, ranks, the
simulated screen, and a run on random trees that finds wells of trees it has not seen."""

import dataclasses

import jax
import numpy as np
import pytest

from rxrx_jax.base.config import Config, load
from rxrx_jax.base.errors import UserError
from rxrx_jax.data import molecules
from rxrx_jax.data.batch import Batch
from rxrx_jax.data.molecules import phenomics
from rxrx_jax.data.molecules.noise import trees, with_wells
from rxrx_jax.data.sampler import BucketSampler
from rxrx_jax.evaluate.molecules import predicted_wells, ranks
from rxrx_jax.tasks import make_task
from rxrx_jax.training import metrics, train

LIBRARY = with_wells(trees(60, atoms=(3, 12)), 0)
SIZE = {"width": 16, "depth": 2, "mlp": 32, "heads": 2, "dropout": 0.0}


def source(library=LIBRARY, size=8):
    rows = library.roles.fit
    return molecules.Molecules(library, BucketSampler(rows, library.atoms[rows], size, molecules.BUCKETS, 0))


def values():
    found = load("molecule_map.py:dropout=0.0")
    found["model"] |= SIZE
    return found


@pytest.fixture(scope="module")
def task():
    return make_task(Config(values()), source())


@pytest.fixture(scope="module")
def params(task):
    return task.init(jax.random.key(0), jax.tree.map(lambda x: np.ones(x.shape, x.dtype), source().view))["params"]


def test_replicates_are_averaged_and_weigh_what_they_agree():
    library, rng = trees(10, atoms=(3, 5)), np.random.default_rng(0)
    row, dose = np.array([0, 0, 0, 1, 1, 8]), np.array([1.0, 1.0, 1.0, 1.0, 9.0, 9.0])
    x = rng.normal(size=(6, 4))
    found = phenomics.of_wells(library, row, dose, x)
    assert found.doses == (1.0, 9.0) and found.screened.shape == (10, 2, 5) and len(found.targets) == 10
    fit = np.stack([x[:3].mean(0), x[3], x[4]])  # row 8 is validation
    np.testing.assert_allclose(found.screened[0, 0, :4], (fit[0] - fit.mean(0)) / fit.std(0), rtol=1e-5)
    cosine = np.corrcoef(x[:3])  # for its shape
    for i in range(3):
        for j in range(3):
            cosine[i, j] = x[i] @ x[j] / np.linalg.norm(x[i]) / np.linalg.norm(x[j])
    assert found.screened[0, 0, 4] == pytest.approx(max(cosine[np.triu_indices(3, 1)].mean(), 0), abs=1e-6)
    assert found.screened[1, 0, 4] == 0  # of one well nothing is known
    assert np.isnan(found.screened[2]).all() and np.isnan(found.screened[0, 1]).all()
    np.testing.assert_array_equal(found.read([8, 0])[1].targets, found.screened[0].ravel())
    assert found.digest != phenomics.of_wells(library, row, dose, 2 * x + x[::-1]).digest
    with pytest.raises(UserError, match="33 concentrations"):
        phenomics.of_wells(library, np.zeros(33, int), np.arange(33.0), rng.normal(size=(33, 2)))
    with pytest.raises(UserError, match="fewer than two training molecules"):
        phenomics.of_wells(library, row[5:], dose[5:], x[5:])


def test_the_loss_is_that_of_a_loop(task, params):
    columns = next(source().minibatches(0, 1))["train"]
    columns["targets"] = columns["targets"].copy()
    columns["targets"][3] = np.nan  # not screened
    views = {name: columns[name] for name in ("tokens", "distances")}
    key, keys = jax.random.key(5), jax.random.split(jax.random.key(1), 8)
    batch = Batch((views,), columns, keys, (), 8)
    value, (_, found) = task.loss(params, {}, batch, key, 0.0)
    dose = jax.random.randint(jax.random.fold_in(key, 1), (8,), 0, 3)
    ours, theirs, weight = map(np.asarray, task._towers(params, views, columns["targets"], dose))
    assert weight[3] == -1 and (weight[[0, 1, 2]] >= -1).all()
    there, total = [i for i in range(8) if weight[i] >= 0], 0.0
    for i in there:
        cosine = ours @ theirs.T / 0.1
        row = np.log(np.exp(cosine[i, there]).sum()) - cosine[i, i]
        column = np.log(np.exp(cosine[there, i]).sum()) - cosine[i, i]
        total += weight[i] * (row + column) / 2
    assert value == pytest.approx(total / weight[there].sum(), rel=1e-4)
    assert 0 <= found["retrieved"] <= 1


def test_the_dose_is_a_token_and_padding_is_not(task, params):
    rows = np.arange(6)
    of = lambda atoms, dose: task.scored(params, molecules.collate(LIBRARY, rows, atoms), None, dose)  # noqa: E731
    small, large, other = of(32, 0), of(48, 0), of(32, 2)
    np.testing.assert_allclose(small["molecule"], large["molecule"], atol=1e-6)
    np.testing.assert_array_equal(small["wells"], large["wells"])
    assert np.abs(np.asarray(small["molecule"]) - other["molecule"]).max() > 1e-4
    measured = LIBRARY.screened[rows, 2, -1]
    np.testing.assert_allclose(other["weight"], np.where(np.isnan(measured), -1, measured))


def test_ranks_count_what_is_more_alike():
    query = np.eye(3)
    assert ranks(query, np.eye(3)).tolist() == [0, 0, 0]
    assert ranks(query, np.array([[1, 1, 0], [2.0, 0, 0], [0, 0, 1]])).tolist() == [1, 1.5, 0]
    rng = np.random.default_rng(0)
    query, candidates = rng.normal(size=(2, 1500, 4))
    cosine = (query @ candidates.T) / np.linalg.norm(query, axis=1)[:, None] / np.linalg.norm(candidates, axis=1)
    np.testing.assert_array_equal(ranks(query, candidates), (cosine > np.diagonal(cosine)[:, None]).sum(1))


def test_what_simple_models_predict_knows_no_scored_wells():
    rows = LIBRARY.roles.scored["test"]
    found = predicted_wells(LIBRARY, rows)
    wells = LIBRARY.screened.copy()
    wells[rows] = 1e6
    again = predicted_wells(dataclasses.replace(LIBRARY, screened=wells), rows)
    np.testing.assert_array_equal(found["dose"], again["dose"])
    np.testing.assert_array_equal(found["oracle"], LIBRARY.truth[rows])


def test_similarities_are_those_of_rdkit():
    pytest.importorskip("rdkit")
    from rdkit import Chem, DataStructs
    from rdkit.Chem import rdFingerprintGenerator

    from rxrx_jax.molecules import fingerprints, library

    smiles = library.simulated(12, 3)
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048)
    bits = [generator.GetFingerprint(Chem.MolFromSmiles(text)) for text in smiles]
    expected = [[DataStructs.TanimotoSimilarity(one, other) for other in bits[5:]] for one in bits[:5]]
    x = fingerprints.morgan(smiles)
    np.testing.assert_allclose(fingerprints.tanimoto(x[:5], x[5:]), expected, atol=1e-6)
    assert not fingerprints.tanimoto(np.zeros((1, 4)), np.zeros((2, 4))).any()


def test_the_simulated_screen_is_of_structures():
    pytest.importorskip("rdkit")
    from rxrx_jax.molecules import library, screen

    smiles = library.simulated(200, 1)
    found, again, other = (screen.simulate(smiles, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(found.wells, again.wells)
    assert not np.allclose(found.truth, other.truth)
    assert found.truth.shape == (200, 3, 32) and found.wells.shape == (200, 3, 4, 32)
    assert 0.5 < (~found.active).mean() < 0.68 and 0.02 < found.cliff.mean() < 0.11
    assert not found.truth[~found.active].any() and (np.linalg.norm(found.truth[found.active], axis=2) > 0).all()
    size = np.linalg.norm(found.truth[found.active], axis=2)
    assert (np.diff(size, axis=1) > 0).all()  # with the dose
    assert 0.9 < (found.wells - found.truth[:, :, None]).std() < 1.1


SOURCE = """
from rxrx_jax.data import molecules
from rxrx_jax.data.molecules.noise import trees, with_wells

def make(config, roles):
    config.data.screen_seed
    return molecules.make(config, with_wells(trees(**config.data.builder.as_kwargs()), 0))
"""


@pytest.mark.full
def test_wells_of_trees_that_were_not_seen_are_found(tmp_path):
    (tmp_path / "screened.py").write_text(SOURCE)
    found = values()
    del found["data"]["phenomics"]
    found["data"] |= {
        "source": str(tmp_path / "screened.py"),
        "builder": dict(count=600, atoms=(3, 12)),
        "minibatch": 32,
    }
    found |= {"evaluation_minibatch": 32, "total_epochs": 12.0, "evaluate_epochs": 3.0}
    train.run(found, tmp_path / "run")
    last = [line for line in metrics.read(tmp_path / "run" / metrics.NAME) if line.get("final")][-1]
    assert last["test/top_5_percent"] > 2 * max(last["test/chance/top_5_percent"], last["test/dose/top_5_percent"])
    assert last["test/oracle/top_5_percent"] > last["test/top_5_percent"] > last["test/inactive/top_5_percent"]
