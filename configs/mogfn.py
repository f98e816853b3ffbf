"""Multi-objective generative flow networks (Jain et al. 2023, arXiv 2210.12765): one policy, given a preference
and an exponent, whose samples are distributed as the scalarised reward R_w(x)^beta.

    python -m rxrx_jax.main --config=mogfn.py
    python -m rxrx_jax.main --config=mogfn.py:strings
    python -m rxrx_jax.main --config=mogfn.py:fragments
    python -m rxrx_jax.main --config=mogfn.py:side=32,exact
    python -m rxrx_jax.main --config=mogfn.py:loss=subtb

The default is a grid of 8 x 8 cells with Branin's and Currin's functions, whose target is known: total_variation in
metrics.jsonl is the distance to it, hypervolume what the samples reach. strings: how often the letters A and C occur
among 18, which compete for the places. fragments: molecules of at most nine pieces, for drug-likeness, synthesis and
weight (pip install 'rxrx_jax[molecules]'), and with seh=FILE for binding to soluble epoxide hydrolase. exact: longer,
and for all exponents from 0.8 to 40, of which 1, 8 and 32 are scored.

map,gene=NAME,tower=FILE: molecules that are predicted to act as the knockout of a gene does, by the frozen towers of
`python -m rxrx_jax.freeze_tower`; with reward=lower by the lower bound of an ensemble, with reward=oracle by what the
simulator of a SIMULATED screen says.

Widths, minibatch, learning rates and lengths are this file's own; log Z learns ten times as fast as the policy, as in
both released codes. No number of the paper can be compared with.
"""

import math

import ml_collections

from rxrx_jax.base.config import parse_arguments
from rxrx_jax.base.errors import UserError
from rxrx_jax.training.base_config import run_keys

EXPONENTS = {"grid": 8.0, "strings": 16.0, "fragments": 32.0, "map": 32.0}
MOLECULES = dict(most=9, workers=2)


def get_config(argument=None):
    arg = parse_arguments(
        argument, strings=False, fragments=False, seh="", map=False, gene="", tower="", reward="mean", exact=False,
        side=0, exponent=0.0, loss="tb", seed=0,
    )  # fmt: skip
    if arg.strings + arg.fragments + arg.map + bool(arg.side or arg.exact) > 1:
        raise UserError("config arguments strings, fragments, map, and side or exact: choose one")
    environment = next((name for name in ("strings", "fragments", "map") if arg[name]), "grid")
    molecules = environment in ("fragments", "map")
    own = {"strings": strings, "fragments": lambda: fragments(arg.seh), "map": lambda: of_map(arg)}
    config = ml_collections.ConfigDict()
    config.seed = arg.seed
    config.mesh = dict(fsdp=1, tensor=1)
    config.data = dict(source="nothing", name=environment, minibatch=64 if molecules else 128)  # trajectories
    run_keys(config, large=False)
    config.guard.max_loss_ratio = 0.0  # a state of low reward that is seen for the first time costs anything
    exponent = arg.exponent or (32.0 if arg.exact else EXPONENTS[environment])
    config.task = dict(
        name="flow",
        **own.get(environment, lambda: grid(arg.side or 8))(),
        scalarisation="weighted_sum",
        loss=arg.loss,
        backward="uniform",  # over the parents, or learned
        # What is drawn for each trajectory, or for each minibatch, and how the policy sees it.
        condition="trajectory",
        alpha=0.5 if arg.exact else 1.0,  # below 1 the ends are drawn more often
        preference=(),  # always this one
        exponent="loguniform" if arg.exact else "constant",
        exponents=(0.8, 1.25 * exponent) if arg.exact else (exponent, exponent),  # what is scored lies within
        encoding="thermometer",
        preference_bins=16,
        exponent_bins=32,
        random=0.05 if arg.exact else 0.01,  # moves that are uniform over the legal ones
        log_reward_floor=-60.0,
    )
    # Of the first policy of a grid, so that a trajectory is about as long as a side; strings do not stop, and molecules
    # would stop early, half of the time at one piece with one slot.
    stop_bias = -2.0 if molecules else -math.log(config.task.get("side", 2) / 2)
    if arg.loss == "subtb":
        config.task.subtb_decay = 0.9
    config.model = dict(name="policy", width=128, depth=2, log_z_width=64, stop_bias=stop_bias)
    config.optim = dict(
        name="adamw",
        lr=2e-3,
        lr_factors=dict(log_z=10.0),
        betas=(0.9, 0.999),
        weight_decay=0.0,
        clip_norm=10.0,
        ema_decay=0.0,
        warmup_percent=1.0,
    )
    config.total_steps = 10_000 if arg.exact else 1_500
    config.evaluators = dict(pareto=dict(exponents=(1.0, 8.0, exponent)) if arg.exact else dict())
    if arg.map:
        config.evaluators.pareto = dict(steps=4, samples=64)  # every one is a molecule that RDKit and the towers see
    return config


def grid(side: int) -> dict:
    return dict(environment="grid", side=side, dimensions=2, objectives=("branin", "currin"))


def strings() -> dict:
    return dict(environment="strings", letters="ARNDCQEGHILKMFPSTWYV", length=18, objectives=("A", "C"))


def fragments(seh: str) -> dict:
    """workers: processes of RDKit, 0 for none. proxy: the file of weights of the objective seh."""
    objectives = ("seh", "qed", "sa", "mw") if seh else ("qed", "sa", "mw")
    return dict(environment="fragments", objectives=objectives, proxy=seh, **MOLECULES)


def of_map(arg) -> dict:
    """tower: the file of frozen towers; gene: of its map; reward: mean or lower of the ensemble, or oracle."""
    wanted = dict(tower=arg.tower, gene=arg.gene, reward=arg.reward)
    return dict(environment="map", objectives=("similarity", "qed", "sa"), **wanted, **MOLECULES)
