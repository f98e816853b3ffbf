"""Trajectories: sampled move by move in a `lax.scan`, and what the losses need to know of them. All functions are of
one trajectory of T = `environment.longest` moves; `vmap` gives the minibatch."""

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


def sample(environment: Environment, logits, key: jax.Array, random: float = 0.0) -> Trajectory:
    """One trajectory. Args: logits(state) -> [actions]; random, the share of moves that are uniform over the legal
    actions instead."""

    def move(state, time):
        keys = jax.random.split(jax.random.fold_in(key, time))
        mask = environment.forward_mask(state)
        uniform = jax.random.uniform(keys[0]) < random
        log_p = jnp.where(mask, jnp.where(uniform, 0.0, logits(state)), -jnp.inf)
        action = jnp.where(state.done, 0, jax.random.categorical(keys[1], jnp.where(state.done, 0.0, log_p)))
        action = action.astype(jnp.int32)
        after = environment.step(state, action)
        after = jax.tree.map(lambda old, new: jnp.where(state.done, old, new), state, after)
        return after, (state, action, ~state.done)

    last, (states, actions, valid) = jax.lax.scan(move, environment.reset(), jnp.arange(environment.longest))
    return Trajectory(states, actions, valid, last)


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
