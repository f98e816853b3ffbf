"""From a csv file to a folder: what is in it, every bad input, --strict, resuming, processes, vocabularies."""

import csv
import json
import re

import numpy as np
import pytest

from rxrx_jax.base.errors import UserError
from rxrx_jax.molecules import environments, library, records, standardise
from tfds_builders import prepare, verify
from tfds_builders.molecules import build, features, write

ROWS = """smiles,y,c
CCO,1.5,0
,1,0
C1CC,1,0
[H][H],1,1
%s,1,1
CC[C@H](O)C |o1:2|,1,1
[Na+].CC(=O)[O-],oops,0
[Fe+2],1,1
OCC,2.5,0
C[C@H](N)C(=O)O,1,1
C[C@@H](N)C(=O)O,2,1
c1ccncc1,inf,1
""" % ("C" * 300)  # noqa: UP031, braces are SMILES'


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "bad.csv"
    path.write_text(ROWS)
    return path


def made(source, out, **settings):
    return build.prepare(source, out, workers=1, progress=False, **settings)


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix != ".html"}


def test_every_bad_row_is_named_and_none_is_fatal(source, tmp_path, capsys):
    prepare.main(["molecules", f"--source={source}", f"--out={tmp_path}", "--target=y", "--target=c", "--workers=1"])
    shown = capsys.readouterr().out
    folder = tmp_path / "molecules" / "bad" / "1.0.0"
    with (folder / "set_aside.csv").open() as file:
        found = {int(line["row"]): line["reason"] for line in csv.DictReader(file)}
    reasons = ["empty SMILES", "invalid SMILES", "no heavy atom", "300 atoms, more than 256"]
    assert found == dict(zip((1, 2, 3, 4), reasons))
    for text in (
        "set aside  4; merged 1",
        "2 cells of y are not finite numbers and count as missing, the first is 'oops' of row 6",
        "1 molecules had a CXSMILES extension",
        "1 molecules were given with several fragments",
        "1 molecules have metal atoms: Fe 1",
        "1 groups of stereoisomers",
        "1 of the merged rows have another value of a target",
        "of a kind that the vocabulary has not got",
        "environments too rare for a label",
    ):
        assert text in shown, text
    page = (folder / "report.html").read_text()
    assert all(reason in page for reason in reasons) and "CC(N)C(=O)O" in page and "LFQSCWFLJHTTHZ" in page
    prepare.main(["molecules", f"--source={source}", f"--out={tmp_path}", "--target=y", "--target=c"])
    assert "exists and is left as it is" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("smiles\nCC\nC1\n", "row 1: invalid SMILES .1 rows would be set aside"),
        ("smiles\nCC\nCO\nOC\n", "row 2: the molecule of row 1 .OKKJLVBELUTLKV-UHFFFAOYSA-N.; 1 duplicates"),
        ("smiles,y\nF/C=C/F,1\nF/C=C\\F,2\n", "rows 0 1: stereoisomers, whose y is 1 2"),
        ("smiles,s\nCC,train\nCC,test\n", "row 0: the same molecule is in test"),
    ],
)
def test_strict_refuses(tmp_path, text, message):
    (tmp_path / "a.csv").write_text(text)
    settings = {"targets": ("y",)} if "y" in text.split("\n")[0] else {}
    settings |= {"split": "s"} if ",s" in text else {}
    with pytest.raises(UserError, match=message):
        made(tmp_path / "a.csv", tmp_path, strict=True, **settings)
    folder = made(tmp_path / "a.csv", tmp_path, **settings)
    with pytest.raises(UserError, match="1 rows are not as they should"):
        made(tmp_path / "a.csv", tmp_path, strict=True, **settings)
    assert folder.exists()


def test_the_extensions_that_a_screen_writes_after_its_smiles(tmp_path):
    """Racemates, one enantiomer of unknown sign, quoted cells: read, counted, and merged where SMILES cannot tell."""
    rows = ["C[C@H](N)C(=O)O", '"C[C@H](N)C(=O)O |&1:1,r|"', "CCO |r|", "C[C@@H](O)CC |o1:1|", "C1CC |r|", "|&1:1|"]
    (tmp_path / "s.csv").write_text("\n".join(["compound,SMILES", *(f"a,{row}" for row in rows)]))
    folder = made(tmp_path / "s.csv", tmp_path)
    found = records.open_folder(folder)
    assert sorted(found.table["row"].tolist()) == [0, 2, 3]
    assert "0,1,QNAYBMKLOCPYGJ" in (folder / "duplicates.csv").read_text()
    with (folder / "set_aside.csv").open() as file:
        bad = {int(line["row"]): line["reason"] for line in csv.DictReader(file)}
    assert bad == {4: "invalid SMILES", 5: "no SMILES before the CXSMILES extension"}
    assert any(note.startswith("2 molecules had a CXSMILES extension") for note in found.about["notes"])


