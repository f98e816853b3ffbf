"""The file that embedding a dataset writes: what it says, a kill and what it leaves, other formats, mistakes."""

import dataclasses
import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from etils import epath
from weights_tools import embed_into

from rxrx_jax import data, datasets, embed, probe_embeddings
from rxrx_jax.base import command, embeddings
from rxrx_jax.base.errors import UserError
from rxrx_jax.embedding import job, work
from rxrx_jax.maps import exchange


def test_the_file_says_what_made_it(plain):
    said = json.loads(pq.read_schema(plain).metadata[embed.KEY])
    assert said["marks"] == "T" and said["normalisation"] == "plate"
    assert (said["pool"], said["per"], said["block"], said["crop"]) == ("mean", "site", None, 16)


def test_a_probe_reads_the_file(plain, capsys):
    assert command.run(probe_embeddings.main, [str(plain)]) == 0
    assert "cross_batch" in capsys.readouterr().out


def test_row_groups_hold_whole_plates(plain, folder, dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(embeddings, "GROUP", 1)
    assert embed_into(folder / "plain", dataset.folder, tmp_path / "out.parquet") == 0
    assert pq.ParquetFile(tmp_path / "out.parquet").num_row_groups == len(dataset.plates)
    np.testing.assert_array_equal(embeddings.read(tmp_path / "out.parquet")[1], embeddings.read(plain)[1])


def test_a_finished_file_is_left_and_another_is_refused(plain, folder, dataset, capsys):
    before = plain.stat().st_mtime_ns
    assert embed_into(folder / "plain", dataset.folder, plain) == 0
    assert "is finished; nothing to do" in capsys.readouterr().err
    assert embed_into(folder / "plain", dataset.folder, plain, "--block=1") == 2
    assert "exists and holds other embeddings" in capsys.readouterr().err
    assert plain.stat().st_mtime_ns == before


def test_plates_of_another_job_are_refused(folder, dataset, tmp_path, capsys):
    (tmp_path / "out.parquet.parts").mkdir()
    (tmp_path / "out.parquet.parts" / "job.json").write_text("{}")
    assert embed_into(folder / "plain", dataset.folder, tmp_path / "out.parquet") == 2
    assert "out.parquet.parts holds plates of other embeddings" in capsys.readouterr().err


def test_finished_plates_are_not_done_again(plain, folder, dataset, tmp_path, monkeypatch):
    write, written = work.write_plate, []

    def counting(*found):
        written.append(found[1])
        if len(written) == 3:
            raise KeyboardInterrupt
        write(*found)

    monkeypatch.setattr(job, "write_plate", counting)
    assert embed_into(folder / "plain", dataset.folder, tmp_path / "out.parquet") == 130
    parts = tmp_path / "out.parquet.parts"
    assert sorted(path.name[:6] for path in (parts / "plates").iterdir()) == ["000000", "000001"]
    assert (parts / "job.json").exists() and not (tmp_path / "out.parquet").exists()
    assert embed_into(folder / "plain", dataset.folder, tmp_path / "out.parquet") == 0
    assert len(written) == len(dataset.plates) + 1  # the third plate twice, no other
    assert (tmp_path / "out.parquet").read_bytes() == plain.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.parquet"]


def test_files_for_other_tools(plain, folder, dataset, tmp_path, capsys):
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    pytest.importorskip("anndata", reason="anndata is not installed")
    out, columns = tmp_path / "out.h5ad", embeddings.read(plain)[0]
    assert embed_into(folder / "plain", dataset.folder, out, "--names=cytominer") == 0
    assert [path.name for path in tmp_path.iterdir()] == ["out.h5ad"]
    capsys.readouterr()
    assert embed_into(folder / "plain", dataset.folder, out, "--names=cytominer") == 0
    assert "is finished; nothing to do" in capsys.readouterr().err
    assert embed_into(folder / "plain", dataset.folder, out) == 2  # by other names
    assert "exists and holds other embeddings" in capsys.readouterr().err
    text = tmp_path / "out.csv"
    exchange.write(plain, text)
    assert pandas.read_csv(text)["site_id"].tolist() == columns["site_id"].tolist()
    assert embed_into(folder / "plain", dataset.folder, text) == 2
    assert "does not say which embeddings it holds; use another or delete it" in capsys.readouterr().err
    assert embed_into(folder / "plain", dataset.folder, tmp_path / "out.txt") == 2
    assert "expected a file named *.parquet, *.h5ad, *.csv" in capsys.readouterr().err


@pytest.mark.parametrize(
    "run, more, message",
    [
        ("plain", ["--pool=channels"], "--pool=channels needs a channel-agnostic model, and no --block"),
        (
            "agnostic",
            ["--pool=channels", "--block=1"],
            "--pool=channels needs a channel-agnostic model, and no --block",
        ),
        ("plain", ["--block=0"], "--block=0: the model has blocks 1 to 4"),
        ("plain", ["--block=5"], "--block=5: the model has blocks 1 to 4"),
        ("nowhere", [], "nowhere: no such file or folder, or give the workdir of a run"),
        (".", [], "no checkpoint there"),
        ("plain", ["--minibatch=0"], "--minibatch=0 does not divide"),
        ("plain", ["--data=/nowhere/data"], "/nowhere/data is not a folder"),
        ("plain", ["--data=rxrx9"], "no dataset is called 'rxrx9'"),
    ],
)
def test_mistakes_are_one_line(folder, dataset, tmp_path, capsys, run, more, message):
    assert embed_into(folder / run, dataset.folder, tmp_path / "out.parquet", *more) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1 and message in said
    assert not (tmp_path / "out.parquet").exists()


def test_a_dataset_is_found_by_its_name(folder, monkeypatch):
    asked = []
    monkeypatch.setattr(data, "open_dataset", lambda *arguments: asked.append(arguments))
    datasets.open("rxrx1", str(folder))
    assert asked == [("rxrx1", {}, str(folder), None)]


def test_a_dataset_without_sites(folder, dataset, tmp_path):
    none = {f.name: getattr(dataset.sites, f.name)[:0] for f in dataclasses.fields(dataset.sites)}
    empty = dataclasses.replace(dataset, sites=dataclasses.replace(dataset.sites, **none))
    with pytest.raises(UserError, match="holds no sites; there is nothing to embed"):
        embed.embed_dataset(embed.open_model(str(folder / "plain"), 6), empty, tmp_path / "out.parquet")
    assert not list(tmp_path.iterdir())


def test_plates_that_a_kill_left_beside_a_finished_file_are_removed(plain, folder, dataset, tmp_path):
    (tmp_path / "out.parquet").write_bytes(plain.read_bytes())
    (tmp_path / "out.parquet.parts").mkdir()
    (tmp_path / "out.parquet.parts" / "plate-000000.npy").write_bytes(b"")
    assert embed_into(folder / "plain", dataset.folder, tmp_path / "out.parquet") == 0
    assert [path.name for path in tmp_path.iterdir()] == ["out.parquet"]


def test_plates_of_a_half_removed_folder_are_not_used(tmp_path):
    parts = epath.Path(tmp_path / "out.parquet.parts")
    (parts / "plates").mkdir(parents=True)
    (parts / "plates" / "000000-a.parquet").write_bytes(b"")  # no file records its job
    job.claim(parts, "{}", own=True)
    assert (parts / "job.json").read_text() == "{}" and not list((parts / "plates").iterdir())
