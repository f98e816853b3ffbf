"""Writes the embeddings of every site to workdir/embeddings.npz, for maps and pictures."""

from collections.abc import Iterator

import numpy as np


def evaluate(context, statistics="running") -> Iterator[tuple[str, float]]:
    """Arrays site_id [n] str, split [n] str, embedding [n, D] float32. Yields `embeddings/sites`."""
    rows, embedding = context.embeddings(statistics)
    sites = context.dataset.sites
    np.savez(
        context.workdir / "embeddings.npz",
        site_id=sites.site_id[rows],
        split=sites.split[rows],
        embedding=embedding.astype(np.float32),
    )
    yield "embeddings/sites", len(rows)
