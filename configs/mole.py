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

from rxrx_jax.base.config import parse_arguments
from rxrx_jax.training.base_config import molecule_adamw, molecule_config


def get_config(argument=None):
    arg = parse_arguments(argument, full=False, data="", seed=0)
    config = molecule_config(arg, arg.data, minibatch=1024 if arg.full else 64, large=arg.full)
    config.data.leave_out = ("*",)
    config.task = dict(name="environments", mask_share=0.15)
    config.optim = molecule_adamw(2e-4 if arg.full else 2e-3)
    config.total_epochs = 10.0
    config.evaluators = dict(environments=dict())
    return config
