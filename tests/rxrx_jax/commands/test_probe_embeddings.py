"""The probe of an embeddings file: a logistic regression on train alone, the command, mistakes."""

import json
import re

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from rxrx_jax import probe_embeddings
from rxrx_jax.base import command, embeddings
from rxrx_jax.base.errors import UserError
from rxrx_jax.base.seen import Seen
from rxrx_jax.evaluate.probes import logistic


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


def metrics(*given, **more):
    return probe_embeddings.probe(*given, **more)[1]


def test_the_probe_is_a_logistic_regression_on_train(screen):
    """Its C is the best on val; that of C = 1 stands beside it."""
    columns, embedding = screen
    label, split = columns["perturbation_id"], columns["split"]
    train = (split == "train") & (label >= 0)
    scaler = StandardScaler().fit(embedding[train].astype(float))
    fitted, found = probe_embeddings.probe(columns, embedding)
    models = {}
    for strength in (1.0, fitted.about["C"]):
        model = LogisticRegression(C=strength, max_iter=300)
        models[strength] = model.fit(scaler.transform(embedding[train].astype(float)), label[train])
    assert fitted.about["C_chosen_on"] == "validation" and list(found) == ["in_batch", "validation", "cross_batch"]
    for name, key in [("in_batch", "id_test"), ("validation", "val"), ("cross_batch", "test")]:
        rows = (split == key) & (label >= 0)
        right = {
            strength: model.predict(scaler.transform(embedding[rows].astype(float))) == label[rows]
            for strength, model in models.items()
        }
        assert found[name]["beside"] == {"C_1": pytest.approx(right[1.0].mean())}
        right = right[fitted.about["C"]]
        assert found[name]["site_accuracy"] == pytest.approx(right.mean()) and found[name]["sites"] == rows.sum()
        by_name = {e: right[columns["experiment"][rows] == e].mean() for e in set(columns["experiment"][rows])}
        assert {e: found[name][f"site_accuracy/{e}"] for e in by_name} == pytest.approx(by_name)
        assert found[name]["classes"] == 4 and found[name]["chance"] == 0.25
        assert found[name]["commonest"] == pytest.approx((label[rows] == 0).mean())
    assert found["in_batch"]["site_accuracy"] > found["cross_batch"]["site_accuracy"] + 0.1


def test_nothing_held_out_reaches_the_fit(screen, monkeypatch):
    columns, embedding = screen
    fits, whole = [], logistic._problem
    monkeypatch.setattr(logistic, "_problem", lambda x, y: fits.append((x, y)) or whole(x, y))
    held_out = columns["split"] != "train"
    other = np.where(held_out, (columns["perturbation_id"] + 1) % 4, columns["perturbation_id"])
    first = metrics(columns, embedding)
    second = metrics(columns | {"perturbation_id": other}, embedding)
    train = (columns["split"] == "train") & (columns["perturbation_id"] >= 0)
    assert len(fits) == 2
    for x, y in fits:
        np.testing.assert_array_equal(x, embedding[train])
        np.testing.assert_array_equal(y, columns["perturbation_id"][train])
    assert first["cross_batch"] != second["cross_batch"]


@pytest.fixture
def saved(screen, tmp_path):
    columns, embedding = screen
    site = 1 + (columns["split"] == "id_test")
    columns = columns | {"site_id": np.array([f"{name}_{of}" for name, of in zip(columns["well_id"], site)])}
    embeddings.write(tmp_path / "embeddings.parquet", columns, embedding)
    return tmp_path


def run(*arguments):
    return command.run(probe_embeddings.main, [str(argument) for argument in arguments])


