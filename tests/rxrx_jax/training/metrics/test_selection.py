"""selection=best_val: which network is published, over restarts too, and what cannot be selected."""

import json

import jax
import numpy as np
import pytest
import tiny
from paths import ROOT

from rxrx_jax import evaluate
from rxrx_jax.base import config as config_lib
from rxrx_jax.base.errors import UserError
from rxrx_jax.training import checkpoint, metrics, train
from rxrx_jax.training.state import CHOSEN_BY, TrainState

HELD_OUT = "cross_batch/site_accuracy"
SCORES = (0.25, 0.5, 0.5, 0.125)  # after each of four steps: the second is the first of the best


def values(folder, **changes):
    changes = {"model.widths": (4,), "total_steps": 4, "checkpoint_steps": 1, "keep_checkpoints": 10} | changes
    return tiny.values("convnet.py:normalisation=image", folder, **{"evaluators": {"accuracy": {}}} | changes)


@pytest.fixture
def scored(monkeypatch):
    """An accuracy that is read from SCORES by the number of changes of the network that it is given."""
    seen: list[str] = []

    def accuracy(context):
        name = str(np.asarray(jax.tree.leaves(context.network.params["head"])[0]).sum())
        if name not in seen:
            seen.append(name)
        yield CHOSEN_BY, SCORES[seen.index(name)]
        yield HELD_OUT, SCORES[seen.index(name)] / 2

    monkeypatch.setitem(evaluate.EVALUATORS, "accuracy", accuracy)
    return seen


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def network_at(run, step):
    return checkpoint.stored_network(run / "checkpoints" / str(step))


def test_the_network_of_the_best_evaluation_is_published(folder, tmp_path, scored, monkeypatch):
    chosen = {"selection": "best_val", "evaluate_steps": 1}
    last = train.run(values(folder, evaluate_steps=1), tmp_path / "last")
    assert "selected_step" not in last and len(scored) == 4
    del scored[:]
    best = train.run(values(folder, **chosen), tmp_path / "best")
    assert best["selected_step"] == 2 and best["best/validation/site_accuracy"] == 0.5
    same(network_at(tmp_path / "best", 4), network_at(tmp_path / "last", 2))
    for step in (1, 2, 3):  # training continues as it would have
        same(network_at(tmp_path / "best", step), network_at(tmp_path / "last", step))
    lines = [line for line in metrics.read(tmp_path / "best/metrics.jsonl") if "final" in line]
    assert [(line["step"], line[CHOSEN_BY]) for line in lines[:-1]] == list(enumerate(SCORES, 1))
    assert lines[-1]["final"] and lines[-1][CHOSEN_BY] == 0.5 and lines[-1]["selected_step"] == 2
    assert json.loads((tmp_path / "best/config.json").read_text())["selection"] == "best_val"
    # What is scored in the end is not shown before it, and of the last network beside that of the chosen one.
    assert [HELD_OUT in line for line in lines] == [False] * 4 + [True]
    curves = metrics.read(tmp_path / "best" / metrics.CURVES)
    assert [(line["step"], line[HELD_OUT]) for line in curves] == [(i, s / 2) for i, s in enumerate(SCORES, 1)]
    assert not any(CHOSEN_BY in line for line in curves)
    assert (lines[-1][HELD_OUT], lines[-1][f"last/{HELD_OUT}"], lines[-1][f"last/{CHOSEN_BY}"]) == (0.25, 0.0625, 0.125)
    assert not any(key.startswith("best/last") for key in best)
    plain = [line for line in metrics.read(tmp_path / "last/metrics.jsonl") if "final" in line][-1]
    assert plain[HELD_OUT] == 0.0625 and not any(key.startswith("last/") for key in plain)

    # Stopped between an evaluation and what follows, and started again: the same network.
    del scored[:]
    original, calls = TrainState.with_candidate, []

    def stop(state, value):
        calls.append(value)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(state, value)

    monkeypatch.setattr(TrainState, "with_candidate", stop)
    with pytest.raises(KeyboardInterrupt):
        train.run(values(folder, **chosen), tmp_path / "stopped")
    again = train.run(values(folder, **chosen), tmp_path / "stopped")
    assert again["selected_step"] == 2 and again["parameters_sha256"] == best["parameters_sha256"]
    found = [line for line in metrics.read(tmp_path / "stopped/metrics.jsonl") if "final" in line]
    assert found[-1] == lines[-1] and metrics.read(tmp_path / "stopped" / metrics.CURVES) == curves


