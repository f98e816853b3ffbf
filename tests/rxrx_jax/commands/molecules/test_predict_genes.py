"""Genes that a structure is predicted to be like: what is written is what the towers say, what is printed is marked,
and what does not fit together is refused."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rxrx_jax import predict_genes
from rxrx_jax.base import command, embeddings
from rxrx_jax.base.config import Config, load
from rxrx_jax.base.seen import Seen
from rxrx_jax.base.seen import write as write_seen
from rxrx_jax.data.source import make_source
from rxrx_jax.maps import __main__ as maps
from rxrx_jax.maps.build.make import FACTS, MAP
from rxrx_jax.tasks import make_task
from rxrx_jax.training.checkpoint import LAYOUT, Checkpoints
from rxrx_jax.training.state import TrainState

pytest.importorskip("rdkit")
pytestmark = pytest.mark.slow
GENES = ["A", "B", "C", "D", "E"]


def write_map(folder, width):
    rng, n = np.random.default_rng(0), len(GENES)
    columns = {"perturbation": GENES, "kind": ["gene"] * n, "gene": GENES, "guide": [""] * n}
    columns = {name: np.array(values) for name, values in columns.items()}
    columns["concentration_um"] = np.full(n, np.nan)
    folder.mkdir()
    embeddings.write(folder / MAP, columns, rng.normal(size=(n, width)).astype(np.float32))
    (folder / FACTS).write_text("{}")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(a folder with a run of random parameters, a map, one of another width and smiles.csv; source, task, params)."""
    folder = tmp_path_factory.mktemp("predicted")
    values = load("molecule_map.py")
    values["model"] |= dict(width=16, depth=1, mlp=16, heads=2)
    values["data"] |= {"folder": str(folder), "builder": dict(seed=0, count=40)}
    source = make_source(Config(values), None)
    task = make_task(Config(values), source)
    params = task.init(jax.random.key(7), jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), source.view))["params"]
    state = TrainState(jnp.int32(3), params, {"batch_stats": {}, "carry": {}, "averages": {}}, {})
    with Checkpoints(folder / "run" / "checkpoints", 1) as checkpoints:
        checkpoints.save(state, {"train_seconds": 1.0})
    resolved = {"total_steps": 3, "layout": LAYOUT, "vocabulary": source.dataset.vocabulary}
    (folder / "run" / "config.json").write_text(json.dumps(values | {"resolved": resolved}))
    (folder / "run" / "vocabulary.json").write_bytes(source.keeps["vocabulary.json"])
    write_seen(folder / "run" / "seen.parquet", Seen())
    write_map(folder / "map", source.dataset.width)
    write_map(folder / "narrow", 5)
    (folder / "smiles.csv").write_text("smiles\nOCC\nc1ccccc1\nnothing\n")
    params = jax.tree.map(np.asarray, params)  # saving may have donated nothing, but this is what was saved
    return folder, source, task, params


def predict(folder, run="run", of="map", out="predicted.parquet"):
    given = {"checkpoint": folder / run, "map": folder / of, "data": folder / "smiles.csv", "out": folder / out}
    return command.run(predict_genes.main, [f"--{name}={value}" for name, value in given.items()])


def test_what_is_written_is_what_the_towers_say_and_is_marked(made, capsys):
    folder, source, task, params = made
    assert predict(folder) == 0
    assert "2 molecules at 3 doses and 5 genes, all predicted" in capsys.readouterr().out
    columns, x = embeddings.read(folder / "predicted.parquet")
    assert columns["name"].tolist() == [*GENES, *["CCO", "c1ccccc1"] * 3]
    np.testing.assert_allclose(np.linalg.norm(x, axis=1), 1, rtol=1e-5)
    library = source.dataset
    gene = embeddings.read(folder / "map" / MAP)[1][1]
    np.testing.assert_allclose(task.of_wells(params, (gene - library.centre) / library.scale), x[1], atol=1e-5)

    assert command.run(maps.main, ["query", str(folder / "map"), "CCO", f"--predicted={folder}/predicted.parquet"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "PREDICTED from the structure of CCO, not measured"
    rows = [line.strip("| ").split(" | ") for line in said if line.startswith("| ") and line[2] in "ABCDE"]
    assert len(rows) == 15 and {row[1] for row in rows} == {"0.1", "1", "10"}
    at = int(np.flatnonzero((columns["name"] == "CCO") & (columns["concentration_um"] == 10))[0])
    assert float(dict((row[0], row[2]) for row in rows if row[1] == "10")["B"]) == pytest.approx(x[1] @ x[at], abs=1e-3)


def test_what_does_not_fit_is_one_line(made, capsys):
    folder, *_ = made
    assert predict(folder, of="narrow", out="x.parquet") == 2
    assert "narrow has 5 features and" in capsys.readouterr().err
    predict(folder)
    query = lambda of, name: command.run(  # noqa: E731
        maps.main, ["query", str(folder / of), name, f"--predicted={folder}/predicted.parquet"]
    )
    assert query("narrow", "CCO") == 2 and "is not of the map in" in capsys.readouterr().err
    assert query("map", "OCC") == 2 and "OCC is not in" in capsys.readouterr().err
    shutil.copytree(folder / "run", folder / "other")
    text = json.loads((folder / "other" / "config.json").read_text())
    text["task"]["name"] = "environments"
    (folder / "other" / "config.json").write_text(json.dumps(text))
    assert predict(folder, run="other", out="x.parquet") == 2
    assert "is of task.name=environments" in capsys.readouterr().err
    assert not (folder / "x.parquet").exists()
