"""Sharding rules over every parameter, meshes and minibatches that do not fit, one device against eight."""

import os
import re
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sharding_steps
import step_tools
from jax.sharding import AbstractDevice, AbstractMesh
from jax.sharding import PartitionSpec as P

from rxrx_jax.adapt.method import Method
from rxrx_jax.base import sharding
from rxrx_jax.base.config import Config
from rxrx_jax.base.errors import UserError
from rxrx_jax.base.sharding import (
    RULES,
    by_slice,
    check_minibatch,
    constrain_tokens,
    make_mesh,
    on_one_device,
    parameter_spec,
    path_name,
    platform,
    state_shardings,
)
from rxrx_jax.models.convnet import ConvNet
from rxrx_jax.models.handcrafted import Handcrafted
from rxrx_jax.models.heads import Head
from rxrx_jax.models.vit import Encoder, Size, Style
from rxrx_jax.tasks.classify import Classify
from rxrx_jax.training import optim
from rxrx_jax.training.state import TrainState

MESH = AbstractMesh((2, 2, 2), ("data", "fsdp", "tensor"))
SIZE = Size(16, 2, 32, 2)
with step_tools.small_models():
    TASKS = {name: step_tools.task(name) for name in step_tools.CONFIGS}
TASKS |= {
    "fine-tuned vit": Classify(Encoder(SIZE, 4, Style(positions="learned")), Head(4), Method(), 0.0),
    "probe of vit": Classify(Encoder(SIZE, 4), Head(4, normalise=True), Method(), 0.0, frozen="encoder/"),
    "probe of convnet": Classify(ConvNet((4, 6)), Head(4, normalise=True), Method(), 0.0, frozen="encoder/"),
    "probe of handcrafted features": Classify(Handcrafted(), Head(4, normalise=True), Method(), 0.0, frozen="encoder/"),
}
ALONE = ("mae in parts", "classify", "cs_bn", "arm_bn with controls", "context token")  # of sharding_steps.RUNS
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
        found = step_tools.collections(variables)
        if not found["averages"]:
            found["averages"] = {"params": params, "batch_stats": found["batch_stats"]}
        return TrainState(jnp.int32(0), params, found, chosen.init(params))

    return jax.eval_shape(initialise)


@pytest.mark.parametrize("optimiser", OPTIMISERS)
@pytest.mark.parametrize("name", TASKS)
def test_every_array_of_every_task_has_a_rule(name, optimiser):
    state = state_of(TASKS[name], optimiser)
    shardings = state_shardings(state, MESH)
    assert jax.tree.structure(shardings) == jax.tree.structure(state)
    for (path, x), placed in zip(jax.tree_util.tree_leaves_with_path(state), jax.tree.leaves(shardings)):
        placed.shard_shape(x.shape)  # raises when an axis does not divide its dimension
        name = path_name(path)
        replicated = name.startswith("collections/") and not name.startswith("collections/averages/params/")
        if x.ndim == 0 or replicated:
            assert placed.spec == P(), name


def test_optimiser_moments_lie_where_their_parameters_lie():
    state = state_of(TASKS["mae"], "adamw")
    specs = {path_name(p): s.spec for p, s in jax.tree_util.tree_leaves_with_path(state_shardings(state, MESH))}
    params = {name.removeprefix("params/"): spec for name, spec in specs.items() if name.startswith("params/")}
    assert any("fsdp" in spec for spec in params.values()) and any("tensor" in spec for spec in params.values())
    for name, spec in params.items():
        moments = [s for other, s in specs.items() if re.search(rf"/(mu|nu)/{name}$", other)]
        assert moments == [spec, spec], name


def test_averages_of_parameters_lie_where_these_lie():
    state = state_of(TASKS["classify"], "adamw")
    specs = {path_name(p): s.spec for p, s in jax.tree_util.tree_leaves_with_path(state_shardings(state, MESH))}
    params = {name: spec for name, spec in specs.items() if name.startswith("params/")}
    assert any("fsdp" in spec for spec in params.values())
    for name, spec in params.items():
        assert specs[f"collections/averages/{name}"] == spec, name
    assert "collections/averages/batch_stats/encoder/norm0/mean" in specs


