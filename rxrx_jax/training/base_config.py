"""The keys that every config starts from, so that a file in `configs/` holds only what makes its experiment."""

import dataclasses

import ml_collections

from rxrx_jax.adapt import keys_of, method_class
from rxrx_jax.base.errors import UserError
from rxrx_jax.data.batch import CONTROLS, HELD_OUT
from rxrx_jax.models.vit import Style


def base_config(arg) -> ml_collections.ConfigDict:
    """A config for a dataset (`dataset`) at a scale (`at_paper_scale`), which do not depend on each other.

    Args: arg, parsed colon arguments with at least seed, layout and normalisation.
    """
    name, large = dataset(arg), at_paper_scale(arg)
    real = name != "rxrx_sim"
    config = ml_collections.ConfigDict()
    config.seed = arg.seed
    config.mesh = dict(fsdp=1, tensor=1)
    config.data = dict(
        name=name,
        # The simulated world: its seed, and which treatments share a plate (fixed or reshuffled).
        builder=dict() if real else dict(seed=arg.seed, layout=arg.layout),
        folder=ml_collections.config_dict.placeholder(str),  # of prepared datasets; None is TFDS's usual place
        cache=ml_collections.config_dict.placeholder(str),  # DIR,SIZE: of disk, for what is read of gs:// or s3://
        channels=(),  # of the images, numbers from 0 in the order in which they are read; () = all
        minibatch=256 if large else 64,
        crops_per_record=1,  # of a minibatch, each record read for as many of its images
        group="experiment",
        groups_per_minibatch=0,  # 0 = drawn from all
        unlabelled_minibatch=0,  # images of held-out experiments beside each minibatch, without labels
        unlabelled_roles=("validation", "cross_batch"),  # of the protocol, that these are drawn from
        select=dict(),
        unreadable=0,  # images per epoch, or per evaluation, that may be left out because their records are damaged
    )
    # What is trained on and scored: a file in rxrx_jax/evaluate/protocols/, or the path of another.
    config.protocol = dict(name="held_out_experiments" if real else "held_out_wells")
    # By default what encoders of that kind are published with; the simulated screen has whole plates to normalise by.
    config.normalisation = arg.normalisation or ("image" if real else "plate")
    config.augment = dict(crop=256 if large else 64, window="random", flips=True, rot90=True, intensity_jitter=0.1)
    config.augment.evaluation_view = "crop"  # what is scored: the centre of that side, or the whole image
    run_keys(config, large)
    return config


def run_keys(config: ml_collections.ConfigDict, large: bool) -> None:
    """Adds the keys that a run has whatever it is trained on."""
    # The stage before: its workdir, or weights; the part of its state, params or averages, "" = the one it published.
    config.init = dict(path="", parameters="", contaminated="")
    config.selection = "last"  # or best_val: of all evaluations the best on validation experiments (`evaluate_epochs`)
    config.accumulate = 1  # parts of a minibatch whose gradients are summed one after the other
    config.evaluation_minibatch = 256
    config.log_steps = 50 if large else 20
    config.checkpoint_steps = 1000 if large else 100
    config.keep_checkpoints = 2  # so that one is left if the newest turns out to be damaged
    # What stops a run: a NaN loss, or one `max_loss_ratio` times its usual value (0: any finite loss passes). With
    # rollback it goes back once to the last checkpoint instead, and leaves the minibatch out.
    config.guard = dict(max_loss_ratio=10.0, rollback=False)
    config.watchdog_timeout_seconds = 1200.0  # without progress, then the run exits for a restart; 0 waits forever
    config.mirror = ""  # where the metrics also go: tensorboard, wandb or trackio
    config.profile_steps = ()  # (first, last + 1) of a trace in workdir/profile
    config.measure = ""  # "synthetic" trains on noise, "loader" only reads: what limits the speed?


def molecule_config(arg, name: str, minibatch: int, large: bool = False) -> ml_collections.ConfigDict:
    """A config for molecules, which lacks task, optimiser, length and evaluators.

    Args: arg, parsed colon arguments with seed, full and perhaps dropout; name, of prepared molecules or their folder,
    "" for the simulated library; large, whether `run_keys` are those of long runs.
    """
    config = ml_collections.ConfigDict()
    config.seed = arg.seed
    config.mesh = dict(fsdp=1, tensor=1)
    config.data = dict(
        source="molecules",
        name=name or "molecules",
        builder=dict() if name else dict(seed=arg.seed, count=4000),
        folder=ml_collections.config_dict.placeholder(str),
        minibatch=minibatch,
        # Other prepared molecules: those that they score are not trained on. "*": all beside these of their vocabulary.
        leave_out=(),
        unreadable=0,
    )
    run_keys(config, large)
    # The encoder of the released size, or one for laptops.
    size = dict(width=768, depth=12, mlp=3072, heads=12) if arg.full else dict(width=96, depth=4, mlp=384, heads=4)
    how = dict(dtype="bfloat16", remat="dots") if arg.full else dict(dtype="float32", remat="none")
    config.model = dict(name="molecule", **size, dropout=arg.get("dropout", 0.1), **how)
    return config


