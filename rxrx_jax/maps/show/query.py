"""The neighbours of a gene or compound in one map: genes, and compounds at the dose that is nearest."""

import math

import numpy as np

from rxrx_jax.base.errors import UserError, shortened
from rxrx_jax.maps import relate
from rxrx_jax.maps.benchmark.genome import ARMS, Genome
from rxrx_jax.maps.benchmark.relations import Relations
from rxrx_jax.maps.build.arms import arm_numbers
from rxrx_jax.maps.folder import Map

SAMPLE = 4_000  # entities at most, drawn with SEED, whose pairs are the null of percentiles
SEED = 0


class Entities:
    """What a map's folder relates: genes, the mean of their guides, and compounds at each dose.

    name [e]; kind [e], "gene" or "compound"; dose [e], micromolar, NaN for genes; u [e, d], unit rows.
    """

    def __init__(self, found: Map):
        genes, x, _ = found.genes
        rows = found.compounds()
        self.name = np.concatenate([genes, found.columns["perturbation"][rows]]).astype(object)
        self.kind = np.array(["gene"] * len(genes) + ["compound"] * len(rows), object)
        self.dose = np.concatenate([np.full(len(genes), np.nan), found.columns["concentration_um"][rows]])
        self.x = np.concatenate([x, found.features[rows].astype(np.float64)])
        self.u = relate.unit(self.x, lambda i: str(self.name[i]))

    def find(self, name: str) -> np.ndarray:
        """The numbers of a gene or of a compound's doses. Raises UserError for a name the map has not got, with those
        that differ in case or begin alike."""
        found = np.flatnonzero(self.name == name)
        if not len(found):
            low = name.lower()
            near = sorted({one for one in self.name.tolist() if one.lower().startswith(low[:3] or " ")})
            near.sort(key=lambda one: (one.lower() != low, not one.lower().startswith(low), one))
            words = f"; did you mean {', '.join(near[:3])}?" if near else ""
            raise UserError(f"{shortened(name)} is not a gene or compound of the map{words}")
        return found

    def null(self, one: str, other: str) -> np.ndarray:
        """Cosines of pairs of these two kinds, never of mixed ones, and not of two doses of one compound."""
        rng, parts = np.random.default_rng(SEED), []
        for kind in (one, other):
            rows = np.flatnonzero(self.kind == kind)
            parts.append(np.sort(rng.choice(rows, SAMPLE, replace=False)) if len(rows) > SAMPLE else rows)
        if one == other:
            a = parts[0]
            i, j = np.triu_indices(len(a), 1)
            values = relate.all_pairs(self.u[a])[0]
            return values[self.name[a][i] != self.name[a][j]] if one == "compound" else values
        return (self.u[parts[0]] @ self.u[parts[1]].T).ravel()


def neighbours(
    entities: Entities, name: str, top: int = 20, relations: list[Relations] = (), genome: Genome | None = None
) -> list[dict]:
    """The `top` most alike and most opposite genes and compounds together, by distance of the percentile from .5.

    A row has name, kind, dose (that of the neighbour where it is a compound), own_dose (of the compound asked for),
    cosine, percentile (two-sided p below 2 min(q, 1 - q)), known (sources that have the pair) and same_arm.
    Raises UserError for a name that the map has not got.
    """
    rows = entities.find(name)
    kind = entities.kind[rows[0]]
    cosines = entities.u[rows] @ entities.u.T  # [doses, e]
    best = np.abs(cosines).argmax(0)
    value = cosines[best, np.arange(len(best))]
    percentile = np.full(len(value), np.nan)
    for other in ("gene", "compound"):
        here = np.flatnonzero((entities.kind == other) & (entities.name != name))
        if len(here) and len(null := entities.null(kind, other)):
            percentile[here] = relate.percentiles(null, value[here])
    found: dict[str, int] = {}
    for e in np.lexsort([-np.abs(value), -np.abs(percentile - 0.5)]).tolist():
        if math.isfinite(percentile[e]):
            found.setdefault(entities.name[e], e)  # of a compound the dose that is farthest out
    chosen = list(found.values())[:top]
    known = _known(name, relations)
    arm = {}
    if genome is not None:
        genes = np.array([name, *entities.name[chosen]], object)
        arm = dict(zip(genes.tolist(), arm_numbers(genes, genome).tolist()))
    return [
        {
            "name": entities.name[e], "kind": entities.kind[e], "dose": float(entities.dose[e]),
            "own_dose": float(entities.dose[rows[best[e]]]), "cosine": float(value[e]),
            "percentile": float(percentile[e]), "known": known.get(entities.name[e], []),
            "same_arm": ARMS[arm[name]] if arm.get(name, -1) >= 0 and arm.get(entities.name[e]) == arm[name] else "",
        }
        for e in chosen
    ]  # fmt: skip


def _known(name: str, relations: list[Relations]) -> dict[str, list[str]]:
    """Entity -> the sources in which it is related to `name`."""
    found: dict[str, list[str]] = {}
    for one in relations:
        number = np.flatnonzero(one.entities == name)
        if len(number):
            others = np.concatenate([one.second[one.first == number[0]], one.first[one.second == number[0]]])
            for other in one.entities[others].tolist():
                found.setdefault(other, []).append(one.name)
    return found


def dose_response(entities: Entities, name: str, target: str | None = None) -> dict | None:
    """The doses of a compound with their length (distance from the origin, where controls are if these were centred)
    and, of a target, the cosine with it; with Spearman correlations with the dose. None for a gene, and for a compound
    of one dose. Raises UserError for a name that the map has not got."""
    from scipy.stats import spearmanr

    rows = entities.find(name)
    rows = rows[np.argsort(entities.dose[rows])]
    if entities.kind[rows[0]] != "compound" or len(rows) < 2:
        return None
    length = np.linalg.norm(entities.x[rows], axis=1)
    found = {"dose": entities.dose[rows].tolist(), "length": length.tolist()}
    order = lambda y: float(spearmanr(entities.dose[rows], y).statistic) if np.ptp(y) else math.nan  # noqa: E731
    found["length_spearman"] = order(length)
    if target is not None:
        other = entities.find(target)[0]
        cosine = entities.u[rows] @ entities.u[other]
        found |= {"target": target, "cosine": cosine.tolist(), "cosine_spearman": order(cosine)}
    return found


def replicates(found: Map, name: str) -> list[dict]:
    """Of each row of the map with this gene or compound: label, replicates and batches."""
    columns = found.columns
    rows = np.flatnonzero((columns["gene"] == name) | (columns["perturbation"] == name))
    return [
        {
            "row": found.label(int(i)),
            "replicates": int(columns["n_replicates"][i]),
            "batches": int(columns["n_batches"][i]),
        }
        for i in rows
    ]
