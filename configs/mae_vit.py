"""Masked-autoencoder pretraining of a ViT (He et al. 2022, arXiv 2111.06377).

    python -m rxrx_jax.main --config=mae_vit.py
    python -m rxrx_jax.main --config=mae_vit.py:data=rxrx1
    python -m rxrx_jax.main --config=mae_vit.py:rxrx1,variant=S/16
    python -m rxrx_jax.main --config=mae_vit.py:rxrx1,variant=B/8
    python -m rxrx_jax.main --config=mae_vit.py:rxrx3,variant=L/8 --config.mesh.fsdp=8

Simulated screen: a plain ViT, about two minutes on two CPU cores. Mask, target and epochs were chosen by a linear probe
on the validation experiment of world 10: .123, where plain pixels gave .093, and in 10 epochs with half of them masked
.087, and the untrained ViT .098; reconstruction/in_batch/loss was 0.77. The probe in other worlds is a row of
docs/demo/table.csv.

`:rxrx1` and `:rxrx3` are the microscopy MAE of Kraus et al. 2024 (arXiv 2404.10242). From its released code and reports
of the papers, which were not read themselves, come
    parallel blocks, qkv without bias, normalised queries and keys, layer scale 1e-4, class token, stochastic depth 0.1
        (S, B) or 0.3 (L), decoder of 8 pre-norm blocks, width 512, 16 heads    released code
    images standardised by themselves, crops of 256, 75 % masked                released code
    0.99 x squared error + 0.01 x Fourier loss                                  released code and 2411.02572
    Lion, betas 0.9 and 0.95, weight decay 0.05, one cycle with 10 % warm-up, learning rate 1e-4, 3e-5 from L on
                                                                                released code and 2411.02572
    minibatch 16,384 for L/8, 8,192 for G/8 with stochastic depth 0.6           arXiv 2411.02572, on private images,
                                                                                500 epochs; here with `:rxrx3` alone
The rest is our choice: minibatch 2,048 otherwise (CA-MAE-S/16's), 100 epochs of RxRx3 (its again), 1,000 of RxRx1
(40,612 sites, so 20,000 steps), flips and quarter turns, the embedding as the mean of the patch tokens, bfloat16, the
sizes H and g. RxRx3 has no published held-out split: without a `splits.csv` every site trains. A mesh, or
`--config.accumulate`, makes the minibatch fit. `encoder=plain` is the plain ViT.

`:rxrx1` and `:rxrx3` have not been run at full size yet: no hours, no number.
"""

from rxrx_jax.base.config import parse_arguments
from rxrx_jax.training.base_config import at_paper_scale, base_config, dataset, decoder, encoder, microscopy_lion

MINIBATCH = {"L": 16_384, "G": 8_192}  # as published, on data of the size of RxRx3


def get_config(argument=None):
    arg = parse_arguments(
        argument,
        data="",
        paper=False,
        rxrx1=False,
        rxrx3=False,
        variant="",
        encoder="",
        normalisation="",
        layout="fixed",
        seed=0,
    )
    config, name = base_config(arg), dataset(arg)
    config.model = encoder(arg)
    config.augment.intensity_jitter = 0.0
    config.evaluators = dict(reconstruction=dict(images=6), leakage=dict(), embeddings=dict())
    if name == "rxrx3":
        del config.evaluators.leakage  # a regression on two million sites
    size = config.model.variant.partition("/")[0]
    parts = decoder(config.model.variant, (512, 8, 16), (64, 2, 4))  # width, depth, heads
    if not at_paper_scale(arg):
        config.data.minibatch = 32  # few images: more, smaller steps
        config.task = dict(name="mae", mask_ratio=0.75, normalise_target=True, decoder=parts)
        lr = 4e-3
        config.optim = dict(
            name="adamw", lr=lr, betas=(0.9, 0.95), weight_decay=0.05, clip_norm=1.0, ema_decay=0.0, warmup_percent=5.0
        )
        config.total_epochs = 30.0
        return config
    config.data.minibatch = MINIBATCH.get(size, 2048) if name == "rxrx3" else 2048
    config.task = dict(name="mae", mask_ratio=0.75, normalise_target=False, fourier_weight=0.01, decoder=parts)
    config.optim = microscopy_lion(config.model.variant)
    config.total_epochs = 100.0 if name == "rxrx3" else 1000.0
    return config
