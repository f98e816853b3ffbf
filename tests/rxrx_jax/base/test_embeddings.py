"""The embeddings file: round trips, parts of it, damage; what the evaluator writes; and the probe of such a file."""

import csv
import json
import types

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from paths import ROOT
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from rxrx_jax import probe_embeddings
from rxrx_jax.base import command, embeddings
from rxrx_jax.base.errors import UserError
from rxrx_jax.evaluate import embeddings as evaluator


def table(experiments=("A-01", "A-02", "B-01"), plates=(1, 2, 10), wells=5):
    """columns and embedding [n, 4], sorted by experiment and plate."""
    keys = [(e, p, w) for e in experiments for p in plates for w in range(wells)]
    experiment, plate, well = map(np.array, zip(*keys))
    columns = {
        "site_id": np.array([f"{e}_{p}_B{w:02d}_1" for e, p, w in keys]),
        "experiment": experiment,
        "plate": plate,
        "concentration": np.where(well == 0, np.nan, well / 10),
        "smiles": np.array(["", "C", "CC=C \u03bc"])[well % 3],
    }
    return columns, np.random.default_rng(0).normal(size=(len(keys), 4)).astype(np.float32)


def same(found, expected):
    (columns, embedding), (wanted, values) = found, expected
    np.testing.assert_array_equal(embedding, values)
    assert embedding.dtype == np.float32 and list(columns) == list(wanted)
    for name in wanted:
        np.testing.assert_array_equal(columns[name], wanted[name], err_msg=name)


@pytest.fixture
def small_groups(monkeypatch):
    monkeypatch.setattr(embeddings, "GROUP", 1)


def test_what_is_written_is_read(tmp_path):
    columns, embedding = table()
    embeddings.write(tmp_path / "embeddings.parquet", columns, embedding)
    for path in (tmp_path, tmp_path / "embeddings.parquet", str(tmp_path)):
        same(embeddings.read(path), (columns, embedding))
    read, _ = embeddings.read(tmp_path)
    kinds = {name: values.dtype for name, values in read.items()}
    assert kinds == {"site_id": object, "experiment": object, "plate": np.int32, "concentration": np.float64,
                     "smiles": object}  # fmt: skip
    assert {type(value) for value in read["smiles"]} == {str}
    assert [path.name for path in tmp_path.iterdir()] == ["embeddings.parquet"]


def test_plain_parquet_readers_see_the_schema(tmp_path):
    columns, embedding = table()
    embeddings.write(tmp_path / "e.parquet", columns, embedding)
    found = pq.read_table(tmp_path / "e.parquet")
    assert found.schema.field("embedding").type == pa.list_(pa.field("element", pa.float32(), False), 4)
    np.testing.assert_array_equal(np.array(found["embedding"].to_pylist(), np.float32), embedding)
    assert found["site_id"].to_pylist() == columns["site_id"].tolist()


def test_no_rows(tmp_path):
    columns, embedding = table()
    none = {name: values[:0] for name, values in columns.items()}
    embeddings.write(tmp_path / "e.parquet", none, embedding[:0])
    read, values = embeddings.read(tmp_path / "e.parquet")
    assert values.shape == (0, 4) and all(len(v) == 0 for v in read.values())


def test_a_written_file_is_whole_or_not_there(tmp_path):
    columns, embedding = table()
    with pytest.raises(ValueError, match="columns of .44, 45. rows for 45 embeddings"):
        embeddings.write(tmp_path / "e.parquet", columns | {"plate": columns["plate"][1:]}, embedding)
    with pytest.raises(pa.ArrowException):
        bad = columns | {"smiles": np.array([1, *columns["smiles"][1:]], object)}
        embeddings.write(tmp_path / "e.parquet", bad, embedding)
    assert not (tmp_path / "e.parquet").exists()


def test_row_groups_end_with_a_plate(tmp_path, monkeypatch):
    columns, embedding = table()
    counts = {}
    for size in (1, 6, 1000):
        monkeypatch.setattr(embeddings, "GROUP", size)
        embeddings.write(tmp_path / "e.parquet", columns, embedding)
        metadata = pq.read_metadata(tmp_path / "e.parquet")
        counts[size] = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
        same(embeddings.read(tmp_path / "e.parquet"), (columns, embedding))
    assert counts == {1: [5] * 9, 6: [10, 10, 10, 10, 5], 1000: [45]}