def test_salts(source, tmp_path):
    keep, refuse = (made(source, tmp_path, salts=salts) for salts in ("keep", "refuse"))
    assert keep.parent.name == "bad-salts_keep"
    assert "CC(=O)[O-].[Na+]" in records.open_folder(keep).table["smiles"]
    assert '6,"2 fragments, and salts=refuse"' in (refuse / "set_aside.csv").read_text()
    with pytest.raises(UserError, match="salts='drop': expected largest, keep or refuse"):
        made(source, tmp_path, salts="drop")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"count": 3}, "count is of the simulated library"),
        ({"colour": 1}, "molecules has no setting 'colour'; it has: name, smiles"),
        ({"name": "a/b"}, "name='a/b': use letters"),
        ({"split": "fold"}, "no column 'fold'"),
        ({"vocabulary": "nowhere"}, "nowhere.*cannot be read"),
    ],
)
def test_settings_that_are_refused(source, tmp_path, fields, message):
    with pytest.raises(UserError, match=message):
        made(source, tmp_path, **fields)
    assert not (tmp_path / "molecules").exists()


def test_sources_that_are_refused(tmp_path):
    (tmp_path / "none.csv").write_text("smiles\nC1\n\n")
    with pytest.raises(UserError, match="none.csv: no molecule can be used; 2 set aside, the first is row 0: invalid"):
        made(tmp_path / "none.csv", tmp_path)
    with pytest.raises(UserError, match="is not a file|cannot be read"):
        made(tmp_path / "missing.csv", tmp_path)
    with pytest.raises(UserError, match="smiles is a column of a source, and there is none"):
        made(None, tmp_path, smiles="s")
    assert not (tmp_path / "molecules").exists()


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    return made(None, tmp_path_factory.mktemp("simulated"), count=120, seed=2)


def test_the_simulated_library(simulated):
    assert simulated.parts[-3:] == ("molecules", "simulated-count_120-seed_2", "1.0.0")
    found = records.open_folder(simulated)
    assert found.about["source_kind"] == "simulated" and any("SIMULATED" in note for note in found.about["notes"])
    assert (found.targets, found.kinds) == (library.TARGETS, library.KINDS)
    assert sum(map(len, found.splits.values())) == len(found.table["row"]) == 120
    assert sorted(found.table["smiles"]) == sorted(library.simulated(120, 2))
    scaffolds = {name: set(found.table["scaffold"][found.table["split"] == name]) for name in found.splits}
    assert not scaffolds["train"] & (scaffolds["validation"] | scaffolds["test"])


def test_records_hold_what_rdkit_says(simulated):
    found = records.open_folder(simulated)
    order = np.random.default_rng(0).permutation(120)
    molecules, known, drawn = found.read(order), found.vocabulary, library.simulated(120, 2)
    for row, molecule in zip(order.tolist(), molecules):
        table = {name: column[row] for name, column in found.table.items()}
        own = environments.environments(standardise.standardise(molecule.smiles).mol)
        np.testing.assert_array_equal(molecule.tokens, known.encode_tokens(own.atoms))
        np.testing.assert_array_equal(molecule.labels, known.encode_labels(own.labels))
        np.testing.assert_array_equal(molecule.distances, own.distances)
        values = library.properties(standardise.standardise(molecule.smiles).mol)
        np.testing.assert_allclose(molecule.targets, values, rtol=1e-6)
        assert (molecule.smiles, molecule.inchikey, molecule.row, len(molecule.tokens)) == tuple(
            table[key] for key in ("smiles", "inchikey", "row", "atoms")
        )
        assert drawn[molecule.row] == molecule.smiles
    train = [one for one, split in zip(molecules, found.table["split"][order]) if split == "train"]
    tokens, labels = (np.concatenate([getattr(one, key) for one in train]) for key in ("tokens", "labels"))
    about = found.about["vocabulary"]
    assert set(tokens.tolist()) == set(range(1, about["ordinary"] + 1))
    assert min(np.unique(labels[labels > 0], return_counts=True)[1]) >= 5
    assert set(labels[labels > 0].tolist()) == set(range(1, about["labels"]))
    assert (about["hash"], about["tokens"], about["cls"]) == (known.digest, known.size, known.cls)
    with pytest.raises(IndexError):
        found.read([120])
    with pytest.raises(IndexError):
        found.splits["train"].read([-1])


