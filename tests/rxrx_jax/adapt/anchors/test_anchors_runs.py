"""Control anchors in the trainer: two steps of a run that is read by all of them, and as a run's own method."""

import numpy as np
import pytest
import tiny

from rxrx_jax.base.errors import UserError
from rxrx_jax.training import metrics, train

NAMES = ("control_mean", "control_affine", "control_bias")
pytestmark = pytest.mark.usefixtures("small_models")


def final(workdir):
    return next(line for line in metrics.read(workdir / "metrics.jsonl") if line.get("final"))


@pytest.mark.parametrize(
    "config",
    ["convnet.py:post_hoc=control_mean", pytest.param("dann_vit.py:normalisation=image", marks=pytest.mark.slow)],
)
def test_two_steps_read_by_every_anchor_and_its_control(config, folder, tmp_path):
    post_hoc = {name: {"name": name} for name in NAMES} | {f"{n}_not": {"name": n, "shuffled": True} for n in NAMES}
    changes = {"post_hoc": post_hoc, "evaluators": {"accuracy": {}}, "init.path": ""}
    last, found = train.run(tiny.values(config, folder, **changes), tmp_path), final(tmp_path)
    assert last["done"] and last["transductive"] is False and found["marks/cross_batch"] == ""
    for reading in post_hoc:
        assert found[f"marks/{reading}/cross_batch"] == "TC"
        assert 0 <= found[f"{reading}/cross_batch/treatments/site_accuracy"] <= 1
        assert found[f"{reading}/cross_batch/sites"] == found["cross_batch/sites"]
        assert found[f"{reading}/cross_batch/treatments/sites"] == found["cross_batch/treatments/sites"]
        assert (found.get(f"{reading}/cross_batch/chosen_penalty", 0) > 0) == ("mean" not in reading)


@pytest.mark.slow
def test_as_the_method_of_a_run(folder, tmp_path):
    values = tiny.values("convnet.py:method=control_affine,normalisation=image", folder, **{"adapt.penalty": 0.5})
    assert train.run(values | {"evaluators": {"accuracy": {}, "embeddings": {}}}, tmp_path)["done"]
    found = final(tmp_path)
    assert found["marks/cross_batch"] == found["marks/embeddings"] == "TC"
    assert found["cross_batch/chosen_penalty"] == 0.5 and np.isfinite(found["cross_batch/site_accuracy"])


def test_it_is_refused_before_anything_is_trained(folder, tmp_path):
    post_hoc = {"post_hoc": {"mine": {"name": "control_mean"}}}
    values = tiny.values("convnet.py:normalisation=image", folder, **post_hoc)
    values["data"]["builder"] |= {"untreated_wells": 0}
    with pytest.raises(UserError, match="^post_hoc.mine: ControlMean needs untreated wells .* and SIM.-../1 has none$"):
        train.run(values, tmp_path / "bare")
    with pytest.raises(UserError, match="^post_hoc.mine: ControlMean moves what .*; this task has none$"):
        train.run(tiny.values("mae_vit.py", folder, **post_hoc), tmp_path / "mae")
    assert not (tmp_path / "bare" / "metrics.jsonl").exists()
