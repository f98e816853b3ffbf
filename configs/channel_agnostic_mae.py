"""Pretraining of a channel-agnostic masked autoencoder, CA-MAE (Kraus et al. 2024, arXiv 2404.10242): every channel has
tokens of its own, so that its encoder reads any 1 to 11 channels.

    python -m rxrx_jax.main --config=channel_agnostic_mae.py
    python -m rxrx_jax.main --config=channel_agnostic_mae.py:rxrx3
    python -m rxrx_jax.main --config=channel_agnostic_mae.py:rxrx3,openphenom=True
    python -m rxrx_jax.main --config=channel_agnostic_mae.py:data=rxrx3_core,paper=True,openphenom=True
    python -m rxrx_jax.main --config=channel_agnostic_mae.py:rxrx1,variant=S/16

`:rxrx3` is CA-MAE-S/16 as reports of arXiv 2411.02572 have it: minibatch 2,048, 100 epochs, stochastic depth 0.1, Lion
with learning rate 1e-4 (400 hours of an A100 there). From the released code come the encoder, that of mae_vit.py with
the final norm left out, 75 % of the tokens of all channels masked at once, and the decoder: cross attention and 2
blocks for each channel, width 256, 16 heads; `openphenom=True` takes OpenPhenom's, 8 blocks of width 512. Its decoder's
norms have epsilon 1e-5 and ours 1e-6. The Fourier loss has weight 0.01, as in the papers. `:rxrx1` runs for 1,000
epochs; this, flips and quarter turns and bfloat16 are our choice, and learning rates from L on are those of mae_vit.py.
`:rxrx1` and `:rxrx3` have not been run at full size yet: no hours, no number.

Simulated screen: 320 processor seconds, three to four minutes on two CPU cores; with version 0.2.0 and seed 0
reconstruction/in_batch/loss was 0.88, of which 0.03 is the Fourier loss.
"""

from rxrx_jax.base.config import parse_arguments
from rxrx_jax.training.base_config import at_paper_scale, base_config, dataset, decoder, encoder, microscopy_lion

LARGE = ("rxrx3", "rxrx3_core")


def get_config(argument=None):
    arg = parse_arguments(
        argument,
        data="",
        paper=False,
        rxrx1=False,
        rxrx3=False,
        variant="",
        openphenom=False,
        normalisation="",
        layout="fixed",
        seed=0,
    )
    arg.encoder = "channel_agnostic"
    config, name = base_config(arg), dataset(arg)
    config.model = encoder(arg)
    config.augment.intensity_jitter = 0.0
    parts = (512, 8, 16) if arg.openphenom else decoder(config.model.variant, (256, 2, 16), (32, 1, 4))
    config.task = dict(name="mae", mask_ratio=0.75, normalise_target=False, fourier_weight=0.01, decoder=parts)
    config.evaluators = dict(reconstruction=dict(images=6), leakage=dict(), embeddings=dict())
    if name in LARGE:
        del config.evaluators.leakage  # a regression on two million sites, or on 222,601
    if not at_paper_scale(arg):
        config.data.minibatch = 32
        lr = 4e-3
        config.optim = dict(
            name="adamw", lr=lr, betas=(0.9, 0.95), weight_decay=0.05, clip_norm=1.0, ema_decay=0.0, warmup_percent=5.0
        )
        config.total_epochs = 4.0
        return config
    config.data.minibatch = 2048
    config.optim = microscopy_lion(config.model.variant)
    config.total_epochs = 100.0 if name in LARGE else 1000.0
    return config
