"""Schedules, optimisers and which parameters they touch, decided by parameter path."""

import re

import jax
import optax

from rxrx_jax.config import Config, duration
from rxrx_jax.errors import UserError
from rxrx_jax.sharding import path_name

# First match wins: does weight decay apply? A parameter that nothing matches is an error.
DECAYS = ((r"kernel$", True), (r"(bias|scale|mask_token)$", False))


def decays(name: str) -> bool:
    for pattern, answer in DECAYS:
        if re.search(pattern, name):
            return answer
    raise UserError(f"no weight-decay rule matches parameter {name}; add one to DECAYS in optim.py")


def make_schedule(config: Config, total_steps: int, minibatch: int, examples: int) -> optax.Schedule:
    """Linear warm-up to `lr`, then a half cosine to zero at the last step."""
    warmup = duration(config, "warmup", minibatch=minibatch, examples=examples, total_steps=total_steps) or 0
    if warmup >= total_steps:
        raise UserError(f"config.optim warm-up of {warmup} steps does not end before the run's {total_steps} steps")
    return optax.warmup_cosine_decay_schedule(0.0 if warmup else config.lr, config.lr, warmup, total_steps)


def make_optimiser(
    config: Config, schedule: optax.Schedule, params, frozen: str | None
) -> optax.GradientTransformation:
    """AdamW or SGD with momentum (optax), gradients clipped to a global norm of `clip_norm`, if that is above 0.

    Args: params, the parameters or their shapes; frozen, a regular expression: parameters whose path it matches from
    its start get no update and no optimiser state.
    """
    if config.name == "adamw":
        b1, b2 = config.betas
        inner = optax.adamw(schedule, b1, b2, weight_decay=config.weight_decay, mask=lambda p: _by_name(decays, p))
    elif config.name == "sgd":
        inner = optax.chain(
            optax.add_decayed_weights(config.weight_decay, mask=lambda p: _by_name(decays, p)),
            optax.sgd(schedule, momentum=config.momentum, nesterov=True),
        )
    else:
        raise UserError(f"optim.name={config.name!r}: expected adamw or sgd")
    if config.clip_norm > 0:
        inner = optax.chain(optax.clip_by_global_norm(config.clip_norm), inner)
    labels = _by_name(lambda name: "frozen" if frozen and re.match(frozen, name) else "trained", params)
    _by_name(decays, params)  # every parameter must be matched by a rule, frozen or not
    return optax.partition({"trained": inner, "frozen": optax.set_to_zero()}, labels)


def _by_name(function, params):
    """A tree like `params` with function(path) in place of every array."""
    return jax.tree_util.tree_map_with_path(lambda path, _: function(path_name(path)), params)
