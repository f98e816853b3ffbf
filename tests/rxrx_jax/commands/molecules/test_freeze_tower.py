"""A frozen tower is the run's, and rewards a generator that the simulator judges; what does not fit is refused."""

import json
import shutil

import numpy as np
import pytest
from test_predict_genes import made  # noqa: F401

from rxrx_jax import freeze_tower, searches, tower_ensembles
from rxrx_jax.base import command, config_flag
from rxrx_jax.base.config import load
from rxrx_jax.base.errors import UserError
from rxrx_jax.data.molecules import collate
from rxrx_jax.generate.rewards import towers
from rxrx_jax.training import metrics, train

pytest.importorskip("rdkit")
pytestmark = pytest.mark.slow


def freeze(*checkpoints, out, more=()):
    given = [f"--checkpoint={path}" for path in checkpoints]
    return command.run(freeze_tower.main, [*given, f"--out={out}", *more])


def test_it_is_the_towers_of_the_run(made, tmp_path, capsys):  # noqa: F811
    folder, source, task, params = made
    assert freeze(folder / "run", out=tmp_path / "tower.npz") == 0
    assert "1 towers and 16 genes" in capsys.readouterr().out
    frozen, library, rows = towers.load(str(tmp_path / "tower.npz")), source.dataset, np.arange(5)
    columns = collate(library, rows, 48)
    views = {name: columns[name] for name in ("tokens", "distances")}
    expected = task.of_molecules(params, views, np.full(5, len(library.doses) - 1))
    np.testing.assert_allclose(frozen.of_molecules(library.smiles[rows].tolist())[0], expected, atol=1e-5)
    x = frozen.positions[:3]
    expected = task.of_wells(params, ((x - library.centre) / library.scale).astype(np.float32))
    np.testing.assert_allclose(frozen.of_wells(x)[0], expected, atol=1e-5)
    truth = frozen.hidden.effects(library.smiles[rows].tolist())[0]
    np.testing.assert_allclose((truth - library.centre) / library.scale, library.truth[rows], atol=1e-4)
    assert frozen.trained.sum() == len(library.roles.fit)

    stage = load(f"mogfn.py:map,gene=SIM01,tower={tmp_path}/tower.npz")
    stage["task"] |= {"most": 2, "workers": 0}
    stage["model"] |= {"width": 8, "log_z_width": 8}
    stage["data"]["minibatch"] = 8
    stage |= {"total_steps": 3, "evaluators": {"pareto": {"steps": 1, "samples": 4, "top": 2}}}
    train.run(stage, tmp_path / "run")
    (last,) = [line for line in metrics.read(tmp_path / "run" / metrics.NAME) if line.get("final")]
    assert last["top2_gap"] == pytest.approx(last["top2_predicted"] - last["top2_true"], abs=1e-6)
    assert 0 < last["true/hypervolume"] < 1 and 0 <= last["top2_applicability"] <= 1
    shown = json.loads((tmp_path / "run" / "samples.json").read_text())["preferences"]
    assert len(shown) == 3 and {"state", "similarity", "true", "gap"} <= shown[0]["best"][0].keys()


def test_searches_for_a_gene(made, tmp_path):  # noqa: F811
    folder, source, *_ = made
    assert freeze(folder / "run", out=tmp_path / "tower.npz") == 0
    for method in ("library", "nsga2"):
        given = config_flag.values([f"--config=rxrx_jax/searches.py:method={method},on=map"])
        with pytest.raises(UserError, match="init.path is empty: give the workdir of a run of rxrx_jax.tower_ensemb"):
            searches.run(given, tmp_path / method)
        given["stage"]["task"]["most"], given["stage"]["total_steps"] = 2, 4
        given |= {"init": {"path": str(tmp_path)}, "lattice": 1, "samples": 8}
        searches.run(given, tmp_path / method)
        (found,) = [line for line in metrics.read(tmp_path / method / metrics.NAME) if line.get("final")]
        assert found["top10_gap"] == pytest.approx(found["top10_predicted"] - found["top10_true"], abs=1e-6)
        calls = {"library": len(source.dataset.roles.fit), "nsga2": 4 * 32 + 3 * 8}[method]
        assert found["reward_calls"] == calls and (found["top10_applicability"] == 1) == (method == "library")


@pytest.mark.full
def test_an_ensemble_is_of_one_screen(tmp_path):
    given = config_flag.values(["--config=rxrx_jax/tower_ensembles.py:members=2,seed=1"])
    given["stage"]["model"] |= dict(width=16, depth=1, mlp=16, heads=2)
    given["stage"]["data"] |= {"folder": str(tmp_path), "builder": dict(seed=1, count=60), "minibatch": 16}
    given["stage"] |= {"total_epochs": 2.0, "evaluate_epochs": 1.0, "evaluation_minibatch": 16}
    tower_ensembles.run(given, tmp_path / "run")
    frozen = towers.load(str(tmp_path / "run" / "tower.npz"))
    assert len(frozen.params) == 2 and frozen.screen_seed == 1
    assert np.abs(np.diff(frozen.of_molecules(["CCO"]), axis=0)).max() > 1e-3
    assert metrics.finished(tmp_path / "run" / metrics.NAME)


def test_what_does_not_fit_is_one_line(made, tmp_path, capsys):  # noqa: F811
    folder, *_ = made
    assert freeze(folder / "run", out=tmp_path / "x.npz", more=[f"--map={folder}/narrow"]) == 2
    assert "narrow has 5 genes with 5 features" in capsys.readouterr().err
    for name, key, value in (("apart", "data", {"screen_seed": 1}), ("step1", "task", {"name": "environments"})):
        shutil.copytree(folder / "run", tmp_path / name)
        text = json.loads((tmp_path / name / "config.json").read_text())
        text[key] |= value
        (tmp_path / name / "config.json").write_text(json.dumps(text))
    assert freeze(folder / "run", tmp_path / "apart", out=tmp_path / "x.npz") == 2
    assert "apart has another data than" in capsys.readouterr().err
    assert freeze(tmp_path / "step1", out=tmp_path / "x.npz") == 2
    assert "is of task.name=environments" in capsys.readouterr().err
    assert not (tmp_path / "x.npz").exists()
