"""Environments by enumeration: moves can be undone, parents are those of the graph, and every terminal state is there
once."""

import jax
import numpy as np
import pytest

from rxrx_jax.base.errors import UserError
from rxrx_jax.generate import exact, rollout
from rxrx_jax.generate.environments.grid import Grid
from rxrx_jax.generate.environments.strings import Strings

SMALL = {Grid(4): (32, 16), Grid(3, 3): (54, 27), Strings(3, 3): (1 + 3 + 9 + 27, 27)}


@pytest.mark.parametrize("environment", SMALL, ids=str)
def test_moves_and_parents_are_those_of_the_graph(environment):
    graph = exact.enumerate_states(environment)
    assert (len(graph.child), len(graph.terminal)) == SMALL[environment]
    s, action = np.nonzero(graph.legal)
    before = jax.tree.map(lambda x: x[s], graph.states)

    @jax.jit
    @jax.vmap
    def there_and_back(state, action):
        child = environment.step(state, action)
        backward = environment.undo(state, action)
        same = environment.same(state, action)[action]
        return child, environment.parent(child, backward), environment.backward_mask(child)[backward] & same

    child, parent, allowed = there_and_back(before, action)
    assert allowed.all()
    numbered = jax.tree.map(lambda x: x[graph.child[s, action]], graph.states)
    for found, expected in ((child, numbered), (parent, before)):
        jax.tree.map(np.testing.assert_array_equal, found, expected)
    parents = {c: set() for c in range(1, len(graph.child))}
    for a, b in zip(s, graph.child[s, action]):
        parents[b].add(a)
    counted = np.asarray(jax.vmap(environment.backward_mask)(graph.states)).sum(1)
    assert [len(parents[c]) for c in parents] == counted[1:].tolist()
    assert not graph.legal[graph.terminal].any() and graph.legal[~graph.states.done].any(1).all()
    codes = jax.vmap(environment.encode)(graph.states)
    assert codes.shape == (len(graph.child), environment.width)
    assert len(np.unique(np.concatenate([codes, graph.states.done[:, None]], 1), axis=0)) == len(graph.child)


def test_what_is_done_stays_and_the_longest_trajectory_fits():
    """Right, right, right, up, up, up, stop: seven moves of a 4 x 4 grid; two moves of it, then anything."""
    grid = Grid(4)
    assert grid.longest == 7
    longest = rollout.replay(grid, np.array([0, 0, 0, 1, 1, 1, 2]))
    assert longest.valid.all() and longest.last.done and longest.last.at.tolist() == [3, 3]
    short = rollout.replay(grid, np.array([0, 2, 1, 1, 0, 0, 0]))
    assert short.valid.tolist() == [True] * 2 + [False] * 5 and short.last.at.tolist() == [1, 0]


def test_sampled_actions_are_legal_and_functions_of_the_key():
    grid = Grid(3)
    draw = jax.jit(jax.vmap(lambda key: rollout.sample(grid, lambda _: (np.array([1.0, 0, -2]),), key, 0.1)[0]))
    one, again = draw(jax.random.split(jax.random.key(0), 64)), draw(jax.random.split(jax.random.key(0), 64))
    jax.tree.map(np.testing.assert_array_equal, one, again)
    assert one.last.done.all() and (one.last.at < 3).all() and len(np.unique(one.last.at, axis=0)) > 5
    same = jax.vmap(lambda actions: rollout.replay(grid, actions))(one.actions)
    jax.tree.map(np.testing.assert_array_equal, one, same)


def test_a_large_environment_is_not_enumerated():
    assert exact.enumerate_states(Grid(30), most=500) is None


@pytest.mark.parametrize("make", [lambda: Grid(1), lambda: Grid(4, 0), lambda: Strings(1, 4), lambda: Strings(4, 0)])
def test_sizes_that_cannot_be(make):
    with pytest.raises(UserError, match="expected at least"):
        make()
