"""Molecules against phenomics: zero-shot retrieval of compounds whose scaffold training has not seen, on the SIMULATED
screen of the simulated library.

    python -m rxrx_jax.reproduce molecule_map --out=DIR
"""

from rxrx_jax.report import columns
from rxrx_jax.tables import Column, Row, Run, Table
from rxrx_jax.tables.molecules.admet import marks

FIRST, SECOND, MAP = "mole", "mole_biology", "molecule_map"
OWN = {"untrained": "MolE, untrained", "step1": "MolE, step 1", "step2": "MolE, steps 1 and 2"}
BESIDE = {
    "chance": "chance",
    "dose": "the dose alone",
    "nearest": "Morgan, nearest compound",
    "ridge": "Morgan + ridge",
}
TABLE = Table(
    title="Retrieval of unseen compounds by their structure, simulated screen",
    notes=(
        "SIMULATED wells: what a compound does is a hidden function of its substructures, with cliffs. No number here "
        "is a claim about real screens.",
        "top 1 %, top 5 %: the share of compounds at a dose whose own wells are among that many of all test compounds "
        "and doses, the most alike first; of those whose replicates agree. inactive: of the others, of which nothing "
        "is to be found. oracle: what the simulator itself would predict.",
        "±: standard deviation over seeds of library, screen and training together.",
    ),
    labels=("query",),
    seeds=5,
    columns=(
        Column("marks", summary=marks),
        Column("top 1 %", "top_1_percent", columns.spread, strip="in"),
        Column("top 5 %", "top_5_percent", columns.spread, strip="cross"),
        Column("inactive, top 5 %", "inactive/top_5_percent", columns.spread, key="inactive"),
        Column("CPU s", summary=columns.cpu_seconds, format=".0f", key="cpu_seconds"),
    ),
    rows=[
        *(Row((words,), "map-step1", f"test/{name}/") for name, words in BESIDE.items()),
        *(Row((words,), f"map-{name}", "test/") for name, words in OWN.items()),
        Row(("the simulator's oracle",), "map-step1", "test/oracle/"),
    ],
    runs=[
        Run(FIRST, "mole.py"),
        Run(SECOND, "mole_biology.py", FIRST),
        Run("map-untrained", "molecule_map.py"),
        Run("map-step1", "molecule_map.py", FIRST),
        Run("map-step2", "molecule_map.py", SECOND),
    ],
)
