"""The task of generative flow networks: its loss, what it is a function of, and mistakes in its config."""

import dataclasses
import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rxrx_jax.adapt.method import Method
from rxrx_jax.base.config import Config, load
from rxrx_jax.base.errors import UserError
from rxrx_jax.data.batch import TRAIN, Batch
from rxrx_jax.data.roles import Roles
from rxrx_jax.data.source import Nothing, make_source
from rxrx_jax.evaluate import make_evaluators
from rxrx_jax.generate import rewards
from rxrx_jax.models.policy import Rows
from rxrx_jax.tasks import flow


def values(argument="", **changes):
    """The nested dict of mogfn.py on a 4 x 4 grid. Changes are named by dotted keys."""
    found = load(f"mogfn.py{':' * bool(argument)}{argument}")
    found["model"] |= {"width": 16, "log_z_width": 8}
    if found["task"]["environment"] == "grid":
        found["task"]["side"] = 4
    for key, value in changes.items():
        *parents, last = key.split(".")
        node = found
        for parent in parents:
            node = node[parent]
        node[last] = value
    return found


def make(*args, **changes):
    return flow.Flow.from_config(Config(values(*args, **changes)), Nothing("grid", 8), Method())


def test_the_loss_is_a_function_of_the_parameters_and_the_number_and_clips_rewards():
    task = make(
        "loss=subtb",
        **{"task.backward": "learned", "task.exponent": "uniform", "task.exponents": (1.0, 4.0)},
        **{"task.log_reward_floor": -1.0},
    )
    params = task.init(jax.random.key(0), None)["params"]

    @jax.jit
    @functools.partial(jax.value_and_grad, has_aux=True)
    def of(params, first):
        batch = Batch((first + jnp.arange(8),), {}, jax.random.split(jax.random.key(0), 8), {TRAIN: slice(0, 8)}, 8)
        value, (_, found) = task.loss(params, {}, batch, jax.random.key(0), 0.0)
        return value, found

    (value, found), gradients = of(params, 0)
    assert np.isfinite(value) and value == of(params, 0)[0][0] != of(params, 8)[0][0]
    assert 0 < found["objective/branin"] < 1 and 0 < found["reward"] < 1 and 1 <= found["moves"] <= 7
    assert 0 < found["clipped"] < 1
    norms = {part: float(sum(jnp.abs(x).sum() for x in jax.tree.leaves(gradients[part]))) for part in gradients}
    assert all(np.isfinite(x) and x > 0 for x in norms.values()) and set(norms) == {"policy", "log_z"}
    assert jnp.abs(gradients["policy"]["backward"]["bias"]).sum() > 0


def test_a_loss_of_what_was_said_while_sampling_is_that_of_replayed_actions():
    """Value and gradients, once through the scan that samples and once through states that are given."""
    task = make("loss=subtb", **{"task.backward": "learned"})
    params = task.init(jax.random.key(0), None)["params"]
    params = jax.tree.map(lambda x: x + 0.1 * jnp.cos(jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape), params)
    w, beta, _, found, _ = jax.jit(task.sample)(params, jnp.arange(8))
    values = jax.vmap(lambda last: task.problem.objectives(task.environment.terminal(last)))(found.last)
    columns = {"w": w, "beta": beta, "values": values, "actions": found.actions}
    host = dataclasses.replace(task, problem=dataclasses.replace(task.problem, on_host=True))
    assert 1 < found.valid.sum() < found.valid.size

    def of(task):
        batch = Batch((jnp.arange(8),), columns, jax.random.split(jax.random.key(0), 8), {TRAIN: slice(0, 8)}, 8)
        return jax.jit(jax.value_and_grad(lambda params: task.loss(params, {}, batch, None, 0.0)[0]))(params)

    near = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4)
    jax.tree.map(near, of(task), of(host))


def test_rows_of_a_kernel_are_its_product_with_zeros_and_ones():
    """Place 5 of 5 stands for nothing."""
    hot, encoded = np.array([[0, 3], [5, 5], [4, 5]]), np.zeros((3, 6), np.float32)
    np.put_along_axis(encoded, hot, 1, 1)
    kernel, bias = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32), np.ones(4, np.float32)
    params = {"kernel": jnp.asarray(kernel), "bias": jnp.asarray(bias)}
    found = Rows(5, 4).apply({"params": params}, hot)
    np.testing.assert_allclose(found, encoded[:, :5] @ kernel + bias, rtol=1e-6)


