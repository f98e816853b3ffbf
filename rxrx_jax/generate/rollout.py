"""Trajectories: sampled move by move in a `lax.scan`, and what the losses need to know of them. All functions are of
one trajectory of T = `environment.longest` moves; `vmap` gives the minibatch.

What the network said of each state comes with a sampled trajectory and can be differentiated, so that the network runs
once for sampling and loss."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rxrx_jax.generate.environments import Environment


class Trajectory(NamedTuple):
    states: Any  # before each move: a tree of [T, ...]
    actions: jax.Array  # int32 [T]
    valid: jax.Array  # bool [T]: the moves before the state was done
    last: Any  # the terminal state


def masked(logits: jax.Array, mask: jax.Array) -> jax.Array:
    """log-softmax over what is allowed, at least one; elsewhere a large negative number, so that gradients are
    finite."""
    return jax.nn.log_softmax(jnp.where(mask, logits, -1e9))


def sample(environment: Environment, network, key: jax.Array, random: float = 0.0) -> tuple[Trajectory, Any]:
    """(one trajectory, what the network said before each move: a tree of [T, ...]).

    Args: network(state) -> (logits [actions], anything); random, the share of moves that are uniform over the legal
    actions instead. No gradient passes through the choice of a move."""

    def move(state, noise):
        gumbel, uniform = noise
        said = network(state)
        logits = jnp.where(uniform, 0.0, jax.lax.stop_gradient(said[0])) + gumbel
        action = jnp.argmax(jnp.where(environment.forward_mask(state), logits, -jnp.inf))
        action = jnp.where(state.done, 0, action).astype(jnp.int32)
        after = environment.step(state, action)
        after = jax.tree.map(lambda old, new: jnp.where(state.done, old, new), state, after)
        return after, (state, action, ~state.done, said)

    keys, moves = jax.random.split(key), environment.longest
    noise = jax.random.gumbel(keys[0], (moves, environment.actions)), jax.random.uniform(keys[1], (moves,)) < random
    last, (states, actions, valid, said) = jax.lax.scan(move, environment.reset(), noise)
    return Trajectory(states, actions, valid, last), said


def replay(environment: Environment, actions: jax.Array) -> Trajectory:
    """The trajectory of actions int32 [T]; what comes after the terminal state is ignored."""

    def move(state, action):
        after = environment.step(state, action)
        after = jax.tree.map(lambda old, new: jnp.where(state.done, old, new), state, after)
        return after, (state, ~state.done)

    last, (states, valid) = jax.lax.scan(move, environment.reset(), actions)
    return Trajectory(states, actions, valid, last)


def after(trajectory: Trajectory) -> Any:
    """The states after each move: a tree of [T, ...]."""
    return jax.tree.map(lambda x, last: jnp.concatenate([x[1:], last[None]]), trajectory.states, trajectory.last)


def log_forward(environment: Environment, trajectory: Trajectory, logits: jax.Array) -> jax.Array:
    """log P_F of each move, summed over the actions with the same child: [T]. Args: logits [T, actions]."""

    def one(state, action, logits):
        log_p = masked(logits, environment.forward_mask(state))
        return jax.scipy.special.logsumexp(jnp.where(environment.same(state, action), log_p, -1e9))

    return jnp.where(trajectory.valid, jax.vmap(one)(trajectory.states, trajectory.actions, logits), 0)


def log_backward(environment: Environment, trajectory: Trajectory, logits: jax.Array | None = None) -> jax.Array:
    """log P_B of each move: [T]. Args: logits [T, backward_actions] of the states after the moves; without them P_B is
    uniform over the parents."""

    def one(before, action, child, logits):
        mask = environment.backward_mask(child)
        if logits is None:
            return -jnp.log(jnp.maximum(mask.sum(), 1).astype(jnp.float32))
        return masked(logits, mask)[environment.undo(before, action)]

    found = jax.vmap(one)(trajectory.states, trajectory.actions, after(trajectory), logits)
    return jnp.where(trajectory.valid, found, 0)
