"""The key rows of `adaptation` in two other worlds and fewer steps: whether all of it runs, in minutes."""

from rxrx_jax.tables import Table
from rxrx_jax.tables.comparison import adaptation

STEPS = 1000
RUNS, ROWS = adaptation.in_setting("fixed", f"steps={STEPS}")
TABLE = Table(
    title="A few adaptation methods, shortly trained, simulated screen",
    notes=(*(n for n in adaptation.NOTES if "1,250" not in n), f"{STEPS:,} steps: no row has converged."),
    labels=("method", "normalisation", "setting"),
    worlds=(0, 1),
    columns=adaptation.COLUMNS,
    rows=ROWS,
    runs=RUNS,
)
