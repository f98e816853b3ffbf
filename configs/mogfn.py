"""Multi-objective generative flow networks (Jain et al. 2023, arXiv 2210.12765): one policy for all preferences.

python -m rxrx_jax.main --config=mogfn.py
"""

import ml_collections

from rxrx_jax.base.config import parse_arguments
from rxrx_jax.training.base_config import run_keys


def get_config(argument=None):
    arg = parse_arguments(argument, side=8, exponent=8.0, loss="tb", seed=0)
    config = ml_collections.ConfigDict()
    config.seed = arg.seed
    config.mesh = dict(fsdp=1, tensor=1)
    config.data = dict(source="nothing", minibatch=128)
    run_keys(config, False)
    config.guard.max_loss_ratio = 0.0  # a new region of low reward may cost any number
    config.task = dict(
        name="flow",
        environment="grid",
        side=arg.side,
        dimensions=2,
        objectives=("branin", "currin"),
        scalarisation="weighted_sum",
        loss=arg.loss,
        subtb_decay=0.9,
        backward="uniform",
        alpha=1.0,
        preference=(),
        exponent="constant",
        exponents=(arg.exponent, arg.exponent),
        encoding="thermometer",
        preference_bins=16,
        exponent_bins=32,
        condition="trajectory",
        random=0.01,
        log_reward_floor=-60.0,
    )
    config.model = dict(name="policy", width=128, depth=2, log_z_width=64, stop_bias=0.0)
    config.optim = dict(
        name="adamw",
        lr=2e-3,
        lr_factors=dict(log_z=10.0),
        betas=(0.9, 0.999),
        weight_decay=0.0,
        clip_norm=10.0,
        ema_decay=0.0,
        warmup_percent=1.0,
    )
    config.total_steps = 2000
    config.evaluators = dict(pareto=dict())
    return config
