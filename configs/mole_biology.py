"""Biology: the second step of MolE's pretraining, many measured or computed properties at a time, most of them missing.

    python -m rxrx_jax.main --config=mole_biology.py --config.init.path=runs/mole
    python -m rxrx_jax.main --config=mole_biology.py:data=path/to/molecules --config.init.path=runs/mole

Cross-entropy of classes and squared error of numbers over the values that are known. The default predicts the computed
properties of the simulated library; data: molecules with targets that `python -m tfds_builders.prepare molecules` made
with the vocabulary of the encoder's library. full: the encoder of mole.py:full; minibatch, learning rate and length are
this file's own. Molecules that others score are left out, as in mole.py.
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
    config.task = dict(name="properties", dropout=0.1)
    config.model = molecule_encoder(arg.full)
    config.optim = dict(
        name="adamw",
        lr=1e-4 if arg.full else 5e-4,
        betas=(0.9, 0.98),
        weight_decay=0.01,
        clip_norm=1.0,
        ema_decay=0.0,
        warmup_percent=5.0,
    )
    config.total_epochs = 10.0
    config.evaluators = dict(properties=dict())
    return config
