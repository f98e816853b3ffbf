"""DenseNet-161 on whole images of RxRx1, six channels of 512x512, after Sypetkowski et al. 2023 (arXiv 2301.05768).

    python -m rxrx_jax.main --config=rxrx1_densenet.py
    python -m rxrx_jax.main --config=rxrx1_densenet.py:rxrx1 --config.accumulate=32
    python -m rxrx_jax.main --config=rxrx1_densenet.py:rxrx1,method=adabn --config.accumulate=16
    python -m rxrx_jax.main --config=rxrx1_densenet.py:rxrx1 --config.init.path=hf://timm/densenet161.tv_in1k

Trained on both sites of 33 experiments and scored on the 18 others (protocol separated), the last epoch.
method=adabn reads BatchNorm statistics of one experiment at a time, in training and at test. accumulate: parts of the
minibatch, one after the other, so that it fits one GPU (BatchNorm then has the statistics of a part). init.path:
ImageNet's weights, whose stem is repeated for six channels (docs/weights.md). post_hoc: a second method by which the
trained network is also read (adabn). `python -m rxrx_jax.reproduce cvprw2023` has a table of them.

Of the paper, which could not be read itself, secondary sources give the network, 512x512 pixels of six channels,
minibatch 512, 100 epochs, and images standardised by themselves. Neither of them gives optimiser, learning rate, loss
or augmentation: Adam, weight decay 1e-5 and half a cosine from 1.5e-4 at a minibatch of 48 are those of its first
author's winning code of 2019 (maciej-sypetkowski/kaggle-rcic-1st); the rate in proportion to the minibatch, five epochs
of warm-up, bfloat16, flips and quarter turns without its CutMix, ArcFace and pseudo-labels are our choice. So no
published number is beside this recipe.

Estimate: 2.0e18 FLOP; after 200 steps the run prints its device hours. It has not been run at full size yet: no hours,
no number. Without rxrx1 or paper it is a trial on the simulated screen of three epochs.
"""

from rxrx_jax.base.config import parse_arguments
from rxrx_jax.training.base_config import adaptation, at_paper_scale, base_config, dataset


def get_config(argument=None):
    arg = parse_arguments(
        argument,
        data="",
        paper=False,
        rxrx1=False,
        method="erm",
        post_hoc="",
        normalisation="image",
        layout="fixed",
        seed=0,
    )
    config, large = base_config(arg), at_paper_scale(arg)
    config.data.minibatch = 512 if large else 24
    config.augment.crop = 512 if large else 64
    config.augment.window = "centre"
    config.augment.intensity_jitter = 0.0
    config.task = dict(name="classify", label_smoothing=0.0)
    config.model = dict(name="densenet161", dtype="bfloat16" if large else "float32")
    config.optim = dict(
        name="adam_l2", lr=1.6e-3, betas=(0.9, 0.999), weight_decay=1e-5, clip_norm=0.0, ema_decay=0.0
    ) | (dict(warmup_epochs=5.0) if large else dict(warmup_percent=10.0))
    config.total_epochs = 100.0 if large else 3.0
    if large and dataset(arg) == "rxrx1":
        config.protocol.name = "separated"
    adaptation(config, arg.method)
    if arg.post_hoc:
        config.post_hoc = {arg.post_hoc: dict(name=arg.post_hoc)}
    config.evaluators = dict(accuracy=dict(), leakage=dict(), embeddings=dict(), predictions=dict())
    return config
