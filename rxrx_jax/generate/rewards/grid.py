"""Objectives of a HyperGrid: two test functions of global optimisation on the unit square, scaled to [0, 1].

Their maxima are where the least of Branin's and the largest of Currin's lie, so they compete. Both read the first two
coordinates."""

import jax
import jax.numpy as jnp
import numpy as np

from rxrx_jax.base.errors import UserError
from rxrx_jax.generate.environments.grid import Grid
from rxrx_jax.generate.rewards import Problem


def branin(x: jax.Array) -> jax.Array:
    """1 - f / max f of Branin's function (Dixon and Szego 1978) on [-5, 10] x [0, 15]. Args: x float [>= 2], from 0 to
    1. Returns a float [] from 0 to 0.9987."""
    a, b = 15 * x[0] - 5, 15 * x[1]
    square = (b - 5.1 / (4 * jnp.pi**2) * a**2 + 5 / jnp.pi * a - 6) ** 2
    return jnp.clip(1 - (square + 10 * (1 - 1 / (8 * jnp.pi)) * jnp.cos(a) + 10) / 308.1291, 0, 1)


def currin(x: jax.Array) -> jax.Array:
    """f / max f of Currin's exponential function (Currin et al. 1991). Args: x float [>= 2], from 0 to 1. Returns a
    float [] from 0.09 to 1."""
    a, b = x[0], x[1]
    factor = 1 - jnp.exp(-1 / jnp.maximum(2 * b, 1e-6))
    ratio = (2300 * a**3 + 1900 * a**2 + 2092 * a + 60) / (100 * a**3 + 500 * a**2 + 4 * a + 20)
    return jnp.clip(factor * ratio / 13.798722, 0, 1)


OBJECTIVES = {"branin": branin, "currin": currin}


def problem(names: tuple[str, ...], side: int, dimensions: int = 2) -> Problem:
    """A grid with some of OBJECTIVES; distances are Euclidean, of coordinates in [0, 1]."""
    if dimensions < 2:
        raise UserError(f"task.dimensions={dimensions}: the objectives of a grid need two or more")
    objectives = lambda x: jnp.stack([OBJECTIVES[name](x) for name in names])  # noqa: E731
    distances = lambda x: np.sqrt(np.square(x[:, None] - x[None]).sum(-1))  # noqa: E731
    return Problem(Grid(side, dimensions), names, objectives, distances, lambda x: f"the cell {x.tolist()}")
