"""Sharding rules over every parameter, meshes and minibatches that do not fit, one device against eight."""

import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sharding_steps
from jax.sharding import AbstractMesh
from jax.sharding import PartitionSpec as P

from rxrx_jax import optim
from rxrx_jax.config import Config
from rxrx_jax.errors import UserError
from rxrx_jax.models.convnet import ConvNet
from rxrx_jax.models.heads import Head
from rxrx_jax.models.statistics import Statistics
from rxrx_jax.models.vit import Encoder, Size
from rxrx_jax.sharding import (
    RULES,
    check_minibatch,
    constrain_tokens,
    make_mesh,
    parameter_spec,
    path_name,
    state_shardings,
)
from rxrx_jax.state import TrainState
from rxrx_jax.tasks.classify import Classify

MESH = AbstractMesh((2, 2, 2), ("data", "fsdp", "tensor"))
SIZE = Size(16, 2, 32, 2)
TASKS = sharding_steps.TASKS | {
    "fine-tuned vit": Classify(Encoder(SIZE, 4), Head(4), None, 0.0),
    "probe of vit": Classify(Encoder(SIZE, 4), Head(4, normalise=True), None, 0.0, frozen="encoder/"),
    "probe of convnet": Classify(ConvNet((4, 6)), Head(4, normalise=True), None, 0.0, frozen="encoder/"),
    "probe of statistics": Classify(Statistics(), Head(4, normalise=True), None, 0.0, frozen="encoder/"),
}
OPTIMISERS = {
    "adamw": dict(name="adamw", betas=(0.9, 0.95), weight_decay=0.1, clip_norm=1.0),
    "sgd": dict(name="sgd", momentum=0.9, weight_decay=0.1, clip_norm=0.0),
}


def state_of(task, optimiser):
    """The shapes of a whole train state."""

    def initialise():
        variables = task.init(jax.random.key(0), jnp.zeros((1, 8, 8, 2)))
        params = variables["params"]
        chosen = optim.make_optimiser(Config(OPTIMISERS[optimiser]), lambda step: 0.1, params, task.frozen)
        return TrainState(jnp.int32(0), params, variables["batch_stats"], chosen.init(params))

    return jax.eval_shape(initialise)


@pytest.mark.parametrize("optimiser", OPTIMISERS)
@pytest.mark.parametrize("name", TASKS)
def test_every_array_of_every_task_has_a_rule(name, optimiser):
    state = state_of(TASKS[name], optimiser)
    shardings = state_shardings(state, MESH)
    assert jax.tree.structure(shardings) == jax.tree.structure(state)
    for (path, x), placed in zip(jax.tree_util.tree_leaves_with_path(state), jax.tree.leaves(shardings)):
        placed.shard_shape(x.shape)  # raises when an axis does not divide its dimension
        if x.ndim == 0:
            assert placed.spec == P(), path_name(path)


def test_optimiser_moments_lie_where_their_parameters_lie():
    state = state_of(TASKS["mae"], "adamw")
    specs = {path_name(p): s.spec for p, s in jax.tree_util.tree_leaves_with_path(state_shardings(state, MESH))}
    params = {name.removeprefix("params/"): spec for name, spec in specs.items() if name.startswith("params/")}
    assert any("fsdp" in spec for spec in params.values()) and any("tensor" in spec for spec in params.values())
    for name, spec in params.items():
        moments = [s for other, s in specs.items() if re.search(rf"/(mu|nu)/{name}$", other)]
        assert moments == [spec, spec], name


def test_every_rule_is_used():
    states = [jax.tree_util.tree_leaves_with_path(state_of(task, "sgd")) for task in TASKS.values()]
    names = {path_name(path) for state in states for path, x in state if x.ndim}
    first = {next(i for i, (pattern, _) in enumerate(RULES) if re.search(pattern, name)) for name in names}
    assert first == set(range(len(RULES)))


