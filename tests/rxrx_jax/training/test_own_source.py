"""A source whose examples are not images and a task of its own, in two files of a user: trained, resumed, the same on
one and on two devices' worth of minibatch, and what does not fit."""

import dataclasses

import jax
import numpy as np
import pytest
import tiny

from rxrx_jax import evaluate as evaluate_room
from rxrx_jax.base import sharding
from rxrx_jax.base.config import Config
from rxrx_jax.base.errors import UserError
from rxrx_jax.data.source import make_source
from rxrx_jax.evaluate import predict
from rxrx_jax.training import metrics, train
from rxrx_jax.training.step import make_step

SOURCE = '''
import dataclasses
import jax, jax.numpy as jnp, numpy as np
from rxrx_jax.data.batch import TRAIN

@dataclasses.dataclass(frozen=True)
class Lines:
    """Points on a line with noise: x [B, 3] and y [B], a function of (seed, step) alone."""

    size: int
    seed: int
    units = {TRAIN: 1}
    lengths = {TRAIN: "data.minibatch"}
    examples = 64
    constants = {"shift": np.float32(1.0)}
    view = jax.ShapeDtypeStruct((1, 3), jnp.float32)
    fingerprint = "lines 1"

    @property
    def spec(self):
        columns = {"x": (self.size, 3), "y": (self.size,)}
        return {TRAIN: {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in columns.items()}}

    def views(self, columns, constants, keys, number):
        return tuple(columns["x"] - constants["shift"] for _ in range(number))

    def minibatches(self, start, steps):
        for step in range(start, steps):
            random = np.random.default_rng([self.seed, step])
            x = random.normal(1.0, 1.0, (self.size, 3)).astype(np.float32)
            y = ((x - 1.0) @ [1.0, -2.0, 0.5] + 0.01 * random.normal(size=self.size)).astype(np.float32)
            first = self.size // jax.process_count() * jax.process_index()
            part = slice(first, first + self.size // jax.process_count())
            yield {TRAIN: {"x": x[part], "y": y[part]}}

    def rows(self, step):
        return [{"step": step}]

    def without(self, step, instead):
        return self

def make(config, roles):
    return Lines(config.data.minibatch, config.seed)
'''
TASK = '''
import dataclasses
import flax.linen as nn, jax, jax.numpy as jnp
from rxrx_jax.adapt import Method

@dataclasses.dataclass(frozen=True)
class Regression:
    """Least squares by a linear layer; its carry counts the examples it has seen."""

    layer: nn.Module
    method: Method
    frozen = None
    inherits = None

    def init(self, key, x):
        return {"params": {"linear": self.layer.init(key, x)["params"]}, "carry": {"examples": jnp.zeros(())}}

    def loss(self, params, collections, batch, key, progress):
        predicted = self.layer.apply({"params": params["linear"]}, batch.views[0])[:, 0]
        loss = jnp.square(predicted - batch.columns["y"]).sum() / batch.labelled
        carry = {"examples": collections["carry"]["examples"] + len(predicted)}
        return loss, (collections | {"carry": carry}, {"examples": carry["examples"]})

def make(config, source, method):
    return Regression(nn.Dense(1), method)
'''


@pytest.fixture
def values(tmp_path):
    for name, text in (("lines", SOURCE), ("regression", TASK)):
        (tmp_path / f"{name}.py").write_text(text)
    found = tiny.values("convnet.py", tmp_path / "data", total_steps=60, checkpoint_steps=20, log_steps=1)
    for key in ("adapt", "model", "normalisation", "augment"):
        del found[key]
    found["task"] = {"name": str(tmp_path / "regression.py")}
    found["data"] = {"source": str(tmp_path / "lines.py"), "minibatch": 32}
    found["optim"] = dict(name="sgd", lr=0.3, momentum=0.0, weight_decay=0.0, clip_norm=0.0)
    found["evaluators"] = {}
    del found["protocol"]
    return found


def losses(workdir):
    return [line["loss"] for line in metrics.read(workdir / "metrics.jsonl") if "loss" in line]


def test_a_source_and_a_task_of_ones_own_train_and_resume(values, tmp_path):
    last = train.run(values, tmp_path / "whole")
    found = losses(tmp_path / "whole")
    assert last["done"] and last["data"] == "lines 1" and found[0] > 1 > 0.001 > found[-1]
    assert last["flops_per_image"] == 2 * 2 * 3  # the weights' gradient and the product itself, no input's
    with tiny.interrupted(45):
        train.run(values, tmp_path / "stopped")
    again = train.run(values, tmp_path / "stopped")
    assert again["parameters_sha256"] == last["parameters_sha256"]
    counts = [line["examples"] for line in metrics.read(tmp_path / "stopped" / "metrics.jsonl") if "loss" in line]
    assert counts[-1] == 60 * 32  # the carry is part of the checkpoint


