"""Everything there is in a small environment: its states, the flows of a reward, and what a policy ends in, by dynamic
programming."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rxrx_jax.generate.environments import Environment
from rxrx_jax.generate.rollout import masked

MOST = 20_000  # states
CHUNK = 512  # states whose children are computed at a time


@dataclasses.dataclass(frozen=True)
class Graph:
    """The S states of an environment, the initial one first, parents before children.

    states: a tree of [S, ...]; child int32 [S, actions]: the state that a legal action leads to, S elsewhere; legal
    bool [S, actions]; terminal int32 [n]: which states are done."""

    states: Any
    child: np.ndarray
    legal: np.ndarray
    terminal: np.ndarray


def enumerate_states(environment: Environment, most: int = MOST) -> Graph | None:
    """The graph; None for an environment of more than `most` states."""
    start = jax.tree.map(lambda x: np.asarray(x)[None], environment.reset())
    leaves, tree = jax.tree.flatten(start)
    found = {name_of([x[0] for x in leaves]): 0}
    everything, child, legal = [leaves], [], []
    frontier = leaves
    while len(frontier[0]):
        after, mask = _children(environment, jax.tree.unflatten(tree, frontier))
        after, mask = jax.tree.leaves(after), mask & ~tree.unflatten(frontier).done[:, None]
        number, new = np.full(mask.shape, -1, np.int32), []
        for i, k in np.argwhere(mask):
            name = name_of([x[i, k] for x in after])
            if name not in found:
                found[name] = len(found)
                new.append((i, k))
            number[i, k] = found[name]
        if len(found) > most:
            return None
        child.append(number)
        legal.append(mask)
        frontier = [np.stack([x[i, k] for i, k in new]) if new else x[:0, 0] for x in after]
        everything.append(frontier)
    states = jax.tree.unflatten(tree, [np.concatenate(parts) for parts in zip(*everything)])
    child, legal = np.concatenate(child), np.concatenate(legal)
    return Graph(states, np.where(legal, child, len(child)), legal, np.flatnonzero(states.done).astype(np.int32))


def name_of(arrays) -> bytes:
    """What tells states apart: the bytes of their arrays."""
    return b"".join(x.tobytes() for x in arrays)


@functools.partial(jax.jit, static_argnums=0)
def _step(environment: Environment, states):
    step = lambda state: jax.vmap(environment.step, (None, 0))(state, jnp.arange(environment.actions))  # noqa: E731
    return jax.vmap(step)(states), jax.vmap(environment.forward_mask)(states)


def _children(environment: Environment, states):
    """(children, a tree of [n, actions, ...]; forward mask [n, actions]) of n states, in chunks of one shape."""
    n = len(states.done)
    padded = jax.tree.map(lambda x: np.concatenate([x, np.repeat(x[-1:], -n % CHUNK, 0)]), states)
    part = lambda i: jax.tree.map(lambda x: x[i : i + CHUNK], padded)  # noqa: E731
    parts = [_step(environment, part(i)) for i in range(0, n, CHUNK)]
    return jax.tree.map(lambda *x: np.concatenate([np.asarray(y) for y in x])[:n], *parts)


def terminal_distribution(graph: Graph, logits: jax.Array, moves: int) -> jax.Array:
    """Where a policy ends: the probability of each of the n terminal states, float32 [n].

    Args: logits [S, actions] of all states; moves, those of the longest trajectory."""
    number = len(graph.child)
    log_p = jax.vmap(masked)(logits, jnp.asarray(graph.legal | ~graph.legal.any(1, keepdims=True)))
    p = jnp.where(graph.legal, jnp.exp(log_p), 0)

    def move(mass, _):
        """Terminal states keep what has come to them."""
        flow = jnp.zeros(number + 1).at[graph.child].add(mass[:, None] * p)[:number]
        return jnp.where(graph.states.done, mass, 0) + flow, None

    start = jnp.zeros(number).at[0].set(1.0)
    return jax.lax.scan(move, start, length=moves)[0][graph.terminal]


def total_variation(p: jax.Array, q: jax.Array) -> jax.Array:
    """Half the sum of |p - q| of two distributions [..., n]: from 0, the same, to 1."""
    return jnp.abs(p - q).sum(-1) / 2


def target(log_reward: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(R^beta / Z [..., n], log Z [...]) of log R^beta [..., n] of all terminal states."""
    return jax.nn.softmax(log_reward), jax.scipy.special.logsumexp(log_reward, -1)


def flows(graph: Graph, environment: Environment, log_reward: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(log F [S], log P_F [S, actions]) of a reward [n] with P_B uniform over the parents, in float64; where several
    actions have one child, its probability is shared equally. log F of the initial state is log Z."""
    number = len(graph.child)
    parents = np.asarray(jax.vmap(environment.backward_mask)(graph.states)).sum(1)  # of the initial one anything
    flow, log_pf = np.full(number, -np.inf), np.full(graph.child.shape, -np.inf)
    flow[graph.terminal] = log_reward
    for s in reversed(range(number)):
        if graph.states.done[s]:
            continue
        children, where, count = np.unique(graph.child[s][graph.legal[s]], return_inverse=True, return_counts=True)
        edges = flow[children] - np.log(parents[children])
        flow[s] = np.logaddexp.reduce(edges)
        log_pf[s][graph.legal[s]] = (edges - flow[s] - np.log(count))[where]
    return flow, log_pf
