"""Writes the embeddings of every site to workdir/embeddings.npz, for maps and pictures."""

from collections.abc import Iterator

import numpy as np

from rxrx_jax.data import SPLITS


def evaluate(context, statistics="running") -> Iterator[tuple[str, float]]:
    """Arrays site_id [n] str, split [n] str, embedding [n, D] float32. Yields `embeddings/sites`."""
    parts = [out for out in (context.predict(split, statistics) for split in SPLITS) if len(out["row"])]
    rows = np.concatenate([p["row"] for p in parts])
    sites = context.dataset.sites
    np.savez(
        context.workdir / "embeddings.npz",
        site_id=sites.site_id[rows],
        split=sites.split[rows],
        embedding=np.concatenate([p["embedding"] for p in parts]).astype(np.float32),
    )
    yield "embeddings/sites", len(rows)
