"""Supervised classification by a small convolutional network: ERM, and with `adabn=True` batch-pure AdaBN.

    python -m rxrx_jax.main --config=erm_convnet.py:normalisation=plate
    python -m rxrx_jax.main --config=erm_convnet.py:adabn=True,layout=reshuffled
"""

from rxrx_jax.base_config import base_config
from rxrx_jax.config import parse_arguments


def get_config(argument=None):
    arg = parse_arguments(argument, rxrx1=False, normalisation="dataset", adabn=False, layout="fixed", seed=0)
    config = base_config(arg)
    config.task = dict(name="classify", label_smoothing=0.1)
    config.adapt = dict(name="adabn" if arg.adabn else "none")
    config.model = dict(name="convnet", widths=(64, 128, 256, 512) if arg.rxrx1 else (48, 96, 192))
    if arg.adabn:
        config.data.groups_per_minibatch = 1
    config.optim = dict(name="adamw", lr=2e-3, betas=(0.9, 0.999), weight_decay=0.05, clip_norm=1.0, warmup_percent=5.0)
    config.total_epochs = 90 if arg.rxrx1 else 20
    config.evaluators = dict(accuracy=dict(statistics=("running", "experiment")), leakage=dict(), embeddings=dict())
    return config
