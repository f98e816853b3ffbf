"""The losses at enumerated flows, where they are zero; probabilities of paths, which sum to 1; gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from rxrx_jax.generate import balance, exact, rollout
from rxrx_jax.generate.environments.grid import Grid
from rxrx_jax.generate.environments.strings import Strings

LOSSES = balance.LOSSES | {"subtb": functools.partial(balance.subtrajectory_balance, decay=0.8)}


def everything(environment, seed=0):
    """(graph, log rewards of its terminal states, log F, log P_F) of a random reward."""
    graph = exact.enumerate_states(environment)
    log_reward = np.random.default_rng(seed).normal(0, 2, len(graph.terminal))
    return graph, log_reward, *exact.flows(graph, environment, log_reward)


def terms(environment, graph, log_reward, flow, log_pf, count=32):
    """What the losses take, of `count` random trajectories [count, ...] at the given flows."""
    keys = jax.random.split(jax.random.key(0), count)
    uniform = lambda _: (jnp.zeros(environment.actions),)  # noqa: E731
    found = jax.jit(jax.vmap(lambda key: rollout.sample(environment, uniform, key)[0]))(keys)
    states = jax.tree.map(np.asarray, found.states)
    name = lambda tree, i: exact.name_of([np.asarray(x)[i] for x in jax.tree.leaves(tree)])  # noqa: E731
    place = {name(graph.states, i): i for i in range(len(flow))}
    at = [[place[name(states, (b, t))] for t in range(environment.longest)] for b in range(count)]
    last, at = [place[name(found.last, b)] for b in range(count)], np.array(at)

    @jax.jit
    @jax.vmap
    def logs(t, logits):
        return rollout.log_forward(environment, t, logits), rollout.log_backward(environment, t)

    forward, backward = logs(found, np.maximum(log_pf, -1e9)[at])
    log_z = np.full(count, flow[0])
    return [jnp.asarray(x, jnp.float32) for x in (forward, backward, flow[at], log_z, flow[last])] + [found.valid]


@pytest.fixture(scope="module", params=[Grid(4), Strings(3, 3)], ids=str)
def exactly(request):
    return request.param, *everything(request.param)


def test_all_losses_are_zero_at_the_flows_and_nowhere_near(exactly):
    environment, graph, log_reward, flow, log_pf = exactly
    assert flow[0] == pytest.approx(np.logaddexp.reduce(log_reward), abs=1e-9)  # log Z
    *given, valid = terms(environment, graph, log_reward, flow, log_pf)
    every = jax.jit(jax.vmap(lambda *given: jnp.stack([loss(*given) for loss in LOSSES.values()])))
    assert every(*given, valid).max() < 1e-9
    for i, what in enumerate(("log_pf", "log_pb", "log_flow", "log_z", "log_reward")):
        found = every(*[x + 0.1 * (i == k) for k, x in enumerate(given)], valid).mean(0)
        assert [x > 1e-4 for x in found] == [what != "log_flow" or name != "tb" for name in LOSSES], what


def test_the_policy_of_the_flows_ends_in_the_target(exactly):
    environment, graph, log_reward, _, log_pf = exactly
    found = exact.terminal_distribution(graph, jnp.maximum(log_pf, -1e9), environment.longest)
    assert found.sum() == pytest.approx(1, abs=1e-6)
    assert exact.total_variation(found, exact.target(jnp.asarray(log_reward))[0]) < 1e-6
    other = exact.terminal_distribution(graph, jnp.zeros_like(log_pf), environment.longest)
    assert other.sum() == pytest.approx(1, abs=1e-6)
    assert exact.total_variation(other, exact.target(jnp.asarray(log_reward))[0]) > 0.3


def paths(graph):
    """Every sequence of actions from the initial to a terminal state, and which that is."""
    stack = [(0, ())]
    while stack:
        s, actions = stack.pop()
        if graph.states.done[s]:
            yield actions, s
        stack += [(graph.child[s, a], (*actions, a)) for a in np.flatnonzero(graph.legal[s])]


@pytest.mark.parametrize("environment", [Grid(3), Strings(2, 3)], ids=str)
def test_probabilities_of_paths_sum_to_one(environment):
    """Forward over all paths, backward over the paths to each terminal state, of random policies in both directions."""
    graph = exact.enumerate_states(environment)
    found = list(paths(graph))
    actions = np.array([(*p, *[0] * (environment.longest - len(p))) for p, _ in found], np.int32)
    assert len(found) == (19 if isinstance(environment, Grid) else 8)
    weight = lambda n: np.random.default_rng(n).normal(size=(environment.width, n))  # noqa: E731
    policy, back = weight(environment.actions), weight(environment.backward_actions)

    @jax.jit
    @jax.vmap
    def probabilities(actions):
        t = rollout.replay(environment, actions)
        before, after = jax.vmap(environment.encode)(t.states), jax.vmap(environment.encode)(rollout.after(t))
        logs = (
            rollout.log_forward(environment, t, before @ policy),
            rollout.log_backward(environment, t, after @ back),
            rollout.log_backward(environment, t),
        )
        return [jnp.exp(x.sum()) for x in logs]

    forward, learned, uniform = probabilities(actions)
    assert forward.sum() == pytest.approx(1, abs=1e-5)
    terminal = np.array([s for _, s in found])
    for backward in (learned, uniform):
        np.testing.assert_allclose(np.bincount(terminal, backward)[graph.terminal], 1, atol=1e-5)
    encoded = jax.vmap(environment.encode)(graph.states)
    exactly = exact.terminal_distribution(graph, encoded @ policy, environment.longest)
    np.testing.assert_allclose(np.bincount(terminal, forward)[graph.terminal], exactly, atol=1e-6)


def test_gradients_by_finite_differences():
    """Of all losses through masked logits in both directions, flows and log Z, on a trajectory that ends early."""
    grid = Grid(3)
    trajectory, random = rollout.replay(grid, np.array([0, 1, 0, 2, 0])), np.random.default_rng(0)
    given = [random.normal(size=shape).astype(np.float32) for shape in ((5, 3), (5, 3), (5,), ())]

    @jax.jit
    def losses(logits, back, flow, log_z):
        forward, backward = rollout.log_forward(grid, trajectory, logits), rollout.log_backward(grid, trajectory, back)
        return jnp.stack([of(forward, backward, flow, log_z, -1.0, trajectory.valid) for of in LOSSES.values()])

    check_grads(losses, given, order=1, modes=["rev"], eps=1e-2, atol=2e-2, rtol=2e-2)
    logits, back, flow, log_z = jax.jit(jax.jacrev(losses, (0, 1, 2, 3)))(*given)
    assert all(np.isfinite(x).all() for x in (logits, back, flow, log_z)) and (log_z != 0).all()
    assert logits[:, :4].any((1, 2)).all() and not logits[:, 4].any() and back[:, :3].any((1, 2)).all()
    assert flow.any(1).tolist() == [name != "tb" for name in LOSSES] and not flow[:, 0].any()  # there log Z stands


def test_actions_with_one_child_are_summed():
    """Two actions of one child: the probability of the move is theirs together."""

    class Doubled(Grid):
        def same(self, state, action):
            pair = (jnp.arange(3) < 2) & (action < 2)
            return pair | (jnp.arange(3) == action)

    trajectory, logits = rollout.replay(Grid(3), np.array([0, 2, 0, 0, 0])), jnp.log(jnp.array([[0.2, 0.3, 0.5]] * 5))
    found = jnp.exp(rollout.log_forward(Doubled(3), trajectory, logits))
    np.testing.assert_allclose(found[:2], [0.5, 0.5], atol=1e-6)
