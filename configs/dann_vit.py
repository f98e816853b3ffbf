"""Batch-adversarial fine-tuning of a ViT (Ganin et al. 2016, arXiv 1505.07818), from a masked autoencoder's encoder.

    python -m rxrx_jax.main --config=dann_vit.py --config.init.path=runs/mae_vit
    python -m rxrx_jax.main --config=dann_vit.py:transductive=True --config.init.path=runs/mae_vit
    python -m rxrx_jax.main --config=dann_vit.py:method=context_token --config.init.path=runs/mae_vit
    python -m rxrx_jax.main --config=dann_vit.py:encoder=channel_agnostic --config.init.path=runs/channel_agnostic_mae
    python -m rxrx_jax.main --config=dann_vit.py:rxrx1,variant=B/16 --config.init.path=gs://bucket/mae

Without `init.path` it starts from fresh parameters; from a stage that kept an average of its parameters it takes the
average (`--config.init.parameters=params`: the last ones). `encoder` is that of the stage before: plain, microscopy
(with `:rxrx1` the default, as in mae_vit.py) or channel_agnostic. `method` is another method of docs/methods.md in
place of the adversary, one that does not need BatchNorm. `transductive=True` shows the adversary unlabelled images of
the held-out experiments (`data.unlabelled_roles`); `--config.adapt.grl_weight=0` is the control without reversal.

`:rxrx1` fine-tunes as the released code of MAE (He et al. 2022, arXiv 2111.06377, FINETUNE.md): AdamW, weight decay
0.05, label smoothing 0.1, 5 epochs of warm-up, and for S and B learning rate 5e-4 at a minibatch of 256, layer decay
0.65, 100 epochs, from L on 1e-3, 0.75, 50 epochs. Not from there: the adversary, minibatch 256 (1,024 there, with the
rate in proportion), clipping, stochastic depth (that of the pretraining), jitter, and none of its mixing and erasing of
images.

Simulated screen: two minutes on one CPU core. The demo has no row of it; version 0.1.0, which trained on all wells of
the training experiments, gave cross_batch/site_accuracy 0.49 +- 0.08 over three worlds, transductive and after
mae_vit.py. `:rxrx1` has not been run at full size yet: no hours, no number.
"""

from rxrx_jax.base.config import parse_arguments
from rxrx_jax.training.base_config import adaptation, at_paper_scale, base_config, encoder, is_large


def get_config(argument=None):
    arg = parse_arguments(
        argument,
        data="",
        paper=False,
        rxrx1=False,
        method="dann",
        variant="",
        encoder="",
        normalisation="",
        transductive=False,
        layout="fixed",
        seed=0,
    )
    config = base_config(arg)
    config.task = dict(name="classify", label_smoothing=0.1)
    config.model = encoder(arg)
    config.optim = dict(name="adamw", lr=3e-3, betas=(0.9, 0.999), weight_decay=0.05, clip_norm=1.0, ema_decay=0.0)
    adaptation(config, arg.method, arg.transductive)
    config.evaluators = dict(accuracy=dict(), leakage=dict(), embeddings=dict())
    if not at_paper_scale(arg):
        config.optim.warmup_percent = 10.0
        config.total_epochs = 5.0
        return config
    large = is_large(config.model.variant)
    config.optim.warmup_epochs = 5.0
    config.optim.lr = 1e-3 if large else 5e-4
    config.optim.layer_decay = 0.75 if large else 0.65
    config.total_epochs = 50.0 if large else 100.0
    return config
