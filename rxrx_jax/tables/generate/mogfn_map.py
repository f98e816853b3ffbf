"""From a phenotype to molecules on the SIMULATED screen: what generators make for a gene, as it is predicted and as it
is.

    python -m rxrx_jax.reproduce mogfn_map --out=DIR
"""

from rxrx_jax.report import columns
from rxrx_jax.tables import Column, Row, Run, Table
from rxrx_jax.tables.generate.mogfn import MODULE

FIRST, TOWERS = "mole", "towers"
CONFIG = "rxrx_jax/searches.py:on=map,method="
METHODS = {
    "random": ("random fragments", "random", {}),
    "library": ("best of the training library", "library", {}),
    "nsga2": ("genetic algorithm (NSGA-II)", "nsga2", {}),
    "reinforce": ("MOReinforce", "reinforce", {}),
    "mogfn": ("MOGFN", "mogfn", {}),
    "lower": ("MOGFN, lower bound", "mogfn", {"stage.task.reward": "lower"}),
    "oracle": ("MOGFN, oracle reward", "mogfn", {"stage.task.reward": "oracle"}),
}
TABLE = Table(
    title="Molecules for a phenotype, simulated screen",
    notes=(
        "SIMULATED wells and genes: what a molecule does is a hidden function of its substructures, with cliffs. No "
        "number here is a claim about real screens.",
        "Of the ten best different molecules of each preference between similarity to the gene, QED and SA. predicted: "
        "the cosine to the gene by the mean of three towers (molecule_map.py); true: by the tower of wells from what "
        "the simulator says the molecule does; gap: predicted less true. phenotype: the cosine of the simulated "
        "effects, 0 of a molecule that does nothing. applicability: Tanimoto's similarity to the nearest training "
        "molecule.",
        "true hypervolume, of all samples, and true reward: with the true similarity in the place of the other. A row "
        "that is ahead in predicted similarity alone has not won.",
        "Rows make as many reward calls, but for random fragments and the library, of which there are no more. Of the "
        "library and the genetic algorithm the best of all that was scored are judged.",
        "±: standard deviation over seeds of library, screen, towers and generator together.",
    ),
    labels=("molecules",),
    seeds=3,
    columns=(
        Column("predicted", "top10_predicted", columns.spread, strip="in"),
        Column("true", "top10_true", columns.spread, strip="cross"),
        Column("gap", "top10_gap", columns.spread, "+.3f"),
        Column("phenotype", "top10_phenotype", columns.spread),
        Column("applicability", "top10_applicability", columns.spread),
        Column("diversity", "top10_diversity", columns.spread),
        Column("true hypervolume", "true/hypervolume", columns.spread),
        Column("true reward", "true/top10_reward", columns.spread),
        Column("reward calls", "reward_calls", columns.mean, ",.0f"),
        Column("CPU s", summary=columns.cpu_seconds, format=".0f", key="cpu_seconds"),
    ),
    rows=[Row((words,), f"map-{name}") for name, (words, *_) in METHODS.items()],
    runs=[
        Run(FIRST, "mole.py"),
        Run(TOWERS, "rxrx_jax/tower_ensembles.py:members=3", FIRST, module="rxrx_jax.tower_ensembles"),
        *(Run(f"map-{name}", CONFIG + method, TOWERS, keys, MODULE) for name, (_, method, keys) in METHODS.items()),
    ],
)