def test_the_command(screen, saved, capsys):
    assert run(saved) == 0
    plain = capsys.readouterr().out
    assert "300 embeddings of 6 values; 98 labelled training rows, 4 classes" in plain
    assert "transductive" not in plain
    expected = metrics(*screen)
    for name, found in expected.items():
        line = next(line for line in plain.splitlines() if line.startswith(name))
        assert line.split()[1:4] == [
            f"{found['sites']}",
            f"{found['site_accuracy']:.4f}",
            f"{found['beside']['C_1']:.4f}",
        ]
        assert line.split()[-2:] == ["0.2500", f"{found['commonest']:.4f}"]
    heads = [line for line in plain.splitlines() if "L-BFGS" in line]
    assert re.fullmatch("C = .* chosen on validation, converged after [0-9]+ steps of L-BFGS, .* per row", heads[0])
    assert heads[1].startswith("C_1: C = 1, converged after ") and len(heads) == 2
    assert "one experiment" in plain and " to " in plain  # val has one, test two

    assert run(saved / "embeddings.parquet", "--correct=centre_scale_experiment") == 0
    both = capsys.readouterr().out
    assert both.startswith(plain) and "centre_scale_experiment (transductive:" in both[len(plain) :]
    line = next(line for line in both[len(plain) :].splitlines() if line.startswith("cross_batch"))
    assert float(line.split()[2]) > expected["cross_batch"]["site_accuracy"] + 0.1


def test_corrections_by_name_with_their_marks(screen, tmp_path, capsys):
    columns, embedding = screen
    control = columns["perturbation_id"] == 0
    columns = columns | {
        "plate": np.ones(len(embedding), np.int32),
        "well_type": np.where(control, "negative_control", "treatment").astype(object),
    }
    named = {name: values.astype(str) if values.dtype == object else values for name, values in columns.items()}
    embeddings.write(tmp_path / "e.parquet", named, embedding, embeddings.provenance("", Seen().to_bytes()))
    assert run(tmp_path / "e.parquet", "--correct=centre_plate_controls", "--correct=rank_inverse_normal") == 0
    blocks = capsys.readouterr().out.split("\n\n")[1:]
    titles = ["as they are", "centre_plate_controls (control-anchored: ", "rank_inverse_normal (transductive: "]
    assert [block.partition("\n")[0][: len(title)] for block, title in zip(blocks, titles)] == titles
    assert [block.partition("\n")[0][-4:] for block in blocks[1:]] == [" [C]", " [T]"]
    shift = {e: embedding[(columns["experiment"] == e) & control].mean(0) for e in set(columns["experiment"])}
    by_hand = embedding - np.array([shift[e] for e in columns["experiment"]])
    expected = metrics(columns, by_hand)["cross_batch"]
    line = next(line for line in blocks[1].splitlines() if line.startswith("cross_batch"))
    assert float(line.split()[2]) == pytest.approx(expected["site_accuracy"], abs=1e-4)
    assert float(line.split()[-3]) == pytest.approx(expected["treatments"], abs=1e-4)
    rows, label = columns["split"] == "test", columns["perturbation_id"]
    treated, known = rows & (label > 0), rows & (label >= 0)
    right = expected["site_accuracy"] * known.sum() - expected["treatments"] * treated.sum()
    assert 0 <= right <= (known & control).sum() and right == pytest.approx(round(right))


def test_a_correction_that_cannot_be_applied_is_one_line(screen, saved, tmp_path, capsys):
    columns, embedding = screen
    assert run(saved, "--correct=tvn") == 2
    assert "--correct=tvn needs to know the well_type of every embedding" in capsys.readouterr().err
    named = {name: values.astype(str) if values.dtype == object else values for name, values in columns.items()}
    control = (columns["perturbation_id"] == 0) & (columns["experiment"] != "B-02")
    named |= {"plate": np.full(len(embedding), 3), "well_type": np.where(control, "negative_control", "treatment")}
    embeddings.write(tmp_path / "e.parquet", named, embedding)
    assert run(tmp_path / "e.parquet", "--correct=centre_plate_controls") == 2
    error = capsys.readouterr().err
    assert error == (
        "error: --correct=centre_plate_controls: B-02/3 has no untreated wells, and this correction needs at least 1 "
        "there\n"
    )


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


@pytest.mark.parametrize("kind", ["knn_10", "class_mean", "lars"])
def test_other_probes_by_name(screen, saved, kind, capsys):
    assert run(saved, f"--probe={kind}") == 0
    shown = capsys.readouterr().out
    found = metrics(*screen, kind=kind)
    line = next(line for line in shown.splitlines() if line.startswith("cross_batch"))
    assert float(line.split()[2]) == pytest.approx(found["cross_batch"]["site_accuracy"], abs=1e-4)
    assert found["in_batch"]["site_accuracy"] > 0.5 and found["in_batch"]["beside"] == {} and "C = " not in shown
    assert ("training accuracy" in shown) == (kind == "lars")
    if kind == "knn_10":
        columns, embedding = screen
        label, split = columns["perturbation_id"], columns["split"]
        model = KNeighborsClassifier(10, metric="cosine")
        train, test = ((split == name) & (label >= 0) for name in ("train", "test"))
        right = model.fit(embedding[train], label[train]).predict(embedding[test]) == label[test]
        assert found["cross_batch"]["site_accuracy"] == pytest.approx(right.mean())