@pytest.mark.parametrize(
    "experiments, plates, groups",
    [
        (["A-02"], None, 3),
        ("A-02", None, 3),
        (["B-01", "A-01"], None, 6),
        (None, ["A-02/10"], 1),
        (None, "B-01/2", 1),
        (None, ["A-01/1", "B-01/10"], 2),
        (["A-01"], ["A-01/1", "A-01/2"], 2),
        ([], None, 0),
        (None, None, 9),
    ],
)
def test_a_part_reads_its_row_groups_only(tmp_path, small_groups, monkeypatch, experiments, plates, groups):
    columns, embedding = table()
    embeddings.write(tmp_path / "e.parquet", columns, embedding)
    read = []
    whole = pq.ParquetFile.read_row_group
    monkeypatch.setattr(pq.ParquetFile, "read_row_group", lambda self, i: read.append(i) or whole(self, i))
    found = embeddings.read(tmp_path / "e.parquet", experiments, plates)
    names = [f"{e}/{p}" for e, p in zip(columns["experiment"], columns["plate"])]
    keep = np.ones(len(names), bool)
    keep &= experiments is None or np.isin(columns["experiment"], experiments)
    keep &= plates is None or np.isin(names, plates)
    same(found, ({name: values[keep] for name, values in columns.items()}, embedding[keep]))
    assert len(read) == groups


def test_a_part_of_a_file_in_one_row_group(tmp_path):
    columns, embedding = table()
    order = np.random.default_rng(0).permutation(len(embedding))
    columns, embedding = {name: values[order] for name, values in columns.items()}, embedding[order]
    embeddings.write(tmp_path / "e.parquet", columns, embedding)
    keep = (columns["experiment"] == "A-02") & (columns["plate"] == 10)
    found = embeddings.read(tmp_path / "e.parquet", plates=["A-02/10"])
    same(found, ({name: values[keep] for name, values in columns.items()}, embedding[keep]))
    keep = columns["experiment"] == "B-01"
    found = embeddings.read(tmp_path / "e.parquet", experiments=["B-01"])
    same(found, ({name: values[keep] for name, values in columns.items()}, embedding[keep]))


@pytest.mark.parametrize(
    "selection, words",
    [
        ({"experiments": ["A-01", "C-01"]}, "e.parquet has no experiment 'C-01'"),
        ({"experiments": ["A-011"]}, "has no experiment 'A-011'"),
        ({"plates": ["A-01/3"]}, "has no plate 'A-01/3'"),
        ({"plates": ["A-01/x", "A-01/1"]}, "has no plate 'A-01/x'"),
        ({"plates": ["1"]}, "has no plate '1'"),
        ({"experiments": ["A-01"], "plates": ["A-02/1"]}, "has no"),
    ],
)
def test_a_part_that_is_not_there(tmp_path, small_groups, selection, words):
    columns, embedding = table()
    embeddings.write(tmp_path / "e.parquet", columns, embedding)
    with pytest.raises(UserError, match=words):
        embeddings.read(tmp_path / "e.parquet", **selection)


def test_files_that_are_something_else(tmp_path):
    with pytest.raises(UserError, match="nowhere does not exist"):
        embeddings.read(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"embeddings.parquet does not exist"):
        embeddings.read(tmp_path)
    for kind in (pa.list_(pa.float32()), pa.list_(pa.float64(), 2), None):
        table = {"site_id": ["a"]} | ({"embedding": pa.array([[1.0, 2.0]], kind)} if kind else {})
        pq.write_table(pa.table(table), tmp_path / "e.parquet")
        with pytest.raises(UserError, match="e.parquet is not an embeddings file: it needs a column 'embedding'"):
            embeddings.read(tmp_path / "e.parquet")
    values = pa.array([[1.0, 2.0], None], pa.list_(pa.float32(), 2))
    pq.write_table(pa.table({"site_id": ["a", None], "embedding": values}), tmp_path / "e.parquet")
    with pytest.raises(UserError, match="rows without an embedding|Expected all lists"):
        embeddings.read(tmp_path / "e.parquet")
    with pytest.raises(UserError, match="has no column experiment"):
        embeddings.read(tmp_path / "e.parquet", experiments=["A-01"])
    full = pa.array([[1.0, 2.0], [3.0, 4.0]], pa.list_(pa.float32(), 2))
    pq.write_table(pa.table({"site_id": ["a", None], "embedding": full}), tmp_path / "e.parquet")
    columns, embedding = embeddings.read(tmp_path / "e.parquet")  # of another program: a null is blank text
    assert columns["site_id"].tolist() == ["a", ""] and embedding.tolist() == [[1, 2], [3, 4]]


