"""Environments: what is built, one move at a time. One file each; this one holds what they have in common.

An environment is a frozen dataclass of sizes, so that it is hashable and static under jit, whose methods are pure and
of one state: `vmap` gives the batch axis, `scan` the time. A state is a NamedTuple of arrays of fixed shapes with a
field `done` (bool []): True once it is terminal. Everything else in it must be a function of what was built, not of
the order in which that happened: two states are the same exactly if their arrays are equal (`generate.exact`).
"""

import dataclasses

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Environment:
    """The methods that an environment must have, and two with defaults.

    Properties: actions, forward actions, "stop" among them where there is one; backward_actions; longest, moves of the
    longest trajectory, "stop" included; width, the length of `encode`; few, whether it may be enumerated, if it is
    small."""

    @property
    def few(self) -> bool:
        return True

    @property
    def actions(self) -> int:
        raise NotImplementedError

    @property
    def backward_actions(self) -> int:
        raise NotImplementedError

    @property
    def longest(self) -> int:
        raise NotImplementedError

    @property
    def width(self) -> int:
        raise NotImplementedError

    def reset(self):
        """The initial state."""
        raise NotImplementedError

    def step(self, state, action: jax.Array):
        """The state after a legal action, int32 []; a state that is done stays as it is, whatever the action."""
        raise NotImplementedError

    def forward_mask(self, state) -> jax.Array:
        """bool [actions]: which are legal, at least one of a state that is not done. Of one that is done, anything."""
        raise NotImplementedError

    def backward_mask(self, state) -> jax.Array:
        """bool [backward_actions]: one True for each distinct parent of a state that is not the initial one. Where
        several backward actions lead to the same parent, only the first of them is True."""
        raise NotImplementedError

    def parent(self, state, backward: jax.Array):
        """The parent that a legal backward action, int32 [], leads to."""
        raise NotImplementedError

    def undo(self, state, action: jax.Array) -> jax.Array:
        """The backward action, int32 [], that leads from `step(state, action)` to `state`."""
        raise NotImplementedError

    def hot(self, state) -> jax.Array:
        """What the policy sees of a state: the places of the ones in `encode`, int32 [n]; those from `width` on are
        nothing."""
        raise NotImplementedError

    def encode(self, state) -> jax.Array:
        """The same as zeros and ones: float32 [width]."""
        return jnp.zeros(self.width).at[self.hot(state)].set(1.0, mode="drop")

    def terminal(self, state):
        """What rewards take of a terminal state: an array or a tree of arrays."""
        raise NotImplementedError

    def same(self, state, action: jax.Array) -> jax.Array:
        """bool [actions]: the legal actions with the child of `action`, itself among them. Their probabilities are
        summed. By default no two actions have the same child."""
        del state
        return jnp.arange(self.actions) == action
