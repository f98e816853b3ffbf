"""Self-distillation: three steps of it against PyTorch (reference/peers/torch_distill.py), schedules, collapse."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from parameters import random_variables
from paths import REFERENCE
from step_tools import batch

from rxrx_jax.models.heads import Projection
from rxrx_jax.tasks.distill import Distill
from rxrx_jax.training.state import TrainState

STORED = REFERENCE / "distill.npz"
# As in reference/make_distill.py, which needs PyTorch to be imported.
SHARES, TOTAL, STEPS, RATE = (0.5, 0.3, 0.0, 0.2), 5, 3, 0.1


class Pixels(nn.Module):
    """An encoder of one linear layer."""

    width: int

    @nn.compact
    def __call__(self, images, train=False):
        x = nn.Dense(self.width, name="embed")(images.reshape(len(images), -1))
        return x, {"embedding": x}


TASK = Distill(
    encoder=Pixels(5),
    head=Projection(7, 4, 6),
    momentum=0.8,
    temperatures=(0.3, 0.5),
    warmup=0.4,
    student_temperature=0.2,
    centre_momentum=0.7,
    shares=SHARES,
)
ONE_CENTRE = dataclasses.replace(TASK, shares=())
TASKS = {"experiment": TASK, "all": ONE_CENTRE}
KEYS = jax.random.split(jax.random.key(0), 8)


@pytest.fixture(scope="module")
def stored():
    with np.load(STORED) as arrays:
        return dict(arrays)


def under(arrays, prefix):
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}


def to_jax(weights):
    layer = lambda name: {"kernel": weights[f"{name}.weight"].T, "bias": weights[f"{name}.bias"]}  # noqa: E731
    head = {name: layer(name) for name in ("hidden0", "hidden1", "bottleneck")}
    return {"encoder": {"embed": layer("encoder")}, "head": head | {"kernel": weights["last.weight"].T}}


def state(task, weights, centre):
    params = jax.tree.map(jnp.asarray, to_jax(weights))
    return params, of_state(params, jnp.asarray(centre[: len(task.shares) or 1]))


def of_state(teacher, centre):
    """The collections of a state."""
    return {"batch_stats": {}, "carry": {"centre": centre}, "averages": {"params": teacher, "batch_stats": {}}}


def teacher_of(stats):
    return stats["averages"]["params"]


def loss_of(task, params, stats, images, domains, keys, progress):
    return task.loss(params, stats, batch(images, keys, experiment=domains), keys[0], progress)


@functools.partial(jax.jit, static_argnums=0)
def evaluate(task, params, stats, images, domains, progress):
    """((loss, (collections, metrics)), gradients) for images [B, 12] in pairs."""
    images = images.reshape(-1, 2, 2, 3)
    loss = lambda params: loss_of(task, params, stats, images, domains, KEYS[: len(images)], progress)  # noqa: E731
    return jax.value_and_grad(loss, has_aux=True)(params)


def assert_same_steps(task, weights, images, domains, centre, theirs):
    """Losses, metrics, centres, students and teachers of every step; theirs move the teacher one call earlier."""
    params, stats = state(task, weights, centre)
    close = lambda a, b, name: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5, err_msg=name)  # noqa: E731
    trees = lambda a, b, name: jax.tree.map(lambda x, y: close(x, y, name), a, to_jax(b))  # noqa: E731
    for step in range(STEPS):
        inputs = images[step], domains[step]
        (loss, (stats, found)), grads = evaluate(task, params, stats, *inputs, step / TOTAL)
        for name, value in ({"loss": loss} | found).items():
            close(value, theirs[f"{step}/{name}"], f"{name} at {step}")
        measures = {name for name in under(theirs, f"{step}/") if "/" not in name}
        assert {"loss", "centre"} | found.keys() == measures
        close(stats["carry"]["centre"], theirs[f"{step}/centre"], f"centre at {step}")
        before = under(theirs, f"{step - 1}/teacher/") if step else weights
        trees(teacher_of(stats), before, f"teacher at the start of {step}")
        params = jax.tree.map(lambda p, g: p - RATE * g, params, grads)
        trees(params, under(theirs, f"{step}/student/"), f"student after {step}")
    (_, (stats, _)), _ = evaluate(task, params, stats, *inputs, STEPS / TOTAL)
    trees(teacher_of(stats), under(theirs, f"{STEPS - 1}/teacher/"), "the last teacher")


@pytest.mark.parametrize("centre", TASKS)
def test_three_steps_have_the_stored_numbers_of_pytorch(stored, centre):
    args = under(stored, "weight/"), stored["images"], stored["domains"], stored["centre"]
    assert_same_steps(TASKS[centre], *args, under(stored, f"{centre}/"))


@pytest.mark.parametrize("centre", TASKS)
def test_three_steps_have_the_numbers_of_pytorch_with_other_weights(centre):
    pytest.importorskip("torch", reason="PyTorch is not installed; the stored values are compared in any case")
    from reference import make_distill

    args = make_distill.draw(seed=7)
    assert_same_steps(TASKS[centre], *args, make_distill.run(*args, TASKS[centre].shares))


def test_no_gradient_reaches_teacher_or_centre(stored):
    """Nor the student by way of the teacher that it has just moved."""
    params, stats = state(TASK, under(stored, "weight/"), stored["centre"])
    args = stored["images"][0].reshape(-1, 2, 2, 3), stored["domains"][0], KEYS, 0.2
    grads = jax.jit(jax.grad(lambda stats: loss_of(TASK, params, stats, *args)[0]))(stats)
    assert all((g == 0).all() for g in jax.tree.leaves(grads))

    def student(momentum):
        task = dataclasses.replace(TASK, momentum=momentum)
        return jax.jit(jax.grad(lambda params: loss_of(task, params, stats, *args)[0]))(params)

    # The same teacher, once moved all the way to the student and once not at all.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), student(0.0), student(1.0))


def test_the_teacher_starts_as_the_student_and_gives_the_embedding(stored):
    images = jnp.asarray(stored["images"][0].reshape(-1, 2, 2, 3))
    variables = TASK.init(jax.random.key(1), images)
    params, averages, centre = variables["params"], variables["averages"], variables["carry"]["centre"]
    assert jax.tree.map(np.array_equal, averages["params"], params) == jax.tree.map(lambda _: True, params)
    assert averages["batch_stats"] == {} and centre.shape == (4, 6) and not centre.any()
    assert ONE_CENTRE.init(jax.random.key(1), images)["carry"]["centre"].shape == (1, 6)
    assert params["encoder"]["embed"]["kernel"].any() and params["head"]["kernel"].any()

    # What a state with averages is read by is these.
    other = jax.tree.map(jnp.zeros_like, params)
    embedded = lambda student, teacher: TASK.predict(  # noqa: E731
        *TrainState(0, student, of_state(teacher, centre), {}).network(), images, None
    )["embedding"]
    expected = Pixels(5).apply({"params": params["encoder"]}, images)[0]
    np.testing.assert_allclose(embedded(other, params), expected, rtol=1e-6)
    assert not embedded(params, other).any()


class Plain(nn.Module):
    """An encoder or head that changes nothing."""

    @nn.compact
    def __call__(self, x, train=False):
        return x, {"embedding": x}


class Head(nn.Module):
    @nn.compact
    def __call__(self, x):
        return x


class Noisy(nn.Module):
    """An encoder with noise where stochastic depth has it."""

    @nn.compact
    def __call__(self, x, train=False):
        x = x + jax.random.normal(self.make_rng("drop_path"), x.shape) if train else x
        return x, {"embedding": x}


def test_the_student_alone_has_stochastic_depth():
    task = dataclasses.replace(ONE_CENTRE, encoder=Noisy(), head=Head())
    empty = {"encoder": {}, "head": {}}
    stats = of_state(empty, jnp.zeros((1, 4)))
    outputs, domains = jax.random.normal(KEYS[0], (6, 4)), jnp.zeros(6, jnp.int32)
    run = jax.jit(lambda keys: loss_of(task, empty, stats, outputs, domains, keys, 0.0))
    runs = [run(keys) for keys in (KEYS[:6], KEYS[:6], KEYS[2:])]
    losses = [float(loss) for loss, _ in runs]
    assert losses[0] == losses[1] != losses[2]
    np.testing.assert_allclose(runs[0][1][0]["carry"]["centre"], 0.3 * outputs.mean(0, keepdims=True), rtol=1e-5)


@pytest.mark.parametrize(
    "prototypes, entropy, marginal, agreement, kl",
    [
        ([0, 0, 0, 0, 0, 0], 0, 0, 1, 0),  # everything in one prototype
        (None, np.log(4), np.log(4), 1, 0),  # everything in all of them
        ([0, 0, 1, 1, 2, 2], 0, np.log(3), 1, 0),  # pairs told apart
        ([0, 1, 1, 2, 2, 0], 0, np.log(3), 0, 80),  # all different in every pair
        ([0, 0, 1, 2, 2, 2], 0, np.log(6) - np.log(3) / 2 - np.log(2) / 3, 2 / 3, 80 / 3),  # one of three pairs
    ],
)
def test_metrics_show_collapse(prototypes, entropy, marginal, agreement, kl):
    outputs = np.zeros((6, 4)) if prototypes is None else 8.0 * np.eye(4)[prototypes]
    task = dataclasses.replace(
        ONE_CENTRE, encoder=Plain(), head=Head(), student_temperature=0.1, temperatures=(0.1, 0.1)
    )
    empty = {"encoder": {}, "head": {}}
    stats = of_state(empty, jnp.zeros((1, 4)))
    outputs, domains = jnp.array(outputs, jnp.float32), jnp.zeros(6, jnp.int32)
    loss, (_, found) = loss_of(task, empty, stats, outputs, domains, KEYS[:6], 0.0)
    values = [found[name] for name in ("teacher_entropy", "teacher_marginal_entropy", "agreement", "kl")]
    np.testing.assert_allclose(values, [entropy, marginal, agreement, kl], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(loss, entropy + kl, rtol=1e-5, atol=1e-5)


def test_the_parts_of_a_minibatch_average_to_the_whole(stored):
    """What accumulation of gradients over whole pairs relies on."""
    params, stats = state(TASK, under(stored, "weight/"), stored["centre"])
    params = jax.tree.map(lambda p: p + 0.1, params)  # so that the teacher moves
    images, domains = stored["images"][0], stored["domains"][0]
    whole = evaluate(TASK, params, stats, images, domains, 0.2)
    rows = np.arange(8).reshape(-1, 2)  # pairs
    rows = rows[0::2].ravel(), rows[1::2].ravel()
    halves = [evaluate(TASK, params, stats, images[r], domains[r], 0.2) for r in rows]
    mean = jax.tree.map(lambda a, b: (a + b) / 2, *[((loss, stats), grads) for (loss, (stats, _)), grads in halves])
    (loss, (stats, _)), grads = whole
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), mean, ((loss, stats), grads))


def test_schedules_of_momentum_and_temperature():
    momentum = [float(TASK.momentum_at(p)) for p in (0.0, 0.25, 0.5, 1.0)]
    np.testing.assert_allclose(momentum, [0.8, 1 - 0.1 * (1 + 0.5**0.5), 0.9, 1.0], atol=1e-6)
    temperature = [float(TASK.temperature_at(p)) for p in (0.0, 0.1, 0.4, 1.0)]
    np.testing.assert_allclose(temperature, [0.3, 0.35, 0.5, 0.5], atol=1e-6)
    assert float(dataclasses.replace(TASK, warmup=0.0).temperature_at(0.0)) == 0.5


def test_a_domain_moves_its_own_centre_by_its_share_and_at_most_all_the_way():
    task = dataclasses.replace(TASK, shares=(0.5, 0.49, 0.01, 0.0), centre_momentum=0.9)
    outputs = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
    moved = task.move_centre(jnp.ones((4, 6)), outputs, jnp.array([0, 0, 0, 2]))
    np.testing.assert_allclose(moved[0], 0.85 + 0.15 * outputs[:3].mean(0), rtol=1e-5)  # 0.75 / 0.5 of 0.1
    np.testing.assert_array_equal(moved[1], 1)  # nobody there
    np.testing.assert_allclose(moved[2], outputs[3], rtol=1e-5)  # 25 of 0.1
    np.testing.assert_array_equal(moved[3], 1)


def test_the_projection_gives_cosines_and_survives_a_zero():
    head = Projection(7, 4, 6)
    x = jax.random.normal(jax.random.key(0), (3, 5)) * 5
    params = random_variables(head.init, x)["params"]
    apply = lambda p, x: head.apply({"params": p}, x)  # noqa: E731
    longer = params | {"kernel": params["kernel"] * np.array([1, 2, 3, 4, 5, 6], np.float32)}
    np.testing.assert_allclose(apply(longer, x), apply(params, x), atol=1e-6)
    assert np.abs(apply(params, x)).max() <= 1 + 1e-6
    aligned = params | {
        "bottleneck": jax.tree.map(np.zeros_like, params["bottleneck"]) | {"bias": params["kernel"][:, 2]}
    }
    np.testing.assert_allclose(apply(aligned, x)[:, 2], 1, rtol=1e-6)
    nothing = jax.tree.map(jnp.zeros_like, params)
    grads = jax.grad(lambda p: apply(p, x).sum())(nothing)
    assert not apply(nothing, x).any() and all(np.isfinite(g).all() for g in jax.tree.leaves(grads))
