"""The keys that every config starts from, so that a file in `configs/` holds only what makes its experiment."""

import ml_collections


def base_config(arg) -> ml_collections.ConfigDict:
    """A config for the simulated screen or, with `arg.rxrx1`, for RxRx1 at the scale of the papers.

    Args: arg, parsed colon arguments with at least rxrx1, seed, layout and normalisation.
    """
    config = ml_collections.ConfigDict()
    config.seed = arg.seed
    config.mesh = dict(fsdp=1, tensor=1)
    config.data = dict(
        name="rxrx1" if arg.rxrx1 else "rxrx_sim",
        # The simulated world: its seed, and which treatments share a plate (fixed or reshuffled).
        builder=dict() if arg.rxrx1 else dict(seed=arg.seed, layout=arg.layout),
        folder=ml_collections.config_dict.placeholder(str),  # of prepared datasets; None is TFDS's usual place
        minibatch=256 if arg.rxrx1 else 64,
        group="experiment",
        groups_per_minibatch=0,  # 0 = drawn from all
        unlabelled_minibatch=0,  # images of held-out experiments beside each minibatch, without labels
        select=dict(),
    )
    config.normalisation = arg.normalisation
    config.augment = dict(crop=256 if arg.rxrx1 else 64, flips=True, quarter_turns=True, jitter=0.1)
    config.init = dict(path="")  # workdir of the stage before
    config.evaluation_minibatch = 256
    config.log_steps = 50 if arg.rxrx1 else 20
    config.checkpoint_steps = 1000 if arg.rxrx1 else 100
    config.keep_checkpoints = 1
    config.tensorboard = False
    return config


def domain_adversary(config, arg) -> None:
    """Adds the gradient-reversal adversary on the experiment; with `arg.transductive` every minibatch also holds half
    as many unlabelled images of held-out experiments, for the adversary alone."""
    config.adapt = dict(name="dann", domain="experiment", weight=arg.weight, hidden=128)
    if arg.transductive:
        config.data.unlabelled_minibatch = config.data.minibatch // 2
