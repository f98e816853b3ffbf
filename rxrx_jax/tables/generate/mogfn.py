"""One policy for all preferences beside what it is to be better than, on a grid and on strings, for equal reward calls.

    python -m rxrx_jax.reproduce mogfn --out=DIR

Molecules, which take longer, are in `mogfn_fragments` and `mogfn_map`.
"""

from collections.abc import Sequence

from rxrx_jax.report import columns
from rxrx_jax.tables import Column, Row, Run, Table

MODULE = "rxrx_jax.searches"
METHODS = {
    "mogfn": "MOGFN",
    "random": "random policy",
    "search": "random search, the best of all",
    "reinforce": "MOReinforce",
    "nsga2": "NSGA-II, the best of all",
    "each": "a GFlowNet for each preference",
    "mean": "a GFlowNet for the mean preference",
}
QUARTER = {"grid": 2.0, "strings": 4.0, "fragments": 8.0}  # of the exponent of each stage
ABLATIONS = {  # of MOGFN: what is changed, and the keys of its task
    "alpha": ("alpha 5", {"alpha": 5.0}),
    "beta": ("beta a quarter", {}),
    "tchebycheff": ("trained for Tchebycheff", {"scalarisation": "tchebycheff"}),
    "log_sum": ("trained for the weighted log sum", {"scalarisation": "weighted_log_sum"}),
    "plain": ("plain encoding", {"encoding": "plain"}),
    "minibatch": ("condition per minibatch", {"condition": "minibatch"}),
}
NOTES = (
    "Every row makes as many reward calls (the column), but for the random policy, which does not search. Policies use "
    "some of them for the samples that are judged, as many for each preference; a search has none, and of all that it "
    "scored the best for each preference are judged, which is a choice that policies do not have.",
    "All rows are judged by the weighted sum, for preferences on the same lattice, whatever they were trained for. "
    "top 10: of the ten best different samples of each preference. follows: the smallest over objectives of Spearman's "
    "correlation between the weight that it has and its mean.",
    "MOReinforce is trained for the reward itself, the others for a power of it. "
    "A GFlowNet for each preference has its share of the calls; the one for the mean preference is judged for all.",
    "±: standard deviation over seeds of training and sampling. No value of the paper is printed: no table of it could "
    "be read in a primary source.",
)
COLUMNS = (
    Column("hypervolume", "hypervolume", columns.spread, strip="cross"),
    Column("R2, lower is better", "r2", columns.spread, ".4f", key="r2"),
    Column("top 10 reward", "top10_reward", columns.spread, strip="in"),
    Column("top 10 diversity", "top10_diversity", columns.spread),
    Column("follows", "follows_preference", columns.spread, ".2f"),
    Column("reward calls", "reward_calls", columns.mean, ",.0f"),
    Column("CPU s", summary=columns.cpu_seconds, format=".0f", key="cpu_seconds"),
)


def runs(on: str, methods: Sequence[str] = tuple(METHODS), ablations: Sequence[str] = tuple(ABLATIONS)) -> list[Run]:
    """One for each method, and one for each ablation of MOGFN."""
    config = f"rxrx_jax/searches.py:on={on},method="
    made = [Run(f"{on}-{method}", config + method, module=MODULE) for method in methods]
    for name in ablations:
        changed = ABLATIONS[name][1] or {"exponents": (QUARTER[on], QUARTER[on])}
        keys = {f"stage.task.{key}": value for key, value in changed.items()}
        made.append(Run(f"{on}-{name}", f"{config}mogfn", overrides=keys, module=MODULE))
    return made


def rows(on: str, methods: Sequence[str] = tuple(METHODS), ablations: Sequence[str] = tuple(ABLATIONS)) -> list[Row]:
    """Of `runs`."""
    found = [Row((METHODS[method], on), f"{on}-{method}") for method in methods]
    return found + [Row((f"MOGFN, {ABLATIONS[name][0]}", on), f"{on}-{name}") for name in ablations]


TABLE = Table(
    title="Multi-objective GFlowNets on a grid and on strings",
    notes=NOTES,
    labels=("method", "objects"),
    group="objects",
    seeds=5,
    columns=COLUMNS,
    rows=[*rows("grid"), *rows("strings")],
    runs=[*runs("grid"), *runs("strings")],
)
