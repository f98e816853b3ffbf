"""Whole runs on random trees: pretraining beats the most frequent label, resumes exactly, is the same on two hosts;
fine-tuning starts from it, keeps the best, and says what was seen before."""

import numpy as np
import pytest
import tiny
from hosts_tools import finish

from rxrx_jax.base import seen
from rxrx_jax.base.config import load
from rxrx_jax.base.errors import UserError
from rxrx_jax.training import metrics, train

SOURCE = """
from rxrx_jax.data import molecules
from rxrx_jax.data.molecules.noise import trees

def make(config, roles):
    return molecules.make(config, trees(**config.data.builder.as_kwargs()))
"""
MODEL = {"model.width": 32, "model.depth": 2, "model.mlp": 64, "model.heads": 2, "model.dropout": 0.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("molecules")
    (path / "trees.py").write_text(SOURCE)
    return path


def values(folder, config, library, **changes):
    found = load(config)
    found["data"] |= {"source": str(folder / "trees.py"), "builder": library, "minibatch": 16}
    found |= {"evaluation_minibatch": 32, "log_steps": 5}
    for key, value in (MODEL | changes).items():
        *parents, last = key.split(".")
        node = found
        for parent in parents:
            node = node[parent]
        node[last] = value
    return found


LIBRARY = dict(count=800, labels=10, tokens=8, atoms=(3, 40))


@pytest.fixture(scope="module")
def pretrained(folder):
    settings = {"total_epochs": 8.0, "checkpoint_steps": 50}
    last = train.run(values(folder, "mole.py", LIBRARY, **settings), folder / "whole")
    return last, folder / "whole", settings


def evaluation(workdir):
    return [line for line in metrics.read(workdir / "metrics.jsonl") if line.get("final")][-1]


@pytest.mark.full
def test_pretraining_learns_environments_and_resumes_exactly(folder, pretrained):
    last, workdir, settings = pretrained
    found = evaluation(workdir)
    for split in ("validation", "test"):
        assert found[f"{split}/masked_accuracy"] > found[f"{split}/most_frequent_label_accuracy"] + 0.15
        assert found[f"{split}/unknown_labels"] == 0 and found[f"{split}/seen_before"] == 0
    assert last["done"] and not last["transductive"] and last["flops_per_image"] > 0
    with tiny.interrupted(83):
        train.run(values(folder, "mole.py", LIBRARY, **settings), folder / "stopped")
    again = train.run(values(folder, "mole.py", LIBRARY, **settings), folder / "stopped")
    assert again["parameters_sha256"] == last["parameters_sha256"]


@pytest.mark.full
def test_two_hosts_train_what_one_does(folder):
    """Minibatches of several buckets, and the evaluation."""
    wanted = values(folder, "mole.py", LIBRARY, total_epochs=0.5, log_steps=1)
    wanted["watchdog_timeout_seconds"] = 120.0
    found = {}
    for count in (1, 2):
        codes, hosts = finish(folder / f"hosts-{count}", wanted, processes=count, devices=2 // count)
        assert codes == [0] * count, "\n".join(hosts.log(i) for i in range(count))
        lines = metrics.read(folder / f"hosts-{count}" / "metrics.jsonl")
        losses = [line["loss"] for line in lines if "loss" in line]
        found[count] = losses, evaluation(folder / f"hosts-{count}"), lines[-1]
    (losses, scores, last), (other_losses, other_scores, other_last) = found[1], found[2]
    assert len(losses) == len(other_losses) > 15 and losses[-1] < losses[0]
    np.testing.assert_allclose(other_losses, losses, rtol=1e-4)
    for name in ("masked_accuracy", "most_frequent_label_accuracy", "unknown_labels"):
        assert other_scores[f"test/{name}"] == pytest.approx(scores[f"test/{name}"], abs=0.01)
    assert last["done"] and other_last["done"]


@pytest.mark.full
def test_fine_tuning_starts_from_it_and_keeps_the_best(folder, pretrained):
    _, workdir, _ = pretrained
    settings = {"total_epochs": 6.0, "evaluate_epochs": 2.0, "init.path": str(workdir)}
    last = train.run(values(folder, "mole_finetune.py", LIBRARY, **settings), folder / "tuned")
    lines = [line for line in metrics.read(folder / "tuned" / "metrics.jsonl") if "validation/score" in line]
    found = evaluation(folder / "tuned")
    assert found["validation/score"] == max(line["validation/score"] for line in lines)
    assert last["selected_step"] == next(x["step"] for x in lines if x["validation/score"] == found["validation/score"])
    assert found["test/auroc"] > 0.7 and found["test/spearman"] > 0.5 and "test/auroc/many" not in found
    assert not any("test/mae" in line for line in lines[:-1])  # nobody can choose by it
    saw = seen.read(folder / "tuned" / seen.NAME)
    assert saw.stages() == ["tuned (properties)"] and saw.count("labels") == 640

    # Other molecules, some of which the first stage had in training; and other tokens.
    fewer = LIBRARY | dict(count=400)  # a test molecule here was trained on there
    settings |= {"total_epochs": 1.0, "evaluate_epochs": 0.5}
    last = train.run(values(folder, "mole_finetune.py", fewer, **settings), folder / "seen")
    found = evaluation(folder / "seen")
    assert found["test/seen_before"] == 40 and found["marks/test"] == "T" and last["transductive"]
    other = LIBRARY | dict(tokens=9)
    with pytest.raises(UserError, match="has the vocabulary trees 8 10 and this run's data trees 9 10"):
        train.run(values(folder, "mole_finetune.py", other, **settings), folder / "other")
    again = settings | {"init.path": str(folder / "tuned")}
    with pytest.raises(UserError, match="has seen labels that this stage scores: TREE-0-320 and 79 others"):
        train.run(values(folder, "mole_finetune.py", fewer, **again), folder / "contaminated")