def test_damage_is_noticed(tmp_path):
    """Also inside the numbers: pages have checksums. (The footer has none, and pyarrow may not survive a wrong one.)"""
    columns, embedding = table()
    path = tmp_path / "e.parquet"
    embeddings.write(path, columns, embedding)
    whole = path.read_bytes()
    footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    noticed = 0
    for at in np.random.default_rng(0).integers(4, footer, 100):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        try:
            _, values = embeddings.read(path)
            np.testing.assert_array_equal(values, embedding)
        except UserError as error:
            assert "e.parquet cannot be read" in str(error) and "\n" not in str(error)
            noticed += 1
    assert noticed > 50
    for content in (b"", b"PAR1", whole[:-1], whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(UserError, match="cannot be read"):
            embeddings.read(path)


# --------------------------------------------------------------------------------------------------- evaluator


def test_the_evaluator_writes_the_columns_of_sites_csv(tmp_path):
    import tiny

    from rxrx_jax import data
    from tfds_builders import prepare

    folder = prepare.prepare("rxrx_sim", out=tmp_path, progress=False, **tiny.SCREEN)
    dataset = data.read_dataset(folder)
    rows = np.random.default_rng(0).permutation(len(dataset.sites))
    values = np.random.default_rng(1).normal(size=(len(rows), 6))
    context = types.SimpleNamespace(
        dataset=dataset,
        workdir=tmp_path,
        embeddings=lambda reading="": (rows, values + (reading != "")),
        marks=lambda rows: "T",
        ledger=None,
    )
    found = list(evaluator.evaluate(context))
    assert found == [("embeddings/sites", len(rows)), ("marks/embeddings", "T")]
    assert embeddings.read_provenance(tmp_path) is None  # without a ledger nothing is known
    columns, embedding = embeddings.read(tmp_path)
    np.testing.assert_array_equal(embedding, values.astype(np.float32))
    listed = list(csv.DictReader((folder / "sites.csv").read_text().splitlines()))
    assert list(columns) == [name for name in listed[0] if name in columns] and len(columns) == 11
    for name, found in columns.items():
        assert found.astype(str).tolist() == [listed[row][name] for row in rows], name


def test_the_evaluator_with_labels_that_the_source_withholds():
    sites = types.SimpleNamespace(**{
        name: np.array(["x_1_B02"] * 3) for name in ("split", "site_id", "well_id", "well_type")
    }, site=np.ones(3, np.int32), label=np.array([1, -1, 0], np.int32), experiment=np.zeros(3, int),
        plate=np.zeros(3, int), cell_type=np.zeros(3, int))  # fmt: skip
    dataset = types.SimpleNamespace(
        sites=sites, experiments=["E"], plates=["E/12"], cell_types=["C"], classes=["no", "yes"]
    )
    found = evaluator.columns(dataset, np.arange(3))
    assert found["perturbation"].tolist() == ["yes", "", "no"] and found["perturbation_id"].tolist() == [1, -1, 0]
    assert found["plate"].tolist() == [12] * 3 and found["well"].tolist() == ["B02"] * 3


# ------------------------------------------------------------------------------------------------------- probe


@pytest.fixture(scope="module")
def screen():
    """columns and embedding of 4 classes with a shift of every experiment; train has class 0 twice as often."""
    random = np.random.default_rng(0)
    centres = random.normal(size=(4, 6)) * 2
    rows = []
    for experiment, cell_type, split in [
        ("A-01", "A", "train"), ("A-01", "A", "id_test"), ("A-02", "A", "train"), ("A-03", "A", "val"),
        ("B-01", "B", "test"), ("B-02", "B", "test"),
    ]:  # fmt: skip
        for i in range(50):
            rows.append((split, f"{experiment}_1_B{i:02d}", cell_type, experiment, (0, 0, 1, 2, 3)[i % 5]))
    names = ("split", "well_id", "cell_type", "experiment")
    columns = {name: np.array(values, object) for name, values in zip(names, zip(*rows))}
    label = columns["perturbation_id"] = np.array([row[-1] for row in rows], np.int32)
    shift = {e: random.normal(size=6) * 3 for e in sorted(set(columns["experiment"]))}
    embedding = centres[label] + [shift[e] for e in columns["experiment"]] + random.normal(size=(len(rows), 6))
    columns["perturbation_id"] = np.where(np.arange(len(rows)) % 50 == 7, -1, label).astype(np.int32)
    return columns, embedding.astype(np.float32)


def test_the_probe_is_a_logistic_regression_on_train(screen):
    columns, embedding = screen
    label, split = columns["perturbation_id"], columns["split"]
    train = (split == "train") & (label >= 0)
    scaler = StandardScaler().fit(embedding[train].astype(float))
    model = LogisticRegression(max_iter=300).fit(scaler.transform(embedding[train].astype(float)), label[train])
    found = dict(probe_embeddings.probe(columns, embedding))
    assert list(found) == ["in_batch", "validation", "cross_batch"]
    for name, key in [("in_batch", "id_test"), ("validation", "val"), ("cross_batch", "test")]:
        rows = (split == key) & (label >= 0)
        right = model.predict(scaler.transform(embedding[rows].astype(float))) == label[rows]
        assert found[name]["site_accuracy"] == pytest.approx(right.mean()) and found[name]["sites"] == rows.sum()
        by_name = {e: right[columns["experiment"][rows] == e].mean() for e in set(columns["experiment"][rows])}
        assert {e: found[name][f"site_accuracy/{e}"] for e in by_name} == pytest.approx(by_name)
        assert found[name]["classes"] == 4 and found[name]["chance"] == 0.25
        assert found[name]["commonest"] == pytest.approx((label[rows] == 0).mean())
    assert found["in_batch"]["site_accuracy"] > found["cross_batch"]["site_accuracy"] + 0.1


def test_labels_outside_train_never_reach_the_fit(screen, monkeypatch):
    columns, embedding = screen
    fits = []
    whole = LogisticRegression.fit

    def spy(self, x, y):
        fits.append((x.copy(), y.copy()))
        return whole(self, x, y)

    monkeypatch.setattr(LogisticRegression, "fit", spy)
    held_out = columns["split"] != "train"
    other = np.where(held_out, (columns["perturbation_id"] + 1) % 4, columns["perturbation_id"])
    first = dict(probe_embeddings.probe(columns, embedding))
    second = dict(probe_embeddings.probe(columns | {"perturbation_id": other}, embedding))
    np.testing.assert_array_equal(fits[0][0], fits[1][0])
    np.testing.assert_array_equal(fits[0][1], fits[1][1])
    assert len(fits[0][1]) == ((columns["split"] == "train") & (columns["perturbation_id"] >= 0)).sum()
    assert first["cross_batch"] != second["cross_batch"]


def test_held_out_embeddings_reach_the_plain_fit_neither(screen, monkeypatch):
    columns, embedding = screen
    fits = []
    whole = probe_embeddings.fit_linear
    monkeypatch.setattr(probe_embeddings, "fit_linear", lambda x, y: fits.append(x) or whole(x, y))
    list(probe_embeddings.probe(columns, embedding))
    np.testing.assert_array_equal(fits[0], embedding[(columns["split"] == "train") & (columns["perturbation_id"] >= 0)])


@pytest.fixture
def saved(screen, tmp_path):
    columns, embedding = screen
    columns = columns | {"site_id": np.array([f"{name}_1" for name in columns["well_id"]])}
    embeddings.write(tmp_path / "embeddings.parquet", columns, embedding)
    return tmp_path


def run(*arguments):
    return command.run(probe_embeddings.main, [str(argument) for argument in arguments])


def test_the_command(screen, saved, capsys):
    assert run(saved) == 0
    plain = capsys.readouterr().out
    assert "300 embeddings of 6 values; 98 labelled training rows, 4 classes" in plain
    assert "transductive" not in plain
    expected = dict(probe_embeddings.probe(*screen))
    for name, metrics in expected.items():
        line = next(line for line in plain.splitlines() if line.startswith(name))
        assert line.split()[1:3] == [f"{metrics['sites']}", f"{metrics['site_accuracy']:.4f}"]
        assert line.split()[-2:] == ["0.2500", f"{metrics['commonest']:.4f}"]
    assert "one experiment" in plain and " to " in plain  # val has one, test two

    assert run(saved / "embeddings.parquet", "--per-experiment") == 0
    both = capsys.readouterr().out
    assert both.startswith(plain) and "standardised within each experiment (transductive:" in both[len(plain) :]
    line = next(line for line in both[len(plain) :].splitlines() if line.startswith("cross_batch"))
    assert float(line.split()[2]) > expected["cross_batch"]["site_accuracy"] + 0.1


def test_a_run_is_probed_under_its_own_protocol(screen, saved, capsys):
    (saved / "mine.py").write_text(
        "import numpy as np\n"
        "from rxrx_jax.data import Roles\n"
        "from rxrx_jax.evaluate.protocols import Protocol\n"
        "def protocol(dataset):\n"
        "    test = np.flatnonzero(dataset.sites.split == 'test')\n"
        "    return Protocol(Roles(test[::2], {'other_half': test[1::2]}))\n"
    )
    (saved / "config.json").write_text(json.dumps({"protocol": {"name": str(saved / "mine.py")}}))
    assert run(saved) == 0
    found = capsys.readouterr().out
    assert "\nother_half " in found and "in_batch" not in found
    assert run(saved, "--protocol=held_out_experiments") == 0
    plain = capsys.readouterr().out
    assert "\nin_batch " in plain and "other_half" not in plain
    (saved / "config.json").write_text("{}")  # of a run from before there were protocols
    assert run(saved) == 0 and capsys.readouterr().out == plain
    assert run(saved, "--protocol=wilds_ood") == 2
    assert "protocol wilds_ood: fit is 40,612 images of 33 experiments" in capsys.readouterr().err


def test_no_labels_outside_train(screen, saved, tmp_path, capsys):
    columns, embedding = screen
    columns = columns | {"split": np.array(["train"] * len(embedding))}
    embeddings.write(tmp_path / "e.parquet", columns, embedding)
    assert run(tmp_path / "e.parquet") == 0
    out = capsys.readouterr().out
    assert "no scored row has a label" in out and "cross_batch" not in out


def test_mistakes_are_one_line(screen, tmp_path, capsys, monkeypatch):
    columns, embedding = screen
    path = tmp_path / "e.parquet"
    assert run(tmp_path / "nowhere") == 2
    embeddings.write(path, {"split": columns["split"].astype(str)}, embedding)
    assert run(path) == 2
    columns = {name: values.astype(str) if values.dtype == object else values for name, values in columns.items()}
    embeddings.write(path, columns | {"perturbation_id": np.zeros(len(embedding), np.int32)}, embedding)
    assert run(path) == 2

    def too_large(*args):
        raise MemoryError

    monkeypatch.setattr(probe_embeddings, "fit_linear", too_large)
    embeddings.write(path, columns, embedding)
    assert run(path) == 2
    errors = capsys.readouterr().err.splitlines()
    expected = [
        "nowhere does not exist",
        "no column well_id, cell_type, experiment, perturbation_id",
        "two classes",
        "4 classes on 98 rows does not fit this machine's memory",
    ]
    for line, words in zip(errors, expected):
        assert line.startswith("error: ") and words in line
    assert len(errors) == 4


def test_nothing_of_the_project_names_the_old_file():
    sources = [path for folder in ("rxrx_jax", "tests", "configs") for path in (ROOT / folder).rglob("*.py")]
    old = "embeddings." + "npz"
    assert len(sources) > 100
    assert [str(path) for path in [*sources, ROOT / "README.md"] if old in path.read_text()] == []