def test_a_regression_that_did_not_converge_is_told(saved, capsys, monkeypatch):
    monkeypatch.setattr(logistic, "STEPS", 1)
    assert run(saved) == 0
    assert re.search("C = .* chosen on validation, NOT CONVERGED after 1 steps", capsys.readouterr().out)


def test_an_unknown_probe_is_one_line(saved, capsys):
    assert run(saved, "--probe=svm") == 2
    assert "--probe='svm': expected logistic, lars, class_mean, knn_1, knn_10, knn_20" in capsys.readouterr().err


def test_no_labels_outside_train(screen, saved, tmp_path, capsys):
    columns, embedding = screen
    columns = columns | {"split": np.array(["train"] * len(embedding))}
    embeddings.write(tmp_path / "e.parquet", columns, embedding)
    assert run(tmp_path / "e.parquet") == 0
    out = capsys.readouterr().out
    assert "no scored row has a label" in out and "cross_batch" not in out


def test_mistakes_are_one_line(screen, tmp_path, capsys):
    columns, embedding = screen
    path = tmp_path / "e.parquet"
    assert run(tmp_path / "nowhere") == 2
    embeddings.write(path, {"split": columns["split"].astype(str)}, embedding)
    assert run(path) == 2
    columns = {name: values.astype(str) if values.dtype == object else values for name, values in columns.items()}
    embeddings.write(path, columns | {"perturbation_id": np.zeros(len(embedding), np.int32)}, embedding)
    assert run(path) == 2

    errors = capsys.readouterr().err.splitlines()
    expected = [
        "nowhere does not exist",
        "no column well_id, cell_type, experiment, perturbation_id",
        "two classes",
    ]
    for line, words in zip(errors, expected):
        assert line.startswith("error: ") and words in line
    assert len(errors) == 3


def test_other_counts_are_accepted_with_partial_alone(screen, tmp_path, capsys):
    columns, embedding = screen
    embeddings.write(tmp_path / "embeddings.parquet", columns, embedding)
    given = [str(tmp_path), "--protocol=held_out_cell_type:cell_type=B"]
    names = {"A-01": "HUVEC-01", "A-02": "HUVEC-02", "A-03": "HUVEC-17", "B-01": "B-01", "B-02": "B-02"}
    other = columns | {"experiment": np.array([names[e] for e in columns["experiment"]], object)}
    embeddings.write(tmp_path / "embeddings.parquet", other | {"site": np.full(len(embedding), 1)}, embedding)
    assert command.run(lambda argv: probe_embeddings.main(given)) == 2
    assert "it is for 1,139 classes and the dataset has 4; " in capsys.readouterr().err
    assert not command.run(lambda argv: probe_embeddings.main([*given, "--partial"]))
    said = capsys.readouterr().out
    assert "PARTIAL: it is for 1,139 classes and the dataset has 4\n" in said
    assert "cross_batch/well_accuracy" in said and "cross_batch/balanced_accuracy" in said


def test_a_class_absent_from_training_is_counted_and_unknown_ids_are_refused(screen):
    columns, embedding = screen
    label = columns["perturbation_id"]
    lost = np.where((columns["split"] == "train") & (label == 2), -1, label).astype(np.int32)
    found = metrics(columns | {"perturbation_id": lost}, embedding)
    assert found["cross_batch"]["absent_classes"] == 1 and found["cross_batch"]["classes"] == 3
    assert found["cross_batch"]["absent_sites"] == ((columns["split"] == "test") & (label == 2)).sum()
    lost[4] = -7
    with pytest.raises(UserError, match="the embeddings have the perturbation_id -7 in row 4: use -1"):
        metrics(columns | {"perturbation_id": lost}, embedding)
