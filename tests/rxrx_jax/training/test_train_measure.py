"""Runs that only measure: on noise, of the loader alone, and with a profile."""

import pytest
import tiny

from rxrx_jax.training import metrics, train
from rxrx_jax.training.speed import flops

pytestmark = pytest.mark.usefixtures("small_models")


def lines(workdir):
    return metrics.read(workdir / "metrics.jsonl")


def test_measuring_on_noise_trains_and_keeps_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(flops, "peak", lambda: 1e12)
    changes = {"measure": "synthetic", "total_steps": 3, "checkpoint_steps": 1, "evaluate_steps": 1}
    last = train.run(tiny.values("mae_vit.py", tmp_path / "nowhere", **changes), tmp_path / "run")
    assert {p.name for p in (tmp_path / "run").iterdir()} == {"config.json", "metrics.jsonl"}
    assert not (tmp_path / "nowhere").exists()
    found = lines(tmp_path / "run")
    assert [line["step"] for line in found] == [2, 3, 3] and found[-1] == last and last["done"] is True
    for line in found[:-1]:
        assert line["mfu"] == pytest.approx(line["teraflops_per_chip"]) and line["mfu"] > 0  # of a peak of 1 teraflop
    rate = found[0]["images_per_second_per_chip"]
    assert found[0]["teraflops_per_chip"] == pytest.approx(rate * last["flops_per_image"] / 1e12)
    assert last["parameters"] == 136_848 and last["memory_per_chip"] > 3 * 4 * 136_848


def test_measuring_the_loader_reads_and_trains_nothing(folder, tmp_path):
    last = train.run(tiny.values("mae_vit.py", folder, measure="loader", total_steps=3), tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"config.json", "metrics.jsonl"}
    assert last == lines(tmp_path)[-1] and last["images_per_second"] > 0 and "parameters_sha256" not in last


def test_a_profile_of_some_steps_is_written(tmp_path):
    values = tiny.values("convnet.py", tmp_path, measure="synthetic", total_steps=4, profile_steps=(1, 3))
    train.run(values, tmp_path / "run")
    assert list((tmp_path / "run" / "profile").rglob("*.xplane.pb"))