def test_no_table_reads_the_curves_of_what_is_held_out():
    readers = [
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "rxrx_jax").rglob("*.py")
        if metrics.CURVES in path.read_text() or "metrics.CURVES" in path.read_text()
    ]
    assert readers == ["rxrx_jax/training/metrics/__init__.py"]


def test_a_candidate_replaces_only_what_is_worse():
    network = {"params": {"w": np.zeros(2, np.float32)}, "batch_stats": {}}
    best = jax.tree.map(jax.numpy.asarray, network | {"value": np.float32(-1), "step": np.int32(0)})
    state = TrainState(
        jax.numpy.int32(3), {"w": jax.numpy.ones(2)}, {"batch_stats": {}, "averages": {}, "best": best}, {}
    )
    state = state.with_candidate(0.0)  # an accuracy of none is still a candidate
    assert int(state.collections["best"]["step"]) == 3 and state.collections["best"]["params"]["w"].sum() == 2
    for worse in (0.0, float("nan")):
        assert state.with_candidate(worse) is state
    averaged = {"params": {"w": jax.numpy.full(2, 5.0)}, "batch_stats": {}}
    state.collections["averages"] = averaged
    state = state.with_candidate(0.5)
    assert state.collections["best"]["params"]["w"].tolist() == [5, 5] and state.params["w"].tolist() == [1, 1]
    changed = TrainState(
        state.step, state.params, state.collections | {"averages": network | {"params": {"w": state.params["w"]}}}, {}
    )
    assert changed.with_best().collections["averages"]["params"]["w"].tolist() == [5, 5]


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"selection": "best"}, "selection='best': expected last or best_val"),
        ({}, "selection=best_val chooses among evaluations during training: set evaluate_epochs=1"),
        ({"evaluate_steps": 1, "evaluators": {}}, "chooses by validation/site_accuracy: add evaluators.accuracy"),
    ],
)
def test_what_cannot_be_selected(folder, tmp_path, changes, said):
    found = values(folder, **{"selection": "best_val"} | changes)
    with pytest.raises(UserError, match=said):
        train.run(found, tmp_path / "run")
    assert not (tmp_path / "run/checkpoints").exists()


def test_a_method_that_ends_after_the_last_step_and_a_protocol_without_validation(folder, tmp_path):
    found = tiny.values("convnet.py:method=swa,normalisation=image", folder, evaluators={"accuracy": {}})
    found |= {"selection": "best_val", "evaluate_steps": 1}
    with pytest.raises(UserError, match="adapt.name=swa makes the network that it publishes after the last step"):
        train.run(found, tmp_path / "swa")
    protocol = tmp_path / "none.py"
    protocol.write_text(
        "import numpy as np\nfrom rxrx_jax.data import Roles\nfrom rxrx_jax.evaluate.protocols import Protocol\n\n\n"
        "def protocol(dataset):\n    fit = np.flatnonzero(dataset.sites.split == 'train')\n"
        "    return Protocol(Roles(fit, {'in_batch': np.flatnonzero(dataset.sites.split == 'id_test')}))\n"
    )
    found = values(folder, selection="best_val", evaluate_steps=1) | {"protocol": {"name": str(protocol)}}
    with pytest.raises(UserError, match="none.py scores none that have labels: use selection=last"):
        train.run(found, tmp_path / "none")


def test_every_config_says_which_network_it_publishes():
    for path in config_lib.CONFIGS.glob("*.py"):
        assert config_lib.load(path.name)["selection"] in ("last", "best_val")