def test_what_evaluators_work_with_is_what_the_source_says(values, tmp_path, monkeypatch):
    @dataclasses.dataclass
    class Weights(predict.Evaluated):
        """Of a source without any dataset."""

        largest: float
        workdir: object

    def evaluate(context):
        context.between()
        kernel = np.asarray(context.network.params["linear"]["kernel"])[:, 0]
        yield "error", float(np.abs(kernel - [1, -2, 0.5]).max())
        yield "largest", context.largest
        yield "folder", context.workdir.name

    made = lambda config, source, step, shared: Weights(len(step.task.inherits or "ab"), shared["workdir"])  # noqa: E731
    monkeypatch.setitem(evaluate_room.CONTEXTS, "lines", made)
    monkeypatch.setitem(evaluate_room.EVALUATORS, "weights", evaluate)
    path = tmp_path / "lines.py"
    path.write_text(
        path.read_text().replace("units = ", 'evaluated_as = "lines"\n    keeps = {"a.txt": b"kept"}\n    units = ')
    )
    train.run(values | {"evaluators": {"weights": {}}, "evaluate_steps": 30}, tmp_path / "run")
    found = [line for line in metrics.read(tmp_path / "run" / "metrics.jsonl") if "error" in line]
    assert [line["final"] for line in found] == [False, True]
    assert (tmp_path / "run" / "a.txt").read_bytes() == b"kept"
    assert max(found[0]["error"], found[1]["error"]) < 0.1 and found[1]["largest"] == 2 and found[1]["folder"] == "run"
    with pytest.raises(UserError, match="selection=best_val chooses .* and data.name=lines scores none"):
        task = tmp_path / "regression.py"
        task.write_text(task.read_text().replace("frozen = None", 'frozen, chosen_by = None, ("weights", "error")'))
        chosen = {"evaluators": {"weights": {}}, "evaluate_steps": 30, "selection": "best_val"}
        train.run(values | chosen | {"data": values["data"] | {"name": "lines"}}, tmp_path / "best")


def test_parts_of_its_minibatches_give_the_same_parameters(values, tmp_path):
    whole = train.run(values, tmp_path / "whole")
    parts = train.run(values | {"accumulate": 4}, tmp_path / "parts")
    assert whole["parameters_sha256"] != parts["parameters_sha256"]  # other sums, rounded otherwise
    np.testing.assert_allclose(losses(tmp_path / "parts"), losses(tmp_path / "whole"), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"evaluators": {"accuracy": {}}}, "evaluators.accuracy: this source has no dataset to evaluate; remove it"),
        ({"data": {"source": "nowhere.py", "minibatch": 4}}, "data.source=nowhere.py: no such file"),
        (
            {"data": {"source": "graphs", "minibatch": 4}},
            "data.source='graphs': expected images, molecules or nothing, or",
        ),
        ({"task": {"name": "nowhere.py"}}, "task.name=nowhere.py: no such file"),
        ({"init": {"path": "runs/x", "parameters": ""}}, "init.path=runs/x: .* does not start from another stage"),
    ],
)
def test_what_does_not_fit_is_one_line(values, tmp_path, changes, message):
    with pytest.raises(UserError, match=message) as error:
        train.run(values | changes, tmp_path / "run")
    assert "\n" not in str(error.value)


def test_carry_that_does_not_fit_a_checkpoint_is_named(values, tmp_path):
    train.run(values, tmp_path / "run")
    (tmp_path / "regression.py").write_text(
        TASK.replace("jnp.zeros(())}", "jnp.zeros(2)}").replace("+ len(", "+ 0 * len(")
    )
    (tmp_path / "run" / "metrics.jsonl").write_text("")
    with pytest.raises(UserError, match=r"collections/carry/examples is \(\) there and \(2,\) here; use the run's own"):
        train.run(values, tmp_path / "run")


def test_the_step_takes_its_spec_from_the_source(values):
    config, mesh = Config(values), sharding.make_mesh()
    source = make_source(config, None)
    step = make_step(config, source, mesh, 10)
    assert {key: x.shape for key, x in step.arguments[1]["train"].items()} == {"x": (32, 3), "y": (32,), "stop": (32,)}


def test_the_step_is_compiled_for_each_shape_of_its_source(values):
    config, mesh = Config(values), sharding.make_mesh()
    plain = make_source(config, None)

    def padded(n):
        return {"train": plain.spec["train"] | {"padding": jax.ShapeDtypeStruct((32, n), np.float32)}}

    class Padded(type(plain)):
        shapes = ((0.25, padded(5)), (0.75, padded(2)))
        spec = padded(5)

    with jax.set_mesh(mesh):
        step = make_step(config, Padded(32, 0), mesh, 10)
        compiled = step.compile()
        state, constants = step.initialise(step.keys["init"]), (plain.constants, step.keys)
        constants = sharding.to_every_device(constants, mesh)
        minibatch = next(plain.minibatches(0, 1))["train"] | {"stop": np.zeros(32, bool)}
        for number, n in enumerate((2, 5, 2), 1):
            columns = {"train": minibatch | {"padding": np.zeros((32, n), np.float32)}}
            state, found = compiled(state, sharding.to_device(columns, mesh), *constants)
            assert int(state.step) == number and np.isfinite(found["loss"])
    assert len(compiled.compiled) == 2 and step.flops_per_image == 2 * 2 * 3
    assert compiled.memory_analysis().argument_size_in_bytes > 0
