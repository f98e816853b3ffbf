"""`benchmark`: every family that a map's folder has the data for, as one object of tables."""

import dataclasses
import math

import numpy as np

from rxrx_jax.base.errors import UserError
from rxrx_jax.maps import relate, statistics
from rxrx_jax.maps.benchmark import compounds, families, proximity, recall, univariate
from rxrx_jax.maps.benchmark.genome import ARMS, Genome
from rxrx_jax.maps.benchmark.relations import Relations
from rxrx_jax.maps.build.arms import UNEXPRESSED, arm_numbers
from rxrx_jax.maps.folder import Map


def of_relations(found: Map, relations: list[Relations], genome: Genome | None, null: str, side: str, seed: int):
    """Rows of recall, of all pairs and, where the genome is known, of pairs on the same and on different arms; and of
    every source how many of its entities the map lacks."""
    names, x, _ = found.genes
    if null == "sampled_0_1":
        if side != "two":
            raise UserError(f"--null={null} has no one-sided form: --sides=two")
        rows = [row | {"arms": "all"} for row in recall.sampled_0_1(x, names, relations, seed=seed)]
    else:
        parts = {"all": relations}
        if genome is not None:
            arm = dict(zip(names.tolist(), arm_numbers(names, genome).tolist()))
            for words, same in (("same arm", True), ("different arms", False)):
                parts[words] = [_by_arm(one, arm, same) for one in relations]
        together = [one for part in parts.values() for one in part]  # one null for all
        rows = recall.all_pairs(x, names, together, recall.THRESHOLDS, side, seed)
        words = [words for words, part in parts.items() for _ in part for _ in recall.THRESHOLDS]
        rows = [row | {"arms": word} for row, word in zip(rows, words)]
    unknown = {one.name: one.unknown(names) for one in relations}
    return rows, {name: {"not_in_map": n, "of_them_but_for_spelling": near} for name, (n, near) in unknown.items()}


def _by_arm(one: Relations, arm: dict[str, int], same: bool) -> Relations:
    """The pairs of which both genes have an arm, and the same or different ones."""
    numbers = np.array([arm.get(name, -1) for name in one.entities.tolist()], np.int64)
    a, b = numbers[one.first], numbers[one.second]
    kept = (a >= 0) & (b >= 0) & ((a == b) == same)
    return Relations(one.name, one.entities, one.first[kept], one.second[kept], one.given)


def of_replicates(found: Map, expression: dict | None, seed: int) -> tuple[list[dict], dict]:
    """(a row per perturbation with its consistency, magnitude and p-values; shares of them that are significant).

    The null is of unexpressed genes where `expression` knows at least 20, which then have no p-value, else of matched
    controls. Controls are not scored."""
    columns, x, u = found.replicates
    codes = np.where(columns["is_control"] > 0, -1, columns["map_row"])
    kept, codes_of = np.unique(codes[codes >= 0], return_inverse=True)
    numbers = np.full(len(codes), -1)
    numbers[codes >= 0] = codes_of
    controls = np.flatnonzero(columns["is_control"] > 0)
    size = np.bincount(codes_of, minlength=len(kept))
    values = {"consistency": univariate.consistency(u, numbers)}
    reference = univariate.Reference(x, controls, seed) if len(controls) > 1 else None
    values["magnitude"] = (
        np.full(len(kept), np.nan) if reference is None else univariate.magnitude(x, numbers, reference)
    )
    level = np.array([(expression or {}).get(name, np.nan) for name in found.columns["gene"][kept].tolist()])
    unexpressed = level < UNEXPRESSED
    null_of, nulls = _nulls(values, unexpressed, numbers, columns, controls, u, x, reference, size, seed)
    table = {"perturbation": [found.label(int(row)) for row in kept], "kind": found.columns["kind"][kept].tolist(),
             "replicates": size.tolist()}  # fmt: skip
    summary: dict = {"null": null_of, "unexpressed": int(unexpressed.sum())}
    for name, side in (("consistency", "left"), ("magnitude", "right")):
        p, published = np.full(len(kept), np.nan), np.full(len(kept), np.nan)
        for rows, null in nulls[name]:
            p[rows] = statistics.p_values(null, values[name][rows])
            published[rows] = statistics.published_p_values(null, values[name][rows], side)
        q, finite = statistics.false_discovery(p), np.isfinite(p)
        columns_of = {"": values[name], "_p": p, "_fdr": q, "_p_published": published}
        table |= {f"{name}{end}": array.tolist() for end, array in columns_of.items()}
        summary[name] = {
            "scored": int(np.isfinite(values[name]).sum()), "with_a_p_value": int(finite.sum()),
            "p_below": float((p[finite] <= statistics.LEVEL).mean()) if finite.any() else math.nan,
            "fdr_below": float((q[finite] <= statistics.LEVEL).mean()) if finite.any() else math.nan,
            "median": float(np.nanmedian(values[name])) if np.isfinite(values[name]).any() else math.nan,
        }  # fmt: skip
    return [dict(zip(table, row)) for row in zip(*table.values())], summary


