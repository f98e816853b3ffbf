"""Biology: the second step of MolE's pretraining, many measured or computed properties at a time, most of them missing.

    python -m rxrx_jax.main --config=mole_biology.py --config.init.path=runs/mole
    python -m rxrx_jax.main --config=mole_biology.py:data=path/to/molecules --config.init.path=runs/mole

Cross-entropy of classes and squared error of numbers over the values that are known. The default predicts the computed
properties of the simulated library; data: molecules with targets that `python -m tfds_builders.prepare molecules` made
with the vocabulary of the encoder's library. full: the encoder of mole.py:full; minibatch, learning rate and length are
this file's own. Molecules that others score are left out, as in mole.py.
"""

from rxrx_jax.base.config import parse_arguments
from rxrx_jax.training.base_config import molecule_adamw, molecule_config


def get_config(argument=None):
    arg = parse_arguments(argument, full=False, data="", seed=0)
    config = molecule_config(arg, arg.data, minibatch=1024 if arg.full else 64, large=arg.full)
    config.data.leave_out = ("*",)
    config.task = dict(name="properties", dropout=0.1)
    config.optim = molecule_adamw(1e-4 if arg.full else 5e-4)
    config.total_epochs = 10.0
    config.evaluators = dict(properties=dict())
    return config
