"""HyperGrid: from the corner 0 of a grid, raise one coordinate at a time, or stop (Bengio et al. 2021, arXiv
2106.04399). The number of cells is small, so that everything about a policy can be computed exactly."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rxrx_jax.base.errors import UserError
from rxrx_jax.generate.environments import Environment


class Cell(NamedTuple):
    at: jax.Array  # int32 [dimensions]
    done: jax.Array  # bool []


@dataclasses.dataclass(frozen=True)
class Grid(Environment):
    """`side` cells along each of `dimensions`. Action i raises coordinate i, the last one stops."""

    side: int = 8
    dimensions: int = 2

    def __post_init__(self):
        if self.side < 2 or self.dimensions < 1:
            raise UserError(f"task.side={self.side}, task.dimensions={self.dimensions}: expected at least 2 and 1")

    @property
    def actions(self) -> int:
        return self.dimensions + 1

    @property
    def backward_actions(self) -> int:
        return self.dimensions + 1

    @property
    def longest(self) -> int:
        return self.dimensions * (self.side - 1) + 1

    @property
    def width(self) -> int:
        return self.dimensions * self.side

    def reset(self) -> Cell:
        return Cell(jnp.zeros(self.dimensions, jnp.int32), jnp.bool_(False))

    def step(self, state: Cell, action) -> Cell:
        raised = state.at + (jnp.arange(self.dimensions) == action)
        return Cell(jnp.where(state.done, state.at, raised), state.done | (action == self.dimensions))

    def forward_mask(self, state: Cell):
        return jnp.append(state.at < self.side - 1, True)

    def backward_mask(self, state: Cell):
        """Only "stop" leads to a state that is done."""
        return jnp.append((state.at > 0) & ~state.done, state.done)

    def parent(self, state: Cell, backward) -> Cell:
        return Cell(state.at - (jnp.arange(self.dimensions) == backward), jnp.bool_(False))

    def undo(self, state: Cell, action):
        return action

    def hot(self, state: Cell):
        """Each coordinate one-hot."""
        return jnp.arange(self.dimensions) * self.side + state.at

    def terminal(self, state: Cell):
        """Coordinates in [0, 1]: float32 [dimensions]."""
        return state.at / (self.side - 1)