def _nulls(values, unexpressed, numbers, columns, controls, u, x, reference, size, seed):
    """(in words, by metric: [(perturbations, null)])."""
    if unexpressed.sum() >= recall.LEAST_ENTITIES:
        scored = np.flatnonzero(~unexpressed)
        return "unexpressed genes", {name: [(scored, values[name][unexpressed])] for name in values}
    found: dict[str, list] = {name: [] for name in values}
    if reference is None:
        return "none: no controls", found
    names, batch = np.unique(columns["batch"].astype(str), return_inverse=True)
    for r in np.unique(size[size >= univariate.LEAST["consistency"]]).tolist():
        rows = np.flatnonzero(size == r)
        drawn = univariate.matched_controls(numbers, batch, controls, r, univariate.NULL_DRAWS, seed, names)
        found["consistency"].append((rows, univariate.null_consistency(u, drawn)))
        if r >= univariate.LEAST["magnitude"]:
            found["magnitude"].append((rows, univariate.null_magnitude(x, drawn, reference)))
    return "matched controls", found


def of_arms(found: Map, genome: Genome) -> dict:
    """Brunner-Munzel of the genome and of each arm, and along each arm."""
    names, x, _ = found.genes
    arm = arm_numbers(names, genome)
    placed = arm >= 0
    u, arm = relate.unit(x[placed], lambda i: str(names[placed][i])), arm[placed]
    if len(u) < 2:
        raise UserError("fewer than two genes of the map are in the table of --genome")
    whole, each = proximity.per_arm(u, arm, len(ARMS))
    probability = proximity.per_gene(u, arm)
    place = genome.places(names[placed])
    rows = []
    for a in np.flatnonzero(np.bincount(arm, minlength=len(ARMS))):
        here = arm == a
        along, p = proximity.along_arm(probability[here], genome.start[place[here]], ARMS[a].endswith("q"))
        one = each[a]
        rows.append({
            "arm": ARMS[a], "genes": int(here.sum()), "probability": math.nan if one is None else one.probability,
            "statistic": math.nan if one is None else one.statistic, "p": math.nan if one is None else one.p_value,
            "along_arm": along, "along_arm_p": p,
        })  # fmt: skip
    return {"genes": len(u), "without_an_arm": int((~placed).sum()), "genome": whole._asdict(), "arms": rows}


@dataclasses.dataclass(frozen=True)
class Known:
    """What is known of a map's genes and compounds, as far as it is given: relations; genome; expression, gene ->
    zFPKM; targets and negatives, of `compounds.read`; clusters, of `relations.read_clusters`."""

    relations: list[Relations] = dataclasses.field(default_factory=list)
    genome: Genome | None = None
    expression: dict[str, float] | None = None
    targets: compounds.Known | None = None
    negatives: compounds.Known | None = None
    clusters: dict[str, list[str]] | None = None


def run(found: Map, known: Known, null: str = "all_pairs", side: str = "two", seed: int = 0) -> tuple[dict, list[dict]]:
    """(the benchmarks of a map as one JSON object; a row per perturbation).
    Args: null, one of recall.NULLS; side, one of recall.SIDES."""
    names, _, guides = found.genes
    result: dict = {
        "marks": found.facts.get("marks", "?"), "genes": len(names), "guides": int(guides.sum()),
        "compound_rows": len(found.compounds()), "seed": seed,
    }  # fmt: skip
    if known.relations:
        made = of_relations(found, known.relations, known.genome, null, side, seed)
        result["recall"], result["entities"] = made
    rows, result["replicates"] = of_replicates(found, known.expression, seed)
    result["retrieval"] = families.of_retrieval(found, seed, known.targets)
    if known.genome is not None and len(names):
        result["proximity"] = of_arms(found, known.genome)
    if known.targets is not None:
        result["targets"] = families.of_targets(found, known.targets, seed, known.negatives)
    if known.clusters is not None:
        result["clusters"] = families.of_clusters(found, known.clusters)
    return result, rows
