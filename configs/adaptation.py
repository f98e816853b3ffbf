"""The one recipe of the comparison of adaptation methods, of which every row of the table adaptation is.

    python -m rxrx_jax.reproduce adaptation --out=runs/adaptation --archive=docs/adaptation/runs.jsonl
    python -m rxrx_jax.main --config=adaptation.py
    python -m rxrx_jax.main --config=adaptation.py:method=coral,normalisation=image
    python -m rxrx_jax.main --config=adaptation.py:method=dann,normalisation=image,transductive=True,weight=0
    python -m rxrx_jax.main --config=adaptation.py:method=adabn,layout=reshuffled,steps=1000
    python -m rxrx_jax.main --config=adaptation.py:stage=mae
    python -m rxrx_jax.main --config=adaptation.py:stage=probe,steps=100

Whatever the method: steps, minibatches of 64 images, AdamW at 2e-3 with 5 % of warm-up, no early stop, the last step is
scored. stage: convnet; vit, which starts from that of mae; mae; probe, the regressions on frozen features and on
handcrafted ones, which need not start from another stage.

method, transductive, normalisation: as in convnet.py. weight: of the method's penalty, adversary or second loss, times
its default; 0 is the run without it. post_hoc: readings of the trained network, joined by +; NAME_shuffled is a control
anchor with shuffled labels. layout: fixed or reshuffled. cell_type: one that is in no training and no validation
experiment, and in all that are tested. imbalance: of the classes of held-out experiments, the concentration of a
Dirichlet distribution. tested=False: without the test experiments, for what is chosen on validation.

SIMULATED screen (rxrx_sim). docs/adaptation.md says what the whole comparison takes.
"""

from rxrx_jax.base.config import parse_arguments
from rxrx_jax.base.errors import UserError
from rxrx_jax.training.base_config import adaptation, base_config, decoder, encoder

SCREEN = {"version": "v3", "size": "large"}
WIDTHS, CROP = (32, 64, 128, 192), 48  # of images of 64 pixels, which are scored whole
EXPERIMENTS = {"SIMA": (8, 11), "SIMB": (4, 7), "SIMC": (2, 5)}  # of that design, by cell type: training's, and all
STAGES = ("convnet", "vit", "mae", "probe")
CORRECTIONS = ("none", "centre_scale_experiment", "rank_inverse_normal", "combat", "tvn_shrunk", "sphering")


def get_config(argument=None):
    arg = parse_arguments(
        argument,
        stage="convnet",
        method="erm",
        normalisation="plate",
        transductive=False,
        weight=1.0,
        post_hoc="",
        layout="fixed",
        cell_type="",
        imbalance=0.0,
        tested=True,
        steps=1250,
        seed=0,
    )
    if arg.stage not in STAGES:
        raise UserError(f"config argument stage={arg.stage}: expected {', '.join(STAGES)}")
    config = base_config(arg)
    config.data.builder.update(SCREEN | splits(arg.cell_type, arg.tested))
    if arg.imbalance:
        config.data.builder.imbalance = arg.imbalance
    if not arg.tested:
        config.data.unlabelled_roles = ("validation",)
    if arg.stage == "convnet":
        config.augment.crop, config.augment.evaluation_view = CROP, "whole"
    config.total_steps = arg.steps
    config.log_steps, config.checkpoint_steps = max(1, arg.steps // 50), max(1, arg.steps // 5)
    config.optim = dict(
        name="adamw", lr=2e-3, betas=(0.9, 0.999), weight_decay=0.05, clip_norm=1.0, ema_decay=0.0, warmup_percent=5.0
    )
    arg.variant = arg.encoder = ""  # those of mae_vit.py
    config.model = dict(name="convnet", widths=WIDTHS) if arg.stage == "convnet" else encoder(arg)
    if arg.stage in ("convnet", "vit"):
        config.task = dict(name="classify", label_smoothing=0.1)
        adaptation(config, arg.method, arg.transductive)
        key = "grl_weight" if "grl_weight" in config.adapt else "weight"
        if arg.weight != 1.0:
            if key not in config.adapt:
                raise UserError(f"config argument weight={arg.weight:g}: the method {arg.method} has no weight")
            config.adapt[key] *= arg.weight
        if arg.post_hoc:
            config.post_hoc = {name: reading(name) for name in arg.post_hoc.split("+")}
        config.evaluators = dict(accuracy=dict())
    elif arg.stage == "mae":  # mask and target by a probe on the validation experiment of world 10, the small design
        config.task = dict(name="mae", mask_ratio=0.75, normalise_target=True, decoder=decoder("XXS/8", (), (64, 2, 4)))
        config.optim.update(lr=4e-3, betas=(0.9, 0.95))
        config.evaluators = dict(reconstruction=dict(images=6))
    else:
        config.task = dict(name="probe", label_smoothing=0.0)
        config.optim = dict(name="sgd", lr=0.1, momentum=0.9, weight_decay=0.0, clip_norm=0.0, warmup_percent=10.0)
        config.evaluators = dict(probe=dict(corrections=CORRECTIONS))
    return config


def splits(cell_type: str, tested: bool) -> dict[str, tuple[str, ...]]:
    """Settings of the screen: which experiments are trained on, validated on and tested on; {} for the design's."""
    found = {}
    if cell_type:
        if cell_type not in EXPERIMENTS:
            raise UserError(f"config argument cell_type={cell_type}: expected {', '.join(EXPERIMENTS)}")
        others = {kind: of for kind, (of, _) in EXPERIMENTS.items() if kind != cell_type}
        found["train"] = tuple(f"{kind}-{i:02d}" for kind, of in others.items() for i in range(1, of + 1))
        found["val"] = tuple(f"{kind}-{of + 1:02d}" for kind, of in others.items())
        found["test"] = tuple(f"{cell_type}-{i:02d}" for i in range(1, EXPERIMENTS[cell_type][1] + 1))
    return found if tested else found | {"test": ()}


def reading(name: str) -> dict[str, object]:
    """The settings of a reading by its name: control_affine, or control_affine_shuffled."""
    method = name.removesuffix("_shuffled")
    return dict(name=method) if method == name else dict(name=method, shuffled=True)
