"""Clusters of genes: whether their members resemble each other more than the rest, and which clusters a list of genes
is rich in."""

import math

import numpy as np

from rxrx_jax.maps import relate, statistics

LEAST_GENES = 10  # of a cluster in the map, as in EFAAR's benchmark


def separation(
    u: np.ndarray, names: np.ndarray, clusters: dict[str, list[str]], least: int = LEAST_GENES
) -> list[dict]:
    """A row per cluster with at least `least` genes in the map: cluster, genes, the mean cosine within it and of its
    genes with all others, the two-sample Kolmogorov-Smirnov statistic of the two and its p, and fdr over clusters.

    Args: u [n, d], unit rows of genes; names [n]; clusters, name -> genes.
    """
    from scipy.stats import ks_2samp

    number = {name: i for i, name in enumerate(names.tolist())}
    rows: list[dict] = []
    for cluster, genes in clusters.items():
        inside = np.array([number[gene] for gene in genes if gene in number], np.int64)
        if len(inside) < max(least, 2) or len(inside) == len(u):
            continue
        outside = np.setdiff1d(np.arange(len(u)), inside)
        within, _ = relate.all_pairs(u[inside])
        between = (u[inside] @ u[outside].T).ravel()
        found = ks_2samp(within, between)
        means = {"within": float(within.mean()), "between": float(between.mean())}
        ks = {"ks": float(found.statistic), "p": float(found.pvalue)}
        rows.append({"cluster": cluster, "genes": len(inside)} | means | ks)
    adjusted = statistics.false_discovery(np.array([row["p"] for row in rows]))
    return [row | {"fdr": float(value)} for row, value in zip(rows, adjusted)]


def enrichment(genes: list[str], universe: list[str], clusters: dict[str, list[str]]) -> list[dict]:
    """Which clusters `genes` are rich in, the likeliest first: cluster, overlap, size (both within the universe), the
    hypergeometric p of at least so many, fdr over all clusters with a gene in the universe, and the Jaccard index."""
    from scipy.stats import hypergeom

    whole, chosen = set(universe), set(genes) & set(universe)
    rows = []
    for cluster, members in clusters.items():
        inside = set(members) & whole
        if inside:
            overlap = len(inside & chosen)
            p = float(hypergeom.sf(overlap - 1, len(whole), len(inside), len(chosen)))
            rows.append({"cluster": cluster, "overlap": overlap, "size": len(inside), "p": p,
                         "jaccard": overlap / max(len(inside | chosen), 1)})  # fmt: skip
    adjusted = statistics.false_discovery(np.array([row["p"] for row in rows]))
    found = [row | {"fdr": float(value)} for row, value in zip(rows, adjusted) if row["overlap"]]
    return sorted(found, key=lambda row: (row["p"], row["cluster"]))


def share_separated(rows: list[dict], level: float = statistics.LEVEL) -> float:
    """The share of clusters whose members are more alike, at this false discovery rate; NaN without clusters."""
    good = [row["fdr"] <= level and row["within"] > row["between"] for row in rows]
    return float(np.mean(good)) if good else math.nan
