"""Penalties and adversaries in the trainer: two steps of a run, and the traced step of the other trunk."""

import jax
import numpy as np
import pytest
import step_tools
import tiny
from method_tools import SMALL

from rxrx_jax.adapt import keys_of, method_class
from rxrx_jax.base import sharding
from rxrx_jax.base.config import Config
from rxrx_jax.data import noise
from rxrx_jax.training import metrics, train
from rxrx_jax.training.step import make_step

RUNS = {
    "coral": {"transductive": True},
    "mmd": {},
    "irm": {"warm_up": 1},
    "vrex": {"warm_up": 1},
    "ib_erm": {"warm_up": 1},
    "fishr": {"warm_up": 1},
    "cdan": {"within": "cell_type", "smoothing": 0.1},
    "dann": {"schedule": "alternating", "within": "cell_type"},
}

pytestmark = pytest.mark.usefixtures("small_models")


@pytest.mark.parametrize(
    "name", [name if name in ("fishr", "cdan") else pytest.param(name, marks=pytest.mark.slow) for name in RUNS]
)
def test_two_steps_of_a_run(name, folder, tmp_path):
    own = dict(RUNS[name])
    arguments = f"convnet.py:method={name},normalisation=image,transductive={own.pop('transductive', False)}"
    changes = {f"adapt.{key}": value for key, value in own.items()}
    grouped = {"data.groups_per_minibatch": 2} if name not in ("dann", "cdan") else {}
    last = train.run(tiny.values(arguments, folder, **SMALL, **changes, **grouped), tmp_path)
    line = next(x for x in metrics.read(tmp_path / "metrics.jsonl") if "loss" in x)
    assert last["done"] and last["transductive"] is (name == "coral")
    assert all(np.isfinite(line[key]) for key in ("loss", "gradient_norm"))
    if "warm_up" in own:  # this is the second step
        assert line["penalty_weight"] == method_class(name)().weight
        assert line["loss"] == pytest.approx(line["class_loss"] + line["penalty_weight"] * line["penalty"], rel=1e-5)


@pytest.mark.parametrize("name", RUNS)
def test_the_step_of_a_vit_is_traced(name):
    kind = method_class(name)
    fields = {key: field.default for key, field in keys_of(kind).items()}
    own = {key: value for key, value in RUNS[name].items() if key != "transductive"}
    changes = {"adapt": {"name": name} | fields | own, "data.groups_per_minibatch": 2}
    changes["model.remat"] = "dots" if name == "irm" else "none"  # whose FLOPs are counted without the optimiser
    values = tiny.values("dann_vit.py", "", **{"augment.crop": step_tools.SIDE, "model.variant": "XXS/4"} | changes)
    found, mesh = Config(values), sharding.make_mesh()
    with jax.set_mesh(mesh):
        step = make_step(found, noise.make(found), mesh, 10)
    assert step.flops_per_image > 0  # counted in the trace of the update
