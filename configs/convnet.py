"""Supervised classification of perturbations by a convolutional network.

    python -m rxrx_jax.main --config=convnet.py:normalisation=plate
    python -m rxrx_jax.main --config=convnet.py:method=adabn,layout=reshuffled
    python -m rxrx_jax.main --config=convnet.py:method=dann,normalisation=image,transductive=True
    python -m rxrx_jax.main --config=convnet.py:rxrx1,model=resnet50,normalisation=image

model: convnet, a small one of this project; resnet50, densenet161 or efficientnet_lite0. The recipe is this file's own;
those of WILDS and of RxRx1's paper are in wilds_erm.py and rxrx1_densenet.py.
method: erm, empirical risk minimisation, or a file of rxrx_jax/adapt/ by its name, or any file by its path
(docs/methods.md); what it needs of sampler, streams and optimiser is set with it, its own keys are `config.adapt`'s
(`--config.adapt.grl_weight=0` is the control of dann). transductive: unlabelled images of the held-out experiments
beside each minibatch. post_hoc: a second method by which the trained network is also read (adabn: BatchNorm statistics
re-estimated per experiment), whose metrics begin with its name, as adabn/cross_batch/site_accuracy.

Simulated screen: a minute or two on one CPU core; in_batch, in_batch_wells and cross_batch accuracies of three of these
commands' kind are in docs/demo/table.csv. `:rxrx1` has not been run at full size yet, with any model: no hours, no
number.
"""

from rxrx_jax.base.config import parse_arguments
from rxrx_jax.training.base_config import adaptation, at_paper_scale, base_config


def get_config(argument=None):
    arg = parse_arguments(
        argument,
        data="",
        paper=False,
        rxrx1=False,
        model="convnet",
        method="erm",
        normalisation="dataset",
        transductive=False,
        post_hoc="",
        layout="fixed",
        seed=0,
    )
    config, large = base_config(arg), at_paper_scale(arg)
    config.task = dict(name="classify", label_smoothing=0.1)
    config.model = dict(name=arg.model)
    if arg.model == "convnet":
        config.model.widths = (64, 128, 256, 512) if large else (32, 64, 128, 192)
    config.optim = dict(
        name="adamw", lr=2e-3, betas=(0.9, 0.999), weight_decay=0.05, clip_norm=1.0, ema_decay=0.0, warmup_percent=5.0
    )
    if not large:
        # Trained on windows, in half the time; scored on the whole image.
        config.augment.crop, config.augment.evaluation_view = 48, "whole"
    config.total_epochs = 90.0 if large else 40.0
    adaptation(config, arg.method, arg.transductive)
    if arg.post_hoc:
        config.post_hoc = {arg.post_hoc: dict(name=arg.post_hoc)}
    config.evaluators = dict(accuracy=dict(), leakage=dict(), embeddings=dict(), predictions=dict())
    return config
