"""What the network says of every scored site, in workdir/predictions.parquet, from which it can be scored again."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rxrx_jax.base import files, hosts
from rxrx_jax.evaluate.accuracy import well_probabilities
from rxrx_jax.evaluate.embeddings import columns

NAME = "predictions.parquet"


def evaluate(context) -> Iterator[tuple[str, float]]:
    """The file has the columns of sites.csv and role, `predicted`, the class of the site by itself, and
    `predicted_well`, that of its well (int32), for each scored site. Yields `predictions/sites`."""
    parts = []
    if not hasattr(context.task, "logits"):
        return
    for role in context.dataset.roles.scored:
        out = context.predict(role)
        if len(rows := out["row"]):
            site, well, number = well_probabilities(out["logits"], context.dataset.sites.well_id[rows])
            found = columns(context.dataset, rows) | {"role": np.full(len(rows), role)}
            found |= {"predicted": site.argmax(1).astype(np.int32), "predicted_well": well.argmax(1)[number]}
            parts.append(pa.table(found | {"predicted_well": found["predicted_well"].astype(np.int32)}))
    table = pa.concat_tables(parts) if parts else pa.table({})

    def write():
        with files.writing(context.workdir / NAME) as file:
            pq.write_table(table, file, compression="zstd")

    hosts.on_first_host(write)
    yield "predictions/sites", len(table)
