"""Strings of one length, written from left to right: every state has one parent."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rxrx_jax.base.errors import UserError
from rxrx_jax.generate.environments import Environment


class Text(NamedTuple):
    tokens: jax.Array  # int32 [length]: 0 for what is not written yet, else 1 + the letter
    done: jax.Array  # bool []


@dataclasses.dataclass(frozen=True)
class Strings(Environment):
    """Action i appends letter i; there is no "stop"."""

    letters: int = 20
    length: int = 18

    def __post_init__(self):
        if self.letters < 2 or self.length < 1:
            raise UserError(f"strings of length {self.length} of {self.letters} letters: expected at least 1 and 2")

    @property
    def actions(self) -> int:
        return self.letters

    @property
    def backward_actions(self) -> int:
        return 1

    @property
    def longest(self) -> int:
        return self.length

    @property
    def width(self) -> int:
        return self.length * (self.letters + 1)

    def reset(self) -> Text:
        return Text(jnp.zeros(self.length, jnp.int32), jnp.bool_(False))

    def step(self, state: Text, action) -> Text:
        at = (state.tokens > 0).sum()
        tokens = jnp.where((jnp.arange(self.length) == at) & ~state.done, action + 1, state.tokens)
        return Text(tokens.astype(jnp.int32), at >= self.length - 1)

    def forward_mask(self, state: Text):
        return jnp.ones(self.letters, bool)

    def backward_mask(self, state: Text):
        return jnp.ones(1, bool)

    def parent(self, state: Text, backward) -> Text:
        at = (state.tokens > 0).sum()
        return Text(jnp.where(jnp.arange(self.length) == at - 1, 0, state.tokens), jnp.bool_(False))

    def undo(self, state: Text, action):
        return jnp.int32(0)

    def hot(self, state: Text):
        """Each place one-hot, "not written yet" among its values."""
        return jnp.arange(self.length) * (self.letters + 1) + state.tokens

    def terminal(self, state: Text):
        """Letters int32 [length], from 0."""
        return state.tokens - 1
