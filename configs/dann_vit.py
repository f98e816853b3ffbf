"""Batch-adversarial fine-tuning of a ViT (Ganin et al. 2016, arXiv 1505.07818), from a masked autoencoder's encoder.

    python -m rxrx_jax.main --config=dann_vit.py --config.init.path=runs/mae_vit
    python -m rxrx_jax.main --config=dann_vit.py:transductive=True --config.init.path=runs/mae_vit
    python -m rxrx_jax.main --config=dann_vit.py:rxrx1,variant=B/16 --config.init.path=gs://bucket/mae

Without `init.path` it starts from fresh parameters. `transductive=True` shows the adversary unlabelled images of the
held-out experiments; `weight=0` is the control without reversal.

Simulated screen: two minutes on one CPU core; expected accuracies are in docs/demo/table.csv. `:rxrx1` has not been
run at full size yet: no hours, no number.
"""

from rxrx_jax.base_config import base_config, domain_adversary
from rxrx_jax.config import parse_arguments


def get_config(argument=None):
    arg = parse_arguments(
        argument, rxrx1=False, variant="", normalisation="plate", transductive=False, weight=1.0, layout="fixed", seed=0
    )
    config = base_config(arg)
    config.task = dict(name="classify", label_smoothing=0.1)
    config.model = dict(name="vit", variant=arg.variant or ("S/16" if arg.rxrx1 else "XXS/8"))
    domain_adversary(config, arg)
    lr = 5e-4 if arg.rxrx1 else 3e-3
    config.optim = dict(name="adamw", lr=lr, betas=(0.9, 0.999), weight_decay=0.05, clip_norm=1.0, warmup_percent=10.0)
    config.total_epochs = 50.0 if arg.rxrx1 else 5.0
    config.evaluators = dict(accuracy=dict(), leakage=dict(), embeddings=dict())
    return config
