"""As `mogfn`, of molecules: drug-likeness, synthesis and weight, with three seeds.

python -m rxrx_jax.reproduce mogfn_fragments --out=DIR
"""

import dataclasses

from rxrx_jax.tables.generate import mogfn

TABLE = dataclasses.replace(
    mogfn.TABLE,
    title="Multi-objective GFlowNets on molecules",
    seeds=3,
    rows=mogfn.rows("fragments"),
    runs=mogfn.runs("fragments"),
)
