"""Molecules of a csv file and of a prepared folder, embedded with a run's encoder; what is set aside, repeated,
untrained or of another vocabulary."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import weights_tools
from weights_tools import embed_into

from rxrx_jax.base import embeddings, seen
from rxrx_jax.base.config import Config, load
from rxrx_jax.data.builders import builders
from rxrx_jax.data.molecules import library
from rxrx_jax.models.molecule import make_molecule_encoder
from rxrx_jax.training.checkpoint import LAYOUT, Checkpoints
from rxrx_jax.training.state import TrainState
from rxrx_jax.training.step import make_keys

pytest.importorskip("rdkit")
pytestmark = pytest.mark.slow
SIZE = dict(width=8, depth=2, mlp=16, heads=2)
CSV = "name,SMILES\na,CCO\nb,not a molecule\nc,c1ccccc1\nd,OCC\ne,CC(=O)Nc1ccc(O)cc1 |$;;$|\n"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(a folder with a run of random parameters, one of those that it would start with, and a table; the library)."""
    folder = tmp_path_factory.mktemp("molecules")
    found = library.read_library(builders().prepare("molecules", out=folder, count=40, progress=False))
    values = load("mole.py")
    values["model"] |= SIZE
    encoder = make_molecule_encoder(Config(values).model, found.tokens)
    view = {"tokens": jnp.zeros((1, 3), jnp.int32), "distances": jnp.zeros((1, 3, 3), jnp.uint8)}
    key, _ = jax.random.split(make_keys(0)["init"])
    fresh = encoder.init(key, **view)["params"]
    digests = found.digests
    saw = seen.of_rows(found, digests, "run (environments)", images=found.roles.fit)
    for name, params in (("fresh", fresh), ("run", weights_tools.times(2, fresh))):
        state = TrainState(jnp.int32(3), {"encoder": params}, {"batch_stats": {}, "carry": {}, "averages": {}}, {})
        with Checkpoints(folder / name / "checkpoints", 1) as checkpoints:
            checkpoints.save(state, {"train_seconds": 1.0})
        resolved = {"total_steps": 3, "layout": LAYOUT, "vocabulary": found.vocabulary}
        (folder / name / "config.json").write_text(json.dumps(values | {"resolved": resolved}))
        shutil.copy(found.folder / "vocabulary.json", folder / name)
        seen.write(folder / name / seen.NAME, saw)
    (folder / "smiles.csv").write_text(CSV)
    return folder, found


def test_a_table_and_a_prepared_folder(made, capsys):
    folder, found = made
    assert embed_into(folder / "run", folder / "smiles.csv", folder / "a.parquet") == 0
    said = capsys.readouterr().err
    assert "smiles.csv, row 1: invalid SMILES" in said and "1 rows of" in said
    columns, embedding = embeddings.read(folder / "a.parquet")
    assert columns["row"].tolist() == [0, 2, 3, 4] and columns["smiles"][0] == columns["smiles"][2] == "CCO"
    assert embedding.shape == (4, 8) and np.isfinite(embedding).all()
    np.testing.assert_array_equal(embedding[0], embedding[2])  # one molecule
    assert len(np.unique(embedding, axis=0)) == 3
    assert embed_into(folder / "run", folder / "smiles.csv", folder / "a.parquet") == 0
    assert "a.parquet is finished; nothing to do" in capsys.readouterr().err

    assert embed_into(folder / "run", found.folder, folder / "b.parquet") == 0
    columns, embedding = embeddings.read(folder / "b.parquet")
    assert columns["inchikey"].tolist() == found.inchikey.tolist() and len(embedding) == 40
    assert set(columns["seen"][columns["split"] == "train"]) == {"image"}
    assert set(columns["seen"][columns["split"] != "train"]) == {""}
    assert embeddings.read_provenance(folder / "b.parquet")[0] == "T"
    assert embed_into(folder / "run", found.folder, folder / "c.parquet", "--block=1") == 0
    assert np.abs(embeddings.read(folder / "c.parquet")[1] - embedding).max() > 0.1


def test_what_does_not_fit_is_one_line(made, capsys):
    folder, found = made

    def refused(checkpoint, *more):
        assert embed_into(folder / checkpoint, folder / "smiles.csv", folder / "x.parquet", *more) == 2
        assert not (folder / "x.parquet").exists()
        return capsys.readouterr().err

    assert "fresh: its encoder is untrained" in refused("fresh")
    shutil.copytree(folder / "run", folder / "other")
    text = json.loads((folder / "other" / "config.json").read_text())
    text["resolved"]["vocabulary"] = "0" * 64
    (folder / "other" / "config.json").write_text(json.dumps(text))
    assert f"of another vocabulary ({found.vocabulary[:12]}) than the checkpoint (000000000000)" in refused("other")
    (folder / "other" / "vocabulary.json").unlink()
    assert "other has no vocabulary.json: copy there the one of molecules" in refused("other")
    shutil.rmtree(folder / "other" / "checkpoints")
    assert "no checkpoint there; train that run first" in refused("other")
    assert "--per=well is of images" in refused("run", "--per=well")
    assert "the model has blocks 1 to 2" in refused("run", "--block=3")
    assert embed_into(folder / "run", folder / "smiles.csv", folder / "d.parquet", "--block=1") == 0
    assert embed_into(folder / "run", folder / "smiles.csv", folder / "d.parquet") == 2
    assert "d.parquet exists and may hold other embeddings" in capsys.readouterr().err
    (folder / "empty.csv").write_text("smiles\nnothing\n")
    assert embed_into(folder / "run", folder / "empty.csv", folder / "x.parquet") == 2
    assert "no molecule can be used" in capsys.readouterr().err


def test_a_prepared_folder_of_another_vocabulary_is_refused(made, capsys):
    folder, _ = made
    other = builders().prepare("molecules", out=folder, count=12, progress=False)
    assert embed_into(folder / "run", other, folder / "x.parquet") == 2
    assert "run has the vocabulary" in capsys.readouterr().err