def test_every_rule_is_used():
    states = [jax.tree_util.tree_leaves_with_path(state_of(task, "sgd")) for task in TASKS.values()]
    names = {path_name(path) for state in states for path, x in state if x.ndim}
    names = {name for name in names if not name.startswith("collections/")}
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
        ("encoder/conv0/kernel", (3, 3, 3, 8), P(None, None, None, "fsdp")),
        ("head/linear/kernel", (16, 5), P(None, None)),  # five classes do not divide
        ("head/linear/bias", (8,), P(None)),
        ("collections/batch_stats/encoder/norm0/mean", (8,), P()),
        ("collections/carry/q", (8,), P()),
        ("collections/averages/batch_stats/encoder/norm0/var", (8,), P()),
        ("collections/averages/params/encoder/embed/kernel", (48, 16), P(None, "fsdp")),
    ],
)
def test_specs(name, shape, spec):
    assert parameter_spec(name, shape, MESH) == spec


def test_axes_of_one_device_are_left_out():
    mesh = AbstractMesh((8, 1, 1), ("data", "fsdp", "tensor"))
    assert parameter_spec("block/qkv/kernel", (16, 48), mesh) == P(None, None)


def test_a_parameter_without_a_rule_is_an_error():
    with pytest.raises(
        UserError, match="no sharding rule matches parameter params/encoder/relative_bias_table; .*sharding.py"
    ):
        state_shardings({"params": {"encoder": {"relative_bias_table": jnp.zeros((2, 2))}}}, MESH)


@pytest.mark.parametrize("size", [0, 3, 10, -4])
def test_a_minibatch_that_does_not_divide_is_an_error(size):
    with pytest.raises(UserError, match=f"^data.minibatch={size} does not divide over 4 devices; use a multiple of 4$"):
        check_minibatch(MESH, size, "data.minibatch")
    check_minibatch(MESH, 12, "data.minibatch")


def test_a_minibatch_divides_over_devices_parts_and_units():
    check_minibatch(MESH, 48, "data.minibatch", parts=3, unit=2)
    for size in (8, 12, 24 + 12, 40):
        with pytest.raises(UserError, match=rf"={size} .* in 3 parts \(accumulate\) in units of 2; .* of 24$"):
            check_minibatch(MESH, size, "data.minibatch", parts=3, unit=2)
    with pytest.raises(UserError, match="over 4 devices in units of 2; use a multiple of 8$"):
        check_minibatch(MESH, 12, "data.minibatch", unit=2)
    with pytest.raises(UserError, match="^accumulate=-1: expected"):
        check_minibatch(MESH, 12, "data.minibatch", parts=-1)


def test_the_platform_is_that_of_the_mesh_in_force():
    assert platform() == jax.default_backend()
    with jax.set_mesh(make_mesh()):
        assert jax.jit(lambda: len(platform()))() == len(jax.default_backend())
    device = AbstractDevice(device_kind="TPU v5 lite", num_cores=1, platform="tpu")
    with jax.sharding.use_abstract_mesh(AbstractMesh((1, 1, 1), MESH.axis_names, abstract_device=device)):
        assert platform() == "tpu"


