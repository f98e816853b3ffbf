"""Scalarisations: d objectives and a preference to one reward R_w in [0, 1], of which these give the logarithm.

R [..., d] from 0 to 1, all maximised; w [..., d] on the simplex. What is below SMALLEST counts as that."""

import jax
import jax.numpy as jnp

from rxrx_jax.base.errors import UserError

SMALLEST = 1e-10


def _log(x: jax.Array) -> jax.Array:
    return jnp.log(jnp.maximum(x, SMALLEST))


def weighted_sum(r: jax.Array, w: jax.Array) -> jax.Array:
    """log sum_i w_i R_i."""
    return _log((w * r).sum(-1))


def weighted_log_sum(r: jax.Array, w: jax.Array) -> jax.Array:
    """sum_i w_i log R_i, the weighted geometric mean."""
    return (w * _log(r)).sum(-1)


def tchebycheff(r: jax.Array, w: jax.Array) -> jax.Array:
    """log(1 - max_i w_i (1 - R_i)): larger for what is better."""
    return _log(1 - (w * jnp.abs(1 - r)).max(-1))


def tchebycheff_published(r: jax.Array, w: jax.Array) -> jax.Array:
    """log max_i w_i |1 - R_i| as MJ10/mo_gfn 91eff326 computes it: larger for what is worse. For comparison only."""
    return _log((w * jnp.abs(1 - r)).max(-1))


SCALARISATIONS = {
    "weighted_sum": weighted_sum,
    "weighted_log_sum": weighted_log_sum,
    "tchebycheff": tchebycheff,
    "tchebycheff_published": tchebycheff_published,
}


def scalarisation(name: str):
    """The function of that name. Raises UserError where there is none."""
    if name not in SCALARISATIONS:
        raise UserError(f"task.scalarisation={name!r}: expected {', '.join(SCALARISATIONS)}")
    return SCALARISATIONS[name]