def test_a_split_too_large_for_memory_reads_the_same(simulated, monkeypatch):
    whole = [records.encode(one) for one in records.open_folder(simulated).read(range(120))]
    monkeypatch.setattr(records, "IN_MEMORY", 0)
    found = records.open_folder(simulated)
    assert found.splits["train"]._records is None
    assert [records.encode(one) for one in found.read(range(120))] == whole


def test_tfds_opens_it(simulated):
    import tensorflow_datasets as tfds

    source = tfds.builder_from_directory(simulated).as_data_source()
    mine = records.open_folder(simulated).splits
    assert {name: len(split) for name, split in mine.items()} == {name: len(split) for name, split in source.items()}
    assert records.decode(source["test"][0]["molecule"]).smiles == mine["test"][0].smiles


def test_damage_is_named(simulated, tmp_path):
    for name, message in (("molecules.csv", "molecules.csv is not what was written"), ("SHA256SUMS", "is missing")):
        copy = tmp_path / name
        copy.mkdir()
        for path in simulated.iterdir():
            (copy / path.name).write_bytes(path.read_bytes())
        (copy / name).write_text("x") if name != "SHA256SUMS" else (copy / name).unlink()
        with pytest.raises(UserError, match=message):
            records.open_folder(copy)
        assert verify.verify(copy) and not verify.verify(simulated)


def test_processes_and_shards_change_nothing(source, tmp_path, monkeypatch):
    one = made(source, tmp_path / "one", targets=("*",))
    monkeypatch.setattr(features, "ROWS", 3)
    two = build.prepare(source, tmp_path / "two", workers=2, progress=False, targets=("*",))
    mine, other = files_of(one), files_of(two)
    assert mine == other
    monkeypatch.setattr(write, "SHARD", 1)
    three = made(source, tmp_path / "three", targets=("*",))
    assert len(list(three.glob("*record*"))) == 7 > len(list(one.glob("*record*")))
    whole, parted = (records.open_folder(folder) for folder in (one, three))
    places = np.arange(len(whole.table["row"]))[::-1]
    assert [records.encode(m) for m in whole.read(places)] == [records.encode(m) for m in parted.read(places)]


def test_a_stopped_build_resumes(source, tmp_path, monkeypatch):
    monkeypatch.setattr(features, "ROWS", 3)
    original, calls = features.work, []

    def stops(path, rows, salts):
        calls.append(path.name)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(path, rows, salts)

    monkeypatch.setattr(features, "work", stops)
    with pytest.raises(KeyboardInterrupt):
        made(source, tmp_path / "a")
    monkeypatch.setattr(features, "work", original)
    featurised, own = [], standardise.standardise
    monkeypatch.setattr(standardise, "standardise", lambda *one: featurised.append(one) or own(*one))
    folder = made(source, tmp_path / "a")
    assert len(featurised) == 12 - 6 and not list(folder.parent.glob("*.building"))
    monkeypatch.undo()
    assert files_of(folder) == files_of(made(source, tmp_path / "b"))


def test_a_folder_of_something_else_is_refused(source, tmp_path):
    made(source, tmp_path)
    source.write_text(ROWS.replace("CCO", "CCCO"))
    with pytest.raises(UserError, match=r"was prepared of something else \(source_sha256="):
        made(source, tmp_path)
    with pytest.raises(UserError, match=r"something else \(targets="):
        made(source, tmp_path, targets=("y",))


def test_the_vocabulary_of_other_molecules(source, simulated, tmp_path):
    folder = made(source, tmp_path, vocabulary=str(simulated))
    mine, theirs = records.open_folder(folder), records.open_folder(simulated)
    assert mine.vocabulary == theirs.vocabulary and folder.parent.name.startswith("bad-vocabulary_")
    (iron,) = (one for one in mine.read(range(len(mine.table["row"]))) if one.smiles == "[Fe+2]")
    assert iron.tokens.tolist() == [mine.vocabulary.unknown] and iron.labels.tolist() == [0]
    assert re.search(r"\d+ atoms of \d+ molecules in \w+ are of a kind", " ".join(mine.about["notes"]))
    assert prepare.find("molecules", tmp_path, source=source, vocabulary=str(simulated)) == folder
    assert json.loads((folder / "vocabulary.json").read_text())["digest"] == theirs.about["vocabulary"]["hash"]