@pytest.mark.parametrize(("condition", "different"), [("trajectory", 16), ("minibatch", 2)])
def test_a_condition_is_of_a_trajectory_or_of_a_minibatch(condition, different):
    task = make(**{"task.condition": condition, "task.side": 2})
    w, _, _, found, _ = jax.jit(task.sample)(task.init(jax.random.key(0), None)["params"], jnp.arange(16))
    assert len(np.unique(w[:, 0])) == different and len(np.unique(found.actions, axis=0)) > 2


def test_the_source_yields_numbers_and_can_leave_a_minibatch_out():
    source = make_source(Config(values(**{"data.minibatch": 4})), None)
    numbers = [x[TRAIN]["number"].tolist() for x in source.minibatches(1, 3)]
    assert numbers == [[4, 5, 6, 7], [8, 9, 10, 11]] and source.rows(2)[0] == {"number": 8}
    other = [x[TRAIN]["number"].tolist() for x in source.without(1, 3).minibatches(0, 3)]
    assert other == [[0, 1, 2, 3], [12, 13, 14, 15], [8, 9, 10, 11]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task.environment": "maze"}, "task.environment='maze': expected grid, strings"),
        ({"task.loss": "flow"}, "task.loss='flow': expected tb, db, subtb"),
        ({"task.objectives": ("branin", "ackley")}, "the objective 'ackley' is unknown"),
        ({"task.preference": (1.0,)}, "1 numbers for 2 objectives"),
        ({"task.exponents": (0.0, 0.0)}, "two numbers above 0"),
        ({"task.exponent_bins": 1}, "at least 2 bins"),
        ({"task.scalarisation": "max"}, "task.scalarisation='max'"),
        ({"task.backward": "maxent"}, "expected uniform or learned"),
        ({"task.condition": "epoch"}, "and trajectory or minibatch"),
        ({"task.random": 1.5}, "a share of moves"),
        ({"task.log_reward_floor": 1.0}, "expected a number below 0"),
        ({"model.width": 0}, "expected policy, from 1 on"),
        ({"selection": "best_val"}, "has no validation rows"),
    ],
)
def test_mistakes_in_the_config(changes, message):
    with pytest.raises(UserError, match=message) as found:
        make(**changes)
    assert "\n" not in str(found.value)


def test_other_sources_and_subtb_without_decay():
    with pytest.raises(UserError, match="it needs data.source=nothing"):
        flow.Flow.from_config(Config(values()), object(), Method())
    with pytest.raises(UserError, match="task.subtb_decay=0.0: expected a number above 0"):
        make("loss=subtb", **{"task.subtb_decay": 0.0})
    with pytest.raises(UserError, match="expected images, molecules or nothing"):
        make_source(Config(values(**{"data.source": "something"})), None)


def test_evaluators_are_of_what_the_source_gives():
    source = Nothing("grid", 8)
    (found,) = make_evaluators(Config({"pareto": {"steps": 4}}), source)
    assert found[0] == "pareto" and found[2] == {"steps": 4}
    with pytest.raises(UserError, match="evaluators.accuracy is of images, and this source of samples; remove it"):
        make_evaluators(Config({"accuracy": {}}), source)
    with pytest.raises(UserError, match="evaluators.pareto is of samples, and this source of images; remove it"):
        make_evaluators(Config({"pareto": {}}), types.SimpleNamespace(dataset=types.SimpleNamespace(roles=Roles())))


def test_an_objective_that_is_nan_is_named_before_training(monkeypatch):
    monkeypatch.setitem(flow.grid.OBJECTIVES, "branin", lambda x: jnp.where(x[0] > 0.9, jnp.nan, 0.5))
    with pytest.raises(UserError, match=r"the objective branin of the cell \[1.0, .*\] is nan"):
        make()
    assert rewards.few(("a",)) == ("a",)
