"""Masked-autoencoder pretraining of a ViT (He et al. 2022, arXiv 2111.06377).

python -m rxrx_jax.main --config=mae_vit.py
python -m rxrx_jax.main --config=mae_vit.py:rxrx1,variant=B/16

Simulated screen: about two minutes on two CPU cores; reconstruction/in_batch/loss was 0.67 to 0.74 in three worlds and
two layouts. `:rxrx1` has not been run at full size yet: no hours, no number.
"""

from rxrx_jax.base_config import base_config
from rxrx_jax.config import parse_arguments


def get_config(argument=None):
    arg = parse_arguments(argument, rxrx1=False, variant="", normalisation="plate", layout="fixed", seed=0)
    config = base_config(arg)
    decoder = (512, 8, 16) if arg.rxrx1 else (64, 2, 4)  # width, depth, heads
    config.task = dict(name="mae", mask_ratio=0.75 if arg.rxrx1 else 0.5, normalise_target=False, decoder=decoder)
    config.model = dict(name="vit", variant=arg.variant or ("S/16" if arg.rxrx1 else "XXS/8"))
    config.augment.jitter = 0.0
    if not arg.rxrx1:
        config.data.minibatch = 32  # few images: more, smaller steps
    lr = 1.5e-4 if arg.rxrx1 else 4e-3
    config.optim = dict(name="adamw", lr=lr, betas=(0.9, 0.95), weight_decay=0.05, clip_norm=1.0, warmup_percent=5.0)
    config.total_epochs = 100.0 if arg.rxrx1 else 10.0
    config.evaluators = dict(reconstruction=dict(images=6), leakage=dict(), embeddings=dict())
    return config