@pytest.mark.parametrize(
    "name, shape, spec",
    [
        (
            "encoder/blocks/block/qkv/kernel",
            (2, 16, 48),
            P(None, "fsdp", "tensor"),
        ),  # scanned blocks have one more in front
        ("encoder/blocks/block/out/kernel", (2, 16, 16), P(None, "tensor", "fsdp")),
        ("encoder/blocks/block/mlp1/kernel", (16, 32), P("fsdp", "tensor")),
        ("encoder/blocks/block/mlp2/kernel", (32, 16), P("tensor", "fsdp")),
        ("encoder/blocks/block/mlp1/bias", (2, 32), P(None, "tensor")),
        ("encoder/blocks/block/mlp2/bias", (2, 16), P(None, None)),
        ("encoder/embed/kernel", (48, 16), P(None, "fsdp")),
        ("encoder/conv0/kernel", (4, 4, 3, 8), P(None, None, None, "fsdp")),
        ("head/linear/kernel", (16, 5), P(None, None)),  # five classes do not divide
        ("batch_stats/encoder/norm0/mean", (8,), P(None)),
    ],
)
def test_specs(name, shape, spec):
    assert parameter_spec(name, shape, MESH) == spec


def test_axes_of_one_device_are_left_out():
    mesh = AbstractMesh((8, 1, 1), ("data", "fsdp", "tensor"))
    assert parameter_spec("block/qkv/kernel", (16, 48), mesh) == P(None, None)


def test_a_parameter_without_a_rule_is_an_error():
    with pytest.raises(
        UserError, match="no sharding rule matches parameter params/encoder/relative_positions; .*sharding.py"
    ):
        state_shardings({"params": {"encoder": {"relative_positions": jnp.zeros((2, 2))}}}, MESH)


@pytest.mark.parametrize("size", [0, 3, 10, -4])
def test_a_minibatch_that_does_not_divide_is_an_error(size):
    with pytest.raises(UserError, match=f"^data.minibatch={size} does not divide over 4 devices; use a multiple of 4$"):
        check_minibatch(MESH, size, "data.minibatch")
    check_minibatch(MESH, 12, "data.minibatch")


def test_a_mesh_that_does_not_fit_the_devices_is_an_error():
    devices = jax.device_count()
    assert dict(make_mesh().shape) == {"data": devices, "fsdp": 1, "tensor": 1}
    with pytest.raises(
        UserError, match=f"mesh.fsdp={devices + 1} times mesh.tensor=1 does not divide the {devices} devices"
    ):
        make_mesh(fsdp=devices + 1)
    with pytest.raises(UserError, match="mesh.tensor=0"):
        make_mesh(tensor=0)


def test_tokens_are_left_alone_without_a_mesh_and_split_with_one():
    x = jnp.ones((4, 3, 2))
    assert constrain_tokens(x) is x
    with jax.set_mesh(make_mesh()):
        assert "sharding_constraint" in str(jax.make_jaxpr(constrain_tokens)(x))


@pytest.mark.slow
def test_one_device_and_eight_train_the_same_model(tmp_path):
    found = {}
    running = {n: start_steps(n, *mesh, tmp_path / f"{n}.npz") for n, mesh in ((1, (1, 1)), (8, (2, 2)))}
    for n, process in running.items():
        _, errors = process.communicate()
        assert process.returncode == 0, errors
        with np.load(tmp_path / f"{n}.npz") as arrays:
            found[n] = dict(arrays)
        assert found[n].pop("devices") == n
    shares = {n: {k: arrays.pop(k) for k in list(arrays) if k.startswith("shares/")} for n, arrays in found.items()}
    assert all(share == 1 for share in shares[1].values())
    assert shares[8]["shares/mae/0/encoder/blocks/block/mlp1/kernel"] == 1 / 4  # over fsdp and tensor
    assert shares[8]["shares/mae/0/encoder/embed/kernel"] == 1 / 2
    assert shares[8]["shares/classify/0/encoder/conv1/kernel"] == 1 / 2

    assert found[1].keys() == found[8].keys()
    for name, value in found[1].items():
        np.testing.assert_allclose(found[8][name], value, rtol=1e-4, atol=1e-5, err_msg=name)


def start_steps(devices, fsdp, tensor, out):
    """Runs sharding_steps.py on emulated devices; without optimisation, because compiling is most of it."""
    environment = os.environ | {
        "JAX_NUM_CPU_DEVICES": str(devices),
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
    }
    command = [sys.executable, sharding_steps.__file__, out, str(fsdp), str(tensor)]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
