"""A linear classifier on a frozen encoder, and the probe table with its baselines.

    python -m rxrx_jax.main --config=linear_probe.py --config.init.path=runs/mae_vit
    python -m rxrx_jax.main --config=linear_probe.py:blocks=True --config.init.path=runs/mae_vit
    python -m rxrx_jax.main --config=linear_probe.py:encoder=channel_agnostic --config.init.path=WORKDIR_OF_ITS_MAE
    python -m rxrx_jax.main --config=linear_probe.py:rxrx1,variant=B/16 --config.init.path=WORKDIR_OF_THE_MAE

The head trained here sees augmented images (BatchNorm without scale and bias, then linear: He et al. 2022,
arXiv 2111.06377, appendix A); the `probe/...` metrics are logistic regressions on embeddings of plain images, the same
for the pretrained encoder, an untrained one and handcrafted image statistics, plain and with spatial ones, each without
and with a correction. `docs/protocols.md` says how they are fitted.

`blocks=True` also scores the output of every block, `probe/block_1/...` to the last, and `probe/best_block/...`, the
one that is best on validation experiments: the last block of a masked autoencoder is seldom the best probe (arXiv
2411.02572). `encoder` is that of the stage before: plain, microscopy (with `:rxrx1` the default, as in mae_vit.py) or
channel_agnostic.

Simulated screen: one minute on one CPU core; expected in_batch, in_batch_wells and cross_batch accuracies are in
docs/demo/table.csv. `:rxrx1` has not been run at full size yet: no hours, no number.
"""

from rxrx_jax.base.config import parse_arguments
from rxrx_jax.training.base_config import at_paper_scale, base_config, encoder


def get_config(argument=None):
    arg = parse_arguments(
        argument,
        data="",
        paper=False,
        rxrx1=False,
        variant="",
        encoder="",
        normalisation="",
        blocks=False,
        layout="fixed",
        seed=0,
    )
    config = base_config(arg)
    config.task = dict(name="probe", label_smoothing=0.0)
    config.model = encoder(arg)
    config.augment.intensity_jitter = 0.0
    config.optim = dict(name="sgd", lr=0.1, momentum=0.9, weight_decay=0.0, clip_norm=0.0, warmup_percent=10.0)
    config.total_epochs = 50.0 if at_paper_scale(arg) else 8.0
    config.evaluators = dict(
        accuracy=dict(), probe=dict(blocks=arg.blocks, corrections=("none", "centre_scale_experiment"))
    )
    return config
