"""Held-out labels that reach a number through two configs are refused, and whatever was seen is marked."""

import dataclasses
import json
import pathlib
import shutil

import jax
import numpy as np
import pytest
import tiny
from paths import REFERENCE

from rxrx_jax import data, embed, probe_embeddings, weights
from rxrx_jax.adapt import Needs
from rxrx_jax.base import command, embeddings, seen
from rxrx_jax.base.errors import UserError
from rxrx_jax.data.builders import builders
from rxrx_jax.tasks import make_task
from rxrx_jax.training import metrics, train
from rxrx_jax.training.provenance import former
from rxrx_jax.weights import export

EXCHANGED = {"data.builder.train": tiny.SCREEN["test"], "data.builder.test": tiny.SCREEN["train"]}
KEYS = ("code", "data", "python", "jax", "flax", "numpy", "device")
ENCODER = {"model.variant": "XXS/8", "normalisation": "image"}


def values(config, folder, **changes):
    found = tiny.values(config, folder, **ENCODER | changes)
    found["data"]["builder"] = dict(found["data"]["builder"])
    return found


def fine_tune(folder, workdir, **changes):
    train.run(values("dann_vit.py", folder, evaluators={}, **changes), workdir)
    return str(workdir)


def probe(folder, workdir, path, **changes):
    """A linear probe on the tiny screen, of what `path` holds: its last evaluation."""
    evaluators = {"accuracy": {}, "embeddings": {}}
    changes = {"init.path": path, "evaluators": evaluators} | changes
    train.run(values("linear_probe.py", folder, **changes), workdir)
    return next(line for line in metrics.read(workdir / "metrics.jsonl") if line.get("final"))


@pytest.fixture(scope="module")
def clean(folder, tmp_path_factory):
    """A stage fine-tuned on the train experiments."""
    return fine_tune(folder, tmp_path_factory.mktemp("clean") / "clean")


@pytest.fixture(scope="module")
def leaking(folder, tmp_path_factory):
    """A stage fine-tuned on what are the test experiments of the stage after."""
    return fine_tune(folder, tmp_path_factory.mktemp("leaking") / "leaking", **EXCHANGED)


def test_a_clean_chain_is_neither_refused_nor_marked(folder, clean, tmp_path):
    found = probe(folder, tmp_path, clean)
    places = ("in_batch", "validation", "cross_batch")
    assert {k: v for k, v in found.items() if k.startswith("marks/")} == {
        f"marks/{name}": "" for name in (*places, "embeddings")
    }
    whole = former.seen_by(str(tmp_path))
    dataset = data.open_dataset("rxrx_sim", tiny.SCREEN, folder)
    assert whole.count("labels") == whole.count("images") == (dataset.sites.split == "train").sum()
    assert whole.stages() == ["clean (classify)"]  # the first that used them
    config = json.loads((tmp_path / "config.json").read_text())["resolved"]
    assert config["transductive"] is False


def test_the_labels_of_the_test_experiments_are_refused_over_two_configs(folder, leaking, tmp_path):
    message = (
        rf"^init.path={leaking} has seen labels that this stage scores: SIMB-01_1_\w+ and \d+ others, in stage leaking "
        r"\(classify\); start from a stage that held them out, or say --config.init.contaminated=allow and have every "
        r"metric marked X$"
    )
    with pytest.raises(UserError, match=message):
        probe(folder, tmp_path / "refused", leaking)
    assert not (tmp_path / "refused/metrics.jsonl").exists()
    found = probe(folder, tmp_path / "allowed", leaking, **{"init.contaminated": "allow"})
    assert (found["marks/cross_batch"], found["marks/embeddings"]) == ("TX", "TX")
    assert found["marks/in_batch"] == found["marks/validation"] == ""  # these it has not seen
    with pytest.raises(UserError, match="init.contaminated='yes': expected allow or nothing"):
        probe(folder, tmp_path / "other", leaking, **{"init.contaminated": "yes"})


def test_a_stage_between_hides_nothing(folder, leaking, tmp_path):
    between = values("mae_vit.py", folder, evaluators={}, **{"init.path": leaking, "data.builder.seed": 1})
    train.run(between, tmp_path / "mae")  # in another world, without labels, and it scores nothing
    with pytest.raises(UserError, match="in stage leaking"):
        probe(folder, tmp_path / "probe", str(tmp_path / "mae"))