def molecule_adamw(lr: float) -> dict:
    """The keys of `config.optim` that molecules' pretraining and contrastive training share."""
    shape = dict(betas=(0.9, 0.98), weight_decay=0.01, clip_norm=1.0, ema_decay=0.0, warmup_percent=5.0)
    return dict(name="adamw", lr=lr) | shape


def dataset(arg) -> str:
    """Its name: `arg.data`, or rxrx1 or rxrx3 where `arg` says so, else rxrx_sim, the simulated screen."""
    named = [name for name in ("rxrx1", "rxrx3") if arg.get(name)] + [name for name in [arg.get("data")] if name]
    if len(named) > 1:
        raise UserError(f"config arguments {' and '.join(named)}: choose one")
    return named[0] if named else "rxrx_sim"


def at_paper_scale(arg) -> bool:
    """Whether sizes, minibatches and lengths are those of the papers: with `rxrx1`, `rxrx3` or `paper`. Else they suit
    small images and few processors."""
    return any(arg.get(name) for name in ("rxrx1", "rxrx3", "paper"))


ENCODERS = ("plain", "microscopy", "channel_agnostic")


def encoder(arg) -> dict:
    """The keys of `config.model` for `arg.variant` and `arg.encoder`: the same at every stage, so that what one stage
    trains fits the next.

    encoder: plain, a pre-norm ViT; microscopy; channel_agnostic; or "", microscopy at the scale of the papers and else
    plain. Raises UserError for any other.
    """
    large = at_paper_scale(arg)
    variant, kind = arg.variant or ("S/16" if large else "XXS/8"), arg.encoder or ("microscopy" if large else "plain")
    if kind not in ENCODERS:
        raise UserError(f"config argument encoder={kind}: expected {', '.join(ENCODERS[:-1])} or {ENCODERS[-1]}")
    plain = dict(name="vit", variant=variant, **dataclasses.asdict(Style()), dtype="float32", remat="none")
    if kind == "plain":
        return plain
    found = (
        plain
        | microscopy_vit(variant)
        | (dict(channel_agnostic=True, final_norm=False) if kind != "microscopy" else {})
    )
    return found if large else found | dict(dtype="float32")  # bfloat16 is slow on a CPU


def microscopy_vit(variant: str) -> dict:
    """The ViT of Kraus et al. 2024 (arXiv 2404.10242) as their released code makes it, with the stochastic depth of
    Kenyon-Dean et al. 2024 (arXiv 2411.02572): 0.1 for S, 0.3 for L, 0.6 for G; 0.1 for B is the released code's, 0.3
    for H and g ours, and so are dtype and remat. Channel agnostic there means no norm before the pooling."""
    return dict(
        name="vit",
        variant=variant,
        block="parallel",
        qkv_bias=False,
        qk_norm=True,
        layer_scale=1e-4,
        class_token=True,
        pool="mean",
        drop_path=0.6 if variant.startswith("G") else 0.3 if is_large(variant) else 0.1,
        dtype="bfloat16",
        remat="dots" if is_large(variant) else "none",
    )


def microscopy_lion(variant: str) -> dict:
    """The optimiser of both papers. They mention no gradient clipping, so there is none."""
    lr = 3e-5 if is_large(variant) else 1e-4
    decay = dict(weight_decay=0.05, clip_norm=0.0, ema_decay=0.0)
    return dict(name="lion", lr=lr, betas=(0.9, 0.95), schedule="onecycle", warmup_percent=10.0) | decay


def decoder(variant: str, large: tuple[int, int, int], small: tuple[int, int, int]) -> tuple[int, int, int]:
    """(width, depth, heads) of an autoencoder's decoder: the papers' `large` one for the sizes that they have, S and
    above, else the `small` one."""
    return small if variant.startswith(("XXS", "Ti")) else large


def is_large(variant: str) -> bool:
    """Whether a variant's size is L or above."""
    return variant.partition("/")[0] in ("L", "H", "g", "G")


def adaptation(config, name: str, transductive: bool = False) -> None:
    """Adds the method `name` with its defaults, and what it requires of the sampler, the streams and the optimiser.

    transductive: every minibatch also holds half as many unlabelled images of held-out experiments, for a method that
    does not require them. Call it when `config.data` and `config.optim` are complete."""
    method = method_class(name)()
    needs = method.needs
    config.adapt = dict(name=name, **{key: field.default for key, field in keys_of(type(method)).items()})
    if needs.groups:
        fewest, most = needs.groups
        config.data.groups_per_minibatch = min(max(fewest, 4), most)
        config.data.group = method.domain
    if needs.pairs:
        config.data.pairs = needs.pairs
    if transductive or HELD_OUT in needs.streams:
        config.data.unlabelled_minibatch = config.data.minibatch // 2
    if CONTROLS in needs.streams:
        config.data.control_minibatch = 128 if config.data.name != "rxrx_sim" else 2  # of its four wells on a plate
    if needs.averages:
        config.optim.ema_decay = 0.999
