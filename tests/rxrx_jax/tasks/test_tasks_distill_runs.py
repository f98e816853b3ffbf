"""Self-distillation on the tiny screen: whole runs, a probe of one, the shares of domains, bad configs."""

import numpy as np
import pytest
import tiny

from rxrx_jax.base.config import Config
from rxrx_jax.base.errors import UserError
from rxrx_jax.data import noise
from rxrx_jax.tasks import make_task
from rxrx_jax.training import metrics, train

MEASURES = ("loss", "kl", "teacher_entropy", "teacher_marginal_entropy", "agreement")


def values(folder, **changes):
    return tiny.values("distill_vit.py", folder, **changes)


def lines(workdir):
    return metrics.read(workdir / "metrics.jsonl")


@pytest.mark.slow
def test_a_run_a_probe_of_it_and_no_label_outside_the_train_split(folder, tmp_path, monkeypatch):
    last = train.run(values(folder), tmp_path / "distill")
    training, evaluation, end = lines(tmp_path / "distill")
    assert set(MEASURES) < training.keys() and all(np.isfinite(training[name]) for name in MEASURES)
    assert evaluation["embeddings/sites"] > 0 and end == last and end["transductive"] is True

    changes = {"init.path": str(tmp_path / "distill"), "evaluators": {}}
    assert train.run(tiny.values("linear_probe.py", folder, **changes), tmp_path / "probe")["done"] is True

    tiny.shuffle_held_out_labels(monkeypatch)
    again = train.run(values(folder, evaluators={}), tmp_path / "shuffled")
    assert again["parameters_sha256"] == last["parameters_sha256"]


@pytest.mark.slow
def test_a_run_that_stops_continues_with_the_same_bits(folder, tmp_path):
    changes = dict(total_steps=5, checkpoint_steps=2, evaluators={})
    whole = train.run(values(folder, **changes), tmp_path / "whole")
    with tiny.interrupted(4):
        train.run(values(folder, **changes), tmp_path / "stopped")
    assert metrics.finished(tmp_path / "stopped" / "metrics.jsonl") is None
    continued = train.run(values(folder, **changes), tmp_path / "stopped")
    assert continued["parameters_sha256"] == whole["parameters_sha256"]
    losses = [{x["step"]: x["loss"] for x in lines(tmp_path / w) if "loss" in x} for w in ("whole", "stopped")]
    assert all(losses[0][step] == losses[1][step] for step in (4, 5))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"data.pairs": ""}, "task.name=distill needs data.pairs=perturbation"),
        ({"data.unlabelled_minibatch": 4}, "and data.unlabelled_minibatch=0"),
        ({"model": {"name": "convnet", "widths": (4,)}}, "model.name='convnet': task.name=distill needs vit"),
        ({"task.centre": "plate"}, "task.centre='plate': expected experiment or all"),
        ({"task.momentum": 1.1}, "task.momentum=1.1: expected a number from 0 to 1"),
        ({"task.centre_momentum": -0.1}, "task.centre_momentum=-0.1"),
        ({"task.temperatures": (0.0, 0.1)}, "task.temperatures and task.student_temperature must be above 0"),
        ({"task.student_temperature": 0.0}, "task.temperatures and task.student_temperature must be above 0"),
    ],
)
def test_a_bad_config_is_one_line_with_the_key(changes, message, folder):
    with pytest.raises(UserError, match=message):
        config = Config(values(folder, **changes))
        make_task(config, noise.make(config))


def test_shares_are_those_of_the_selected_training_sites(folder):
    for select in ({}, {"experiments": ("SIMA-01", "SIMA-02")}, {"sites": (1,)}):
        config = Config(values(folder, **{"data.select": select, "task.warmup_percent": 30.0}))
        source = tiny.source(config)
        dataset, task = source.dataset, make_task(config, source)
        table = dataset.sites
        expected = [
            np.sum(
                (table.split == "train")
                & (table.experiment == i)
                & (name in select.get("experiments", dataset.experiments))
                & np.isin(table.site, select.get("sites", table.site))
            )
            for i, name in enumerate(dataset.experiments)
        ]
        np.testing.assert_allclose(task.shares, np.array(expected) / sum(expected))
        assert source.units == {"train": 2} and task.warmup == 0.3
    config = Config(values(folder))
    described = noise.make(config)  # no table
    assert make_task(config, described).shares == (0.2,) * 5