def test_a_copy_under_another_name_and_encoding_hides_nothing(folder, leaking, tmp_path):
    encoded = values("linear_probe.py", folder)["data"]["builder"] | {"encoding": "delta"}
    with pytest.raises(UserError, match="SIMB-01"):
        probe(folder, tmp_path / "delta", leaking, **{"data.builder": encoded})
    made = builders().prepare("rxrx_sim", out=folder, **encoded)
    shutil.copytree(made, builders().find("rxrx_sim", out=tmp_path / "elsewhere", **tiny.SCREEN))
    with pytest.raises(UserError, match="SIMB-01"):
        probe(tmp_path / "elsewhere", tmp_path / "copied", leaking)


def test_the_same_site_ids_in_another_world_are_other_sites(folder, leaking, tmp_path):
    found = probe(folder, tmp_path, leaking, **{"data.builder.seed": 1})
    assert found["marks/cross_batch"] == ""


def test_images_seen_by_the_stage_before_make_it_transductive(folder, tmp_path):
    train.run(values("mae_vit.py", folder, evaluators={}, **EXCHANGED), tmp_path / "mae")
    found = probe(folder, tmp_path / "probe", str(tmp_path / "mae"))
    assert found["marks/cross_batch"] == "T" and found["marks/in_batch"] == found["marks/validation"] == ""
    assert metrics.finished(tmp_path / "probe/metrics.jsonl")["transductive"] is True


@pytest.mark.parametrize(
    "config, changes, expected",
    [
        ("convnet.py", {}, "   "),
        ("convnet.py:normalisation=image", {}, "   "),
        ("convnet.py:normalisation=experiment", {}, "TTT"),
        ("convnet.py:normalisation=plate", {}, "TTT"),
        ("convnet.py:method=adabn", {}, "TTT"),
        ("convnet.py:method=ttbna", {}, "TTT"),
        ("convnet.py:method=dann,normalisation=image", {}, "   "),
        ("convnet.py:method=dann,normalisation=image,transductive=True", {}, " TT"),
    ],
)
def test_whatever_sees_scored_images_is_marked_transductive(config, changes, expected, folder, tmp_path):
    from rxrx_jax.training.provenance import marks

    config = train.Config(tiny.values(config, folder, **changes))
    source = tiny.source(config)
    ledger = marks.open_ledger(config, source, make_task(config, source).method, "a (b)", True, "")
    found = [ledger.marks(where) or " " for where in ("in_batch", "validation", "cross_batch")]
    assert "".join(found) == expected and ledger.transductive is ("T" in expected)


def test_whatever_uses_that_held_out_wells_are_untreated_is_marked_c(folder, tmp_path):
    from rxrx_jax.training.provenance import marks

    for context in ("both", "controls"):
        config = train.Config(tiny.values("convnet.py:method=cs_bn", folder, **{"adapt.context": context}))
        source = tiny.source(config)
        ledger = marks.open_ledger(config, source, make_task(config, source).method, "a (b)", True, "")
        scored, untreated = source.dataset.roles.scored, data.untreated(source.dataset.sites)
        for where in ("validation", "cross_batch"):
            assert ledger.marks(where) == "TC"
            treated = scored[where][~untreated[scored[where]]]  # of which the statistics of controls alone see none
            assert ledger.marks(treated) == ("TC" if context == "both" else "C")
        drawn = source.samplers["controls"].drawn_from
        assert ledger.seen.count("controls") == len(drawn) and ledger.seen.hits("images", ledger.digests[drawn]).all()
    labels = dataclasses.replace(ledger, needs=Needs())  # a later stage that scores what this one knew as untreated
    rows = np.setdiff1d(drawn, ledger.fitted)
    assert len(rows) and labels.marks(rows) == "TC"


def test_an_evaluator_marks_what_it_corrects_with_test_images(folder, tmp_path):
    train.run(tiny.values("convnet.py:post_hoc=adabn", folder), tmp_path / "convnet")
    found = metrics.read(tmp_path / "convnet/metrics.jsonl")
    final, end = next(line for line in found if line.get("final")), found[-1]
    assert final["marks/adabn/cross_batch"] == "T" and final["marks/cross_batch"] == final["marks/embeddings"] == ""
    assert end["transductive"] is False and embeddings.read_provenance(tmp_path / "convnet")[0] == ""

    train.run(values("linear_probe.py", folder, evaluators={"probe": {}}), tmp_path / "probe")
    final = next(line for line in metrics.read(tmp_path / "probe/metrics.jsonl") if line.get("final"))
    for encoder in ("pretrained", "untrained", "handcrafted"):
        assert final[f"marks/probe/{encoder}/centre_scale_experiment/cross_batch"] == "T"
        assert final[f"marks/probe/{encoder}/none/cross_batch"] == ""