def test_work_of_one_device_is_outside_the_mesh_in_force():
    @on_one_device()
    def names():
        return jnp.ones(2).sharding.mesh.axis_names

    with jax.set_mesh(make_mesh()):
        assert names() == ("alone",) and len(jnp.ones(2).sharding.mesh.axis_names) == 3
    assert names() == ("alone",)


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
def test_one_device_and_many_train_the_same_model(tmp_path):
    """All three axes over eight devices; over four FSDP alone, for a task of each kind of network."""
    found = {}
    meshes = {"1": (1, 1, 1), "4": (4, 4, 1), "8": (8, 2, 2)}
    running = {n: start_steps(tmp_path / f"{n}.npz", *mesh, *ALONE * (n == "4")) for n, mesh in meshes.items()}
    for n, process in running.items():
        _, errors = process.communicate()
        assert process.returncode == 0, errors
        with np.load(tmp_path / f"{n}.npz") as arrays:
            found[n] = dict(arrays)
        assert found[n].pop("devices") == meshes[n][0]
    shares = {n: {k: arrays.pop(k) for k in list(arrays) if k.startswith("shares/")} for n, arrays in found.items()}
    assert all(share == 1 for share in shares["1"].values())
    # What a kernel sees: images over data and fsdp, heads over tensor, where they divide.
    kernel = {"16x4": (1 / 4, 1 / 8), "16x3": (1 / 4, 1 / 4), "6x4": (1, 1 / 2)}
    assert kernel == {x: tuple(shares[n][f"shares/over_heads/{x}"] for n in ("4", "8")) for x in kernel}
    for task in ("mae in parts", "channel-agnostic mae lion", "distill"):
        assert shares["8"][f"shares/{task}/encoder/blocks/block/mlp1/kernel"] == 1 / 4  # over fsdp and tensor
    for name in ("mae in parts/encoder/blocks/block/mlp1/kernel", "classify/encoder/conv0/kernel"):
        assert shares["4"][f"shares/{name}"] == 1 / 4
    assert shares["8"]["shares/mae in parts/encoder/embed/kernel"] == 1 / 2
    assert shares["8"]["shares/classify/encoder/conv1/kernel"] == 1 / 2
    assert shares["8"]["shares/resnet/encoder/stem_conv/kernel"] == 1 / 2

    assert found["1"].keys() == found["8"].keys() > found["4"].keys()
    for n in ("4", "8"):
        for name in found[n]:
            value = found["1"][name]
            if not name.startswith(("mae adamw/", "channel-agnostic mae lion/")):
                np.testing.assert_allclose(found[n][name], value, rtol=1e-3, atol=2e-5, err_msg=f"{n} {name}")
            elif "/step" in name:
                np.testing.assert_allclose(found[n][name], value, rtol=1e-3, err_msg=f"{n} {name}")
    # Where a gradient is zero, Adam and Lion make full steps of rounding errors: nearly all entries agree.
    for optimiser in ("mae adamw/", "channel-agnostic mae lion/"):
        names = [name for name in found["1"] if name.startswith(optimiser)]
        far = [np.abs(found["8"][name] - found["1"][name]).ravel() > 2e-5 for name in names]
        assert np.concatenate(far).mean() < 0.01, optimiser


def start_steps(out, devices, fsdp, tensor, *names):
    """Runs sharding_steps.py on emulated devices."""
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": str(devices), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, sharding_steps.__file__, out, str(fsdp), str(tensor), *names]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


# Several slices.


def chips(*slices: int, platform="tpu"):
    """A device of each of these slices, or processes."""
    same = {"platform": platform, "device_kind": "chip"}
    made = [same | {"id": i, "slice_index": of, "process_index": of} for i, of in enumerate(slices)]
    return [types.SimpleNamespace(**one) for one in made]


def numbers(slices):
    return [[device.id for device in part] for part in slices]


def test_slices_are_told_apart_and_other_devices_are_not():
    assert numbers(by_slice(chips(0, 1, 0, 1))) == [[0, 2], [1, 3]]
    assert numbers(by_slice(chips(0, 0, 1, 1, platform="gpu"))) == [[0, 1, 2, 3]]
    with pytest.raises(UserError, match="^slices of 2, 1 devices: a run's are of one size$"):
        by_slice(chips(0, 0, 1))


def test_emulated_hosts_are_of_slices_as_the_environment_says(monkeypatch):
    hosts = chips(0, 0, 1, 1, 2, 2, 3, 3, platform="cpu")
    monkeypatch.setattr(jax, "process_count", lambda: 4)
    assert len(by_slice(hosts)) == 1
    monkeypatch.setenv("MEGASCALE_NUM_SLICES", "2")
    assert numbers(by_slice(hosts)) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    monkeypatch.setattr(sharding, "Mesh", lambda array, names, axis_types: array)
    mesh = make_mesh(2, 1, hosts)
    assert mesh.shape == (
        4,
        2,
        1,
    )  # the first half of the data axis is of the first slice, and no other axis crosses it
    assert [[device.process_index // 2 for device in row] for row in mesh[:, :, 0]] == [[0, 0], [0, 0], [1, 1], [1, 1]]
    with pytest.raises(
        UserError, match="mesh.fsdp=8 times mesh.tensor=1 does not divide the 4 devices of each of the 2"
    ):
        make_mesh(8, 1, hosts)
