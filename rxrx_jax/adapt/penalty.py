"""What penalties on the difference between domains share. The labelled stream of their minibatches lies domain by
domain, as many images of each (`Needs.groups`)."""

import dataclasses

import jax
import jax.numpy as jnp
import optax

from rxrx_jax.adapt.method import Method, Needs, Outputs
from rxrx_jax.data.batch import HELD_OUT, TRAIN


def by_domain(out: Outputs, values: jax.Array, groups: int) -> jax.Array:
    """The labelled stream's part of `values` [B, ...], parted: [groups, n, ...]."""
    values = out.batch.of(TRAIN, values)
    return values.reshape(groups, -1, *values.shape[1:])


def features_by_domain(out: Outputs, groups: int) -> list[jax.Array]:
    """The features [n, D] of each domain of the labelled stream; held-out images, where there are any, are one domain
    more."""
    parts = list(by_domain(out, out.features, groups))
    return parts + ([out.batch.of(HELD_OUT, out.features)] if HELD_OUT in out.batch.streams else [])


def mean_labelled(values: jax.Array, labelled: jax.Array) -> jax.Array:
    """The mean of `values` [..., n] over the labelled images, 0 where there are none."""
    return jnp.where(labelled, values, 0).sum(-1) / jnp.maximum(labelled.sum(-1), 1)


def between(values: jax.Array) -> jax.Array:
    """The mean square of the differences between values [domains, ...], over pairs of domains and entries: twice the
    unbiased variance over the domains."""
    return 2 * values.var(axis=0, ddof=1).mean()


@dataclasses.dataclass(frozen=True)
class LatePenalty(Method):
    """Empirical risk minimisation for `warm_up` steps, then the loss is risk + weight * penalty. At that step the
    optimiser's moments start from zero, because the gradient jumps there (DomainBed's code, Gulrajani & Lopez-Paz 2020,
    arXiv 2007.01434); the schedule of the learning rate does not start again. A subclass has `_penalty`."""

    weight: float = 1.0
    warm_up: int = 500

    @property
    def needs(self):
        return Needs(groups=(2, 10**6), per_domain=2, steps=self.warm_up + 1, whole_minibatch=True)

    def init(self, key, features):
        return {}, {"step": jnp.int32(0)}

    def _penalty(self, carry: dict, out: Outputs) -> tuple[jax.Array, dict]:
        """(penalty, carry)."""
        raise NotImplementedError

    def loss(self, params, carry, out, progress, key):
        penalty, new = self._penalty(carry, out)
        weight = jnp.where(carry["step"] < self.warm_up, 0.0, self.weight)
        metrics = {"penalty": penalty, "penalty_weight": weight}
        return out.risk + weight * penalty, new | {"step": carry["step"] + 1}, metrics

    def update(self, differentiate, optimiser, state, minibatch):
        now = state.collections["carry"]["step"] == self.warm_up
        fresh = optimiser.init(state.params)
        opt_state = reset_moments(state.opt_state, fresh, now)
        return super().update(differentiate, optimiser, dataclasses.replace(state, opt_state=opt_state), minibatch)


def reset_moments(opt_state, fresh, now: jax.Array):
    """The optimiser's state, or where `now` a fresh one that keeps its place in the learning rate's schedule."""
    placed = lambda x: isinstance(x, optax.ScaleByScheduleState)  # noqa: E731
    choose = lambda old, new: old if placed(old) else jnp.where(now, new, old)  # noqa: E731
    return jax.tree.map(choose, opt_state, fresh, is_leaf=placed)
