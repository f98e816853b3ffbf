"""Supervised classification of perturbations by a small convolutional network.

    python -m rxrx_jax.main --config=convnet.py:normalisation=plate
    python -m rxrx_jax.main --config=convnet.py:method=adabn,layout=reshuffled
    python -m rxrx_jax.main --config=convnet.py:method=dann,normalisation=image,transductive=True

method: erm, empirical risk minimisation (with dataset normalisation its accuracy is also read with BatchNorm statistics
re-estimated per experiment, the post-hoc AdaBN row); adabn, batch-pure AdaBN; dann, gradient reversal on the
experiment, inductive or with unlabelled images of the held-out experiments (`transductive=True`); `weight=0` is its
control.

Simulated screen: half a minute on one CPU core; expected accuracies are in docs/demo/table.csv. `:rxrx1` has not been
run at full size yet: no hours, no number.
"""

from rxrx_jax.base_config import base_config, domain_adversary
from rxrx_jax.config import parse_arguments


def get_config(argument=None):
    arg = parse_arguments(
        argument,
        rxrx1=False,
        method="erm",
        normalisation="dataset",
        transductive=False,
        weight=1.0,
        layout="fixed",
        seed=0,
    )
    config = base_config(arg)
    config.task = dict(name="classify", label_smoothing=0.1)
    config.model = dict(name="convnet", widths=(64, 128, 256, 512) if arg.rxrx1 else (48, 96, 192))
    if arg.method == "dann":
        domain_adversary(config, arg)
    else:
        config.adapt = dict(name={"erm": "none"}.get(arg.method, arg.method))
    if arg.method == "adabn":
        config.data.groups_per_minibatch = 1
    config.optim = dict(name="adamw", lr=2e-3, betas=(0.9, 0.999), weight_decay=0.05, clip_norm=1.0, warmup_percent=5.0)
    config.total_epochs = 90.0 if arg.rxrx1 else 12.0
    # BatchNorm statistics to read the network with; the first ones are those of the other evaluators.
    read_with = ("experiment",) if arg.method == "adabn" else ("running",)
    post_hoc = ("experiment",) if (arg.method, arg.normalisation) == ("erm", "dataset") else ()
    config.evaluators = dict(
        accuracy=dict(statistics=read_with + post_hoc),
        leakage=dict(statistics=read_with[0]),
        embeddings=dict(statistics=read_with[0]),
    )
    return config
