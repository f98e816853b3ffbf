"""Properties of molecules from a pretrained encoder: MolE's fine-tuning.

    python -m rxrx_jax.main --config=mole_finetune.py --config.init.path=runs/mole
    python -m rxrx_jax.main --config=mole_finetune.py:esol --config.init.path=runs/mole
    python -m rxrx_jax.main --config=mole_finetune.py:data=path/to/molecules --config.init.path=runs/mole

Adam with epsilon 1e-6 and without decay, minibatches of 32, gradients clipped to 1, a linear warm-up and then a
constant learning rate; the encoder and head of the best validation loss are kept. That is the released recipe; learning
rate and dropout are there chosen per task, here this file's own, and so is the length, 100 epochs there with an
evaluation every 5. Without init.path the encoder starts untrained.

The default predicts three computed properties of the simulated library. esol: measured log solubility, of what
`python -m tfds_builders.prepare molecules` made of esol.csv with the vocabulary of the encoder's library. data: any
such molecules, by the name or the path of their folder. full: the encoder of mole.py:full, 100 epochs.
"""

from rxrx_jax.base.config import parse_arguments
from rxrx_jax.training.base_config import molecule_config


def get_config(argument=None):
    arg = parse_arguments(argument, full=False, esol=False, data="", lr=5e-4, dropout=0.1, seed=0)
    config = molecule_config(arg, arg.data or "esol" * arg.esol, minibatch=32)
    config.selection = "best_val"
    config.task = dict(name="properties", dropout=arg.dropout)
    config.optim = dict(
        name="adamw",
        lr=arg.lr,
        betas=(0.9, 0.999),
        epsilon=1e-6,
        weight_decay=0.0,
        clip_norm=1.0,
        ema_decay=0.0,
        schedule="constant",
        warmup_percent=5.0,
    )
    config.total_epochs = 100.0 if arg.full or arg.esol else 20.0
    config.evaluate_epochs = 5.0
    config.evaluators = dict(properties=dict())
    return config
