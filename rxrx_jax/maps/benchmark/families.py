"""Of a map's folder: retrieval, targets of compounds and clusters of genes."""

import numpy as np

from rxrx_jax.maps import relate, statistics
from rxrx_jax.maps.benchmark import clusters, compounds, retrieval, univariate
from rxrx_jax.maps.folder import Map

QUERIES = 2_000  # wells that are asked for across batches, drawn with the seed where there are more


def of_retrieval(found: Map, seed: int, known: compounds.Known | None = None) -> list[dict]:
    """A row per question that the map has the data for: replicates against controls; replicates of other batches
    against all other wells there; guides of a gene against those of all other genes; doses of compounds that act on a
    gene against those that share no such gene. Of each: groups, profiles, the mean over groups of average precision and
    of its normalised form, this with Student's 95 % interval over groups, and the share of groups with FDR <= .05.
    Args: known, of `compounds.read`."""
    columns, _, u = found.replicates
    is_control = columns["is_control"] > 0
    group = np.where(is_control, -1, columns["map_row"]).astype(np.int64)
    batch = np.unique(columns["batch"].astype(str), return_inverse=True)[1]
    rng, rows = np.random.default_rng(seed), []
    if is_control.any():
        controls = np.flatnonzero(is_control)
        if len(controls) > univariate.CONTROLS:
            controls = rng.choice(controls, univariate.CONTROLS, replace=False)
        against = np.isin(np.arange(len(u)), controls)
        result = retrieval.average_precision(u, group, against=against)
        rows.append(_row("replicates against controls", result, group, seed))
    if len(np.unique(batch)) > 1:
        queries = np.flatnonzero(group >= 0)
        queries = rng.choice(queries, QUERIES, replace=False) if len(queries) > QUERIES else queries
        kept = ~is_control
        place = np.cumsum(kept) - 1
        result = retrieval.average_precision(u[kept], group[kept], batch[kept], queries=place[queries])
        rows.append(_row("replicates of other batches", result, group[kept], seed))
    genes = np.flatnonzero(found.columns["kind"] == "gene")
    _, of = np.unique(found.columns["gene"][genes].astype(str), return_inverse=True)
    if len(of) and np.bincount(of).max() > 1:
        v = relate.unit(found.features[genes], lambda i: found.label(int(genes[i])))
        rows.append(_row("guides of a gene", retrieval.average_precision(v, of), of, seed))
    chosen = found.compounds()
    names, compound = np.unique(found.columns["perturbation"][chosen].astype(str), return_inverse=True)
    labels = compounds.labels(known or {}, names.tolist())[compound]
    if labels.any():
        w = relate.unit(found.features[chosen], lambda i: found.label(int(chosen[i])))
        label, *result = retrieval.average_precision_by_label(w, labels, compound)
        rows.append(_row("compounds of a target", result, label, seed))
    return [row for row in rows if row["groups"]]


def _row(question: str, result, group: np.ndarray, seed: int) -> dict:
    groups = retrieval.mean_average_precision(*result, group, seed)
    mean = lambda name: float(np.mean([row[name] for row in groups])) if groups else float("nan")  # noqa: E731
    share = float(np.mean([row["fdr"] <= statistics.LEVEL for row in groups])) if groups else float("nan")
    sizes = {"groups": len(groups), "profiles": int(np.isfinite(result[0]).sum())}
    low, high = statistics.interval_of_mean([row["normalised"] for row in groups])
    means = {"map": mean("map"), "normalised": mean("normalised"), "ci_low": low, "ci_high": min(high, 1.0)}
    return {"question": question, **sizes, **means, "fdr_below": share}


def of_targets(found: Map, known: compounds.Known, seed: int, negatives: compounds.Known | None = None) -> dict:
    """The rows of `compounds.benchmark`, how many compounds and genes of the file the map has not got, and whether the
    negatives were given."""
    names, x, _ = found.genes
    rows = found.compounds()
    result: list[dict] = []
    if len(rows) and len(names):
        u = relate.unit(found.features[rows], lambda i: found.label(int(rows[i])))
        v = relate.unit(x, lambda i: str(names[i]))
        compound, dose = found.columns["perturbation"][rows], found.columns["concentration_um"][rows]
        result = compounds.benchmark(u, compound, dose, v, names, known, seed, negatives)
    there = set(found.columns["perturbation"][rows].tolist())
    genes = {gene for one in known.values() for gene in one}
    missing = {"compounds_not_in_map": len(known.keys() - there), "genes_not_in_map": len(genes - set(names.tolist()))}
    return {"rows": result, "negatives": "drawn" if negatives is None else "given"} | missing


def of_clusters(found: Map, known: dict[str, list[str]]) -> dict:
    """The rows of `clusters.separation`, the share that is apart, and how many clusters are too small in the map."""
    names, x, _ = found.genes
    rows = clusters.separation(relate.unit(x, lambda i: str(names[i])), names, known) if len(names) else []
    return {"rows": rows, "share_apart": clusters.share_separated(rows), "too_small": len(known) - len(rows)}
