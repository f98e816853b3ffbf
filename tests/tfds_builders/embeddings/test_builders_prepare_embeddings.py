"""The command that prepares published embeddings, on real rows."""

import csv
import io
import pathlib

import numpy as np
import pytest
from builders_embeddings_tools import DIM, look, parquet, text

from rxrx_jax.base import command
from rxrx_jax.base.errors import UserError
from tfds_builders import prepare_embeddings
from tfds_builders.embeddings import join


@pytest.fixture
def source(shared_data, tmp_path):
    """The real table of 20 sites of RxRx1, with made-up embeddings under names as the README writes them."""
    folder = tmp_path / "source"
    folder.mkdir()
    table = (shared_data / "rxrx1/published/metadata.csv").read_text()
    (folder / "metadata.csv").write_text(table)
    names = [row["site_id"] for row in csv.DictReader(io.StringIO(table))]
    values = {name.replace("-0", "-"): np.full(DIM, i) for i, name in enumerate(names)}
    (folder / "embeddings.csv").write_text(text(values))
    return folder


def run(*arguments):
    return command.run(prepare_embeddings.main, [str(argument) for argument in arguments])


def test_the_command_on_real_rows(source, tmp_path, capsys):
    arguments = ("rxrx1", f"--source={source}", f"--out={tmp_path / 'out'}")
    assert run(*arguments) == 0
    folder = prepare_embeddings.find("rxrx1", tmp_path / "out")
    assert folder.parts[-3:-1] == ("rxrx1_embeddings", "default") and folder.parent.parent.parent == tmp_path / "out"
    made = look(folder)
    assert made.about["counts"]["splits"] == {"train": 8, "id_test": 8, "val": 4, "test": 0}
    table = {
        row["site_id"]: i for i, row in enumerate(csv.DictReader((source / "metadata.csv").read_text().splitlines()))
    }
    assert {name: value[0] for name, value in made.by_id.items()} == table
    assert set(made.columns["perturbation"]) == {"EMPTY"} and set(made.columns["perturbation_id"]) == {1138}
    shown = capsys.readouterr()
    assert "rows       train 8, id_test 8, val 4, test 0" in shown.out and f"probe_embeddings {folder}" in shown.out
    assert "MB/s" in shown.err or "B/s" in shown.err
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    before = (folder / "metadata.json").stat().st_mtime_ns
    assert run(*arguments, "--embeddings=nowhere") == 0  # nothing is read again
    assert "exists and is left as it is" in capsys.readouterr().out
    assert (folder / "metadata.json").stat().st_mtime_ns == before


@pytest.mark.parametrize("exception", [KeyboardInterrupt, UserError("x"), OSError(28, "No space left on device")])
def test_a_stopped_build_leaves_nothing(source, tmp_path, monkeypatch, capsys, exception):
    def stop(*args):
        raise exception

    monkeypatch.setattr(join, "_write", stop)
    arguments = ("rxrx1", f"--source={source}", f"--out={tmp_path / 'out'}")
    assert run(*arguments) == (130 if exception is KeyboardInterrupt else 2)
    assert capsys.readouterr().err.count("error: ") == (exception is not KeyboardInterrupt)
    assert not (tmp_path / "out").exists()
    monkeypatch.undo()
    assert run(*arguments) == 0


def test_two_processes_at_once(source, tmp_path, monkeypatch):
    """The one that comes second keeps what the first has made."""
    folder = prepare_embeddings.find("rxrx1", tmp_path / "out")
    whole = join.build

    def overtaken(builder, files, working, progress):
        whole(builder, files, working, progress)
        folder.mkdir()
        (folder / "metadata.json").write_text("of the other")

    monkeypatch.setattr(join, "build", overtaken)
    prepare_embeddings.prepare("rxrx1", source, out=tmp_path / "out", progress=False)
    assert (folder / "metadata.json").read_text() == "of the other"
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_mistakes_of_the_command(source, tmp_path, capsys):
    for arguments, words in [
        (("nothing", f"--source={source}"), "no dataset is called 'nothing'"),
        (("rxrx1", f"--source={tmp_path / 'nowhere'}"), "nowhere does not exist"),
        (("rxrx1", f"--source={source}", f"--embeddings={tmp_path / 'x.csv'}"), "x.csv does not exist"),
        (("rxrx1", f"--source={tmp_path}", f"--embeddings={source}"), "metadata.csv"),
    ]:
        assert run(*arguments, f"--out={tmp_path / 'out'}") == 2
        error = capsys.readouterr().err
        assert words in error.splitlines()[-1] and error.count("error: ") == 1
    left = tmp_path / "out/rxrx1_embeddings/default"
    version = prepare_embeddings.find("rxrx1", tmp_path / "out").name
    (left / f"incomplete.abc_{version}").mkdir(parents=True)
    assert run("rxrx1", f"--source={source}", f"--out={tmp_path / 'out'}") == 0
    assert "is of a killed build: delete it if none runs" in capsys.readouterr().out


def test_details_of_something_else(tmp_path):
    with pytest.raises(UserError, match="is not a folder that prepare_embeddings made"):
        prepare_embeddings.details(tmp_path)


def test_rxrx3_rows_with_a_tree_of_plates(shared_data, tmp_path):
    """Six real rows of RxRx3's table, with blinded genes, controls and SMILES; embeddings by well."""
    source = tmp_path / "source"
    source.mkdir()
    content = (shared_data / "rxrx3/rxrx3_readme_example_rows.csv").read_text()
    (source / "metadata.csv").write_text(content)
    names = [row["well_id"] for row in csv.DictReader(io.StringIO(content))]
    for i, name in enumerate(names):
        experiment, plate, _ = name.split("_")
        folder = source / "embeddings" / experiment / f"Plate{plate}"
        folder.mkdir(parents=True)
        (folder / "embeddings.parquet").write_bytes(parquet({name: np.full(DIM, i), f"{name[:-2]}99": np.zeros(DIM)}))
    made = look(prepare_embeddings.prepare("rxrx3", source, out=tmp_path / "out", progress=False))
    assert {name: value[0] for name, value in made.by_id.items()} == {f"{n}_1": i for i, n in enumerate(names)}
    row = made.columns["site_id"].tolist().index("compound-001_19_D20_1")
    assert made.columns["smiles"][row].startswith("CC1=[N+](") and made.columns["concentration_um"][row] == 0.25
    assert made.about["counts"]["without_row"] == 6 and made.about["embedding_of"] == "well"
    assert pathlib.Path(made.about["embeddings"][0]).name == "embeddings.parquet"
