"""Masked environments: pretraining of MolE's encoder on structures alone, the first of its two steps.

    python -m rxrx_jax.main --config=mole.py
    python -m rxrx_jax.main --config=mole.py:full,data=path/to/molecules

Of every molecule 15 % of the atoms are chosen, and what lies within two bonds of each is predicted from the rest.
Beside masked_accuracy stands most_frequent_label_accuracy, what the atom's token alone allows.

The default is a simulated library that RDKit joins from fragments, and an encoder of width 96, for two CPU cores.
full: 12 layers of width 768, 12 heads, as released; minibatch, learning rate and length are this file's own, as the
released code has no pretraining. It has not been run at full size yet: no hours, no number. data: molecules that
`python -m tfds_builders.prepare molecules` made, in place of the simulated library. Molecules that others score, which
were prepared with the vocabulary of these, are left out of training and counted (data.leave_out=() trains on them).
"""

import ml_collections

from rxrx_jax.base.config import parse_arguments
from rxrx_jax.training.base_config import molecule_encoder, molecules, run_keys


def get_config(argument=None):
    arg = parse_arguments(argument, full=False, data="", seed=0)
    config = ml_collections.ConfigDict()
    config.seed = arg.seed
    config.mesh = dict(fsdp=1, tensor=1)
    config.data = molecules(arg.data, arg.seed, minibatch=1024 if arg.full else 64)
    config.data.leave_out = ("*",)
    run_keys(config, arg.full)
    config.task = dict(name="environments", mask_share=0.15)
    config.model = molecule_encoder(arg.full)
    config.optim = dict(
        name="adamw",
        lr=2e-4 if arg.full else 2e-3,
        betas=(0.9, 0.98),
        weight_decay=0.01,
        clip_norm=1.0,
        ema_decay=0.0,
        warmup_percent=5.0,
    )
    config.total_epochs = 10.0
    config.evaluators = dict(environments=dict())
    return config
