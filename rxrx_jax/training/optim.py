"""Schedules, optimisers and which parameters they touch, decided by parameter path."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rxrx_jax.base.config import Config, duration
from rxrx_jax.base.errors import UserError
from rxrx_jax.base.sharding import named_leaves, path_name

# First match wins: does weight decay apply? A parameter that no rule matches is an error.
DECAYS = ((r"kernel$", True), (r"(bias|scale|tokens?|positions)$", False))
MOMENT_DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def decays(name: str) -> bool:
    for pattern, answer in DECAYS:
        if re.search(pattern, name):
            return answer
    raise UserError(f"no weight-decay rule matches parameter {name}; add one to DECAYS in optim.py")


def make_schedule(config: Config, total_steps: int, minibatch: int, examples: int) -> optax.Schedule:
    """The learning rate of every step, at most `lr`: `schedule` is cosine (default), constant or onecycle.

    cosine: linear warm-up from zero, then a half cosine to zero at the last step; constant: `lr` after that warm-up.
    onecycle: `one_cycle` below. The warm-up is warmup_steps, _epochs, _examples or _percent.
    """
    warmup = duration(config, "warmup", minibatch=minibatch, examples=examples, total_steps=total_steps) or 0
    if warmup >= total_steps:
        raise UserError(f"config.optim warm-up of {warmup} steps does not end before the run's {total_steps} steps")
    name = config.get("schedule", "cosine")
    if name == "cosine":
        return optax.warmup_cosine_decay_schedule(0.0 if warmup else config.lr, config.lr, warmup, total_steps)
    if name == "constant":
        return optax.warmup_constant_schedule(0.0 if warmup else config.lr, config.lr, warmup)
    if name == "onecycle":
        return one_cycle(config.lr, warmup, total_steps)
    raise UserError(f"optim.schedule={name!r}: expected cosine, constant or onecycle")


def one_cycle(peak: float, warmup: int, total_steps: int) -> optax.Schedule:
    """The 1cycle policy (Smith & Topin 2017, arXiv 1708.07120) as `torch.optim.lr_scheduler.OneCycleLR` computes it
    with cosine annealing, pct_start = warmup / total_steps, div_factor 25 and final_div_factor 1e4.

    A half cosine from peak/25 at step 0 to `peak` at step warmup-1, another one to peak/25e4 at step total_steps-1.
    Momentum stays as it is: PyTorch's `cycle_momentum`, which is on unless told otherwise, has no counterpart here.
    """
    rise = max(warmup, 1) - 1  # steps to the peak, which is step 0 when there is no warm-up
    up = optax.cosine_decay_schedule(peak / 25, max(rise, 1), alpha=25)
    down = optax.cosine_decay_schedule(peak, max(total_steps - 1 - rise, 1), alpha=1 / 25e4)
    return optax.join_schedules([up, down], [rise])


def make_optimiser(
    config: Config, schedule: optax.Schedule, params, frozen: str | None
) -> optax.GradientTransformation:
    """AdamW, Lion (Chen et al. 2023, arXiv 2302.06675), SGD with Nesterov momentum or adam_l2, all of optax.

    Weight decay is of kernels alone and decoupled from the gradient's moments, in SGD part of the gradient. adam_l2 is
    what `torch.optim.Adam(weight_decay=...)` does: part of the gradient, and of every parameter, biases and norms too.
    Gradients are first clipped to a global norm of `clip_norm`, if that is above 0; `moment_dtype` bfloat16 halves the
    memory of the first moment; `epsilon` is AdamW's, 1e-8 unless set; `layer_decay`: `decay_by_layer`; `lr_factors`:
    `scale_parts`.

    Args: params, the parameters or their shapes; frozen, a regular expression: parameters whose path it matches from
    its start get no update and no optimiser state. Raises UserError for an unknown value.
    """
    kernels = lambda tree: _by_name(decays, tree)  # noqa: E731
    if config.name in ("adamw", "lion"):
        make = {"adamw": optax.adamw, "lion": optax.lion}[config.name]
        b1, b2 = config.betas
        settings = dict(mu_dtype=moment_dtype(config), weight_decay=config.weight_decay, mask=kernels)
        settings |= {"eps": config.epsilon} if config.name == "adamw" and "epsilon" in config else {}
        inner = make(schedule, b1, b2, **settings)
    elif config.name == "adam_l2":
        b1, b2 = config.betas
        inner = optax.chain(
            optax.add_decayed_weights(config.weight_decay), optax.adam(schedule, b1, b2, mu_dtype=moment_dtype(config))
        )
    elif config.name == "sgd":
        inner = optax.chain(
            optax.add_decayed_weights(config.weight_decay, mask=kernels),
            optax.sgd(schedule, momentum=config.momentum, nesterov=True),
        )
    else:
        raise UserError(f"optim.name={config.name!r}: expected adamw, adam_l2, lion or sgd")
    if config.clip_norm > 0:
        inner = optax.chain(optax.clip_by_global_norm(config.clip_norm), inner)
    if (layer_decay := config.get("layer_decay", 1.0)) != 1:
        inner = optax.chain(inner, decay_by_layer(layer_decay, params))
    if "lr_factors" in config:
        inner = optax.chain(inner, scale_parts(config.lr_factors.as_kwargs(), params))
    labels = _by_name(lambda name: "frozen" if frozen and re.match(frozen, name) else "trained", params)
    _by_name(decays, params)  # every parameter must be matched by a rule, frozen or not
    return optax.partition({"trained": inner, "frozen": optax.set_to_zero()}, labels)


def moment_dtype(config: Config):
    """The dtype in which AdamW, Adam and Lion keep their first moment."""
    name = config.get("moment_dtype", "float32")
    if name not in MOMENT_DTYPES:
        raise UserError(f"optim.moment_dtype={name!r}: expected {' or '.join(MOMENT_DTYPES)}")
    return MOMENT_DTYPES[name]


def decay_by_layer(decay: float, params) -> optax.GradientTransformation:
    """Layer-wise learning rates of a transformer's fine-tuning (Bao et al. 2021, arXiv 2106.08254, BEiT): the whole
    update, weight decay included, times decay^(depth + 1 - layer).

    Layer 0 is what makes tokens of patches, block i is layer i + 1, and everything after the blocks has factor 1.
    Args: params, the parameters or their shapes, with the blocks stacked along a first axis. Raises UserError when
    `decay` is not in (0, 1] or nothing is stacked.
    """
    if not 0 < decay <= 1:
        raise UserError(f"optim.layer_decay={decay}: expected a number above 0 and at most 1 (1 = none)")
    named = ((name, leaf.shape) for name, leaf in named_leaves(params).items())
    depth = next((shape[0] for name, shape in named if name.startswith("encoder/blocks/block/")), None)
    if depth is None:
        raise UserError(f"optim.layer_decay={decay} needs a model of transformer blocks (model.name=vit); remove it")

    def factor(name):
        if re.match(r"encoder/(embed/|class_token$|positions$)", name):
            return np.array(decay ** (depth + 1))
        if name.startswith("encoder/blocks/block/"):
            return decay ** np.arange(depth, 0, -1)  # one for each block
        return np.array(1.0)

    def scale(path, update):
        each = jnp.asarray(factor(path_name(path)), update.dtype)
        return update * each.reshape(each.shape + (1,) * (update.ndim - each.ndim))

    return optax.stateless(lambda updates, _: jax.tree_util.tree_map_with_path(scale, updates))


def scale_parts(factors: dict[str, float], params) -> optax.GradientTransformation:
    """Learning rates of their own for parts of the parameters, {first name of their paths: factor}: the whole update,
    weight decay included, times the factor. Raises UserError for a part that there is not."""
    for part, factor in factors.items():
        if part not in params or not factor > 0:
            raise UserError(f"optim.lr_factors.{part}={factor}: expected a number above 0, of {', '.join(params)}")
    scale = lambda path, update: update * factors.get(path_name(path).partition("/")[0], 1.0)  # noqa: E731
    return optax.stateless(lambda updates, _: jax.tree_util.tree_map_with_path(scale, updates))


def ema_decay(config: Config) -> float:
    """The share of the parameters' moving average that one step keeps, 0 = no average. UserError outside [0, 1)."""
    decay = config.get("ema_decay", 0.0)
    if not 0 <= decay < 1:
        raise UserError(f"optim.ema_decay={decay}: expected a number from 0 (none) to below 1")
    return decay


def ema_update(ema, params, decay: float):
    """decay * ema + (1 - decay) * params, leaf by leaf."""
    return optax.incremental_update(params, ema, 1 - decay)


def _by_name(function, params):
    """A tree like `params` with function(path) in place of every array."""
    return jax.tree_util.tree_map_with_path(lambda path, _: function(path_name(path)), params)