def test_embeddings_carry_what_was_seen_and_are_refused_too(folder, leaking, tmp_path, capsys):
    dataset = data.open_dataset("rxrx_sim", tiny.SCREEN, folder)
    embed.embed_dataset(embed.open_model(leaking, 6), dataset, tmp_path / "sites.parquet")
    embed.embed_dataset(embed.open_model(leaking, 6), dataset, tmp_path / "wells.parquet", per="well")
    probe(folder, tmp_path / "run", leaking, **{"init.contaminated": "allow"})
    for path in (tmp_path / "sites.parquet", tmp_path / "wells.parquet", tmp_path / "run"):
        columns, _ = embeddings.read(path)
        of_test = columns["seen"][columns["split"] == "test"]
        assert "label" in of_test.tolist() and "label" not in columns["seen"][columns["split"] == "val"].tolist()
        mark, table = embeddings.read_provenance(path)
        assert mark == "TX" and seen.from_bytes(table).stages()[0] == "leaking (classify)"
        assert command.run(probe_embeddings.main, [str(path)]) == 2
        error = capsys.readouterr().err
        assert "has seen" not in error and "that have seen labels to be scored: SIMB-01_1_" in error
        assert command.run(probe_embeddings.main, [str(path), "--contaminated=allow"]) == 0
        printed = capsys.readouterr().out
        assert "as they are [TX]" in printed and "seen: the labels of" in printed


def test_exported_weights_carry_what_was_seen(folder, leaking, tmp_path):
    export.export(leaking, tmp_path / "out")
    assert weights.seen(tmp_path / "out").rows.equals(former.seen_by(leaking).rows)
    card = " ".join((tmp_path / "out/README.md").read_text().split())
    about = json.loads((tmp_path / "out/config.json").read_text())
    assert f"used the labels of {about['seen']['labels']:,} sites (in `leaking (classify)`)" in card
    assert about["seen"]["labels"] > 0 and set(about["provenance"]) == set(KEYS)
    with pytest.raises(UserError, match="in stage leaking"):
        probe(folder, tmp_path / "probe", str(tmp_path / "out"))


def test_weights_of_unknown_origin_carry_a_question_mark(folder, clean, tmp_path):
    export.export(clean, tmp_path / "out")
    (tmp_path / "out/seen.parquet").unlink()  # now nothing beside the file says it
    found = probe(folder, tmp_path / "probe", str(tmp_path / "out"))
    assert {v for k, v in found.items() if k.startswith("marks/")} == {"?"}
    assert probe(folder, tmp_path / "next", str(tmp_path / "probe"))["marks/cross_batch"] == "?"
    assert former.seen_by(str(tmp_path / "next")).unknown == ("out",)
    assert embed.open_model(str(tmp_path / "next"), 6).seen.unknown == ("out",)
    published = REFERENCE / "weights" / "weights_timm.safetensors"
    assert former.seen_by(str(published)).unknown == (published.name,)


def test_config_and_last_line_say_what_made_the_numbers(clean):
    stored = json.loads((pathlib.Path(clean) / "config.json").read_text())["resolved"]["provenance"]
    last = metrics.finished(pathlib.Path(clean) / "metrics.jsonl")
    assert tuple(stored) == tuple(sorted(KEYS)) and stored == {key: last[key] for key in KEYS}
    assert all(isinstance(value, str) and value for value in stored.values())
    assert stored["jax"] == jax.__version__ and "fingerprint " in stored["data"] and " manifest " in stored["data"]


def test_a_run_that_continues_with_other_code_says_so_and_keeps_both(folder, tmp_path, monkeypatch, capsys):
    run = values("mae_vit.py", folder, evaluators={})
    train.run(run, tmp_path)
    first = json.loads((tmp_path / "config.json").read_text())["resolved"]["provenance"]
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "metrics.jsonl").write_text("".join(lines[:-1]))  # stopped before its last line
    monkeypatch.setattr(train.facts, "code_version", lambda: "9.9 other")
    last = train.run(run, tmp_path)
    assert f"note: {tmp_path} continues with code 9.9 other after {first['code']}" in capsys.readouterr().err
    resolved = json.loads((tmp_path / "config.json").read_text())["resolved"]
    assert resolved["provenance"]["code"] == last["code"] == "9.9 other"
    assert resolved["provenance_before"] == [first]
    with pytest.raises(UserError, match="holds a run with another config"):
        train.run(run | {"seed": 5}, tmp_path)
