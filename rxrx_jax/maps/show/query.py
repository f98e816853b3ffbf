"""The neighbours of a gene or compound in one map: genes, and compounds at the dose that is nearest."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from rxrx_jax.base.errors import UserError, shortened
from rxrx_jax.maps import relate
from rxrx_jax.maps.benchmark import univariate
from rxrx_jax.maps.benchmark.genome import ARMS, Genome
from rxrx_jax.maps.benchmark.relations import Relations
from rxrx_jax.maps.build.arms import arm_numbers
from rxrx_jax.maps.folder import Map

SAMPLE = 4_000  # entities at most, drawn with SEED, whose pairs are the null of percentiles
SEED = 0
BLOCK = 256  # rows
KINDS = ("gene", "compound")


class Entities:
    """What a map's folder relates: genes, the mean of their guides, and compounds at each dose.

    name [e]; kind [e], of KINDS; dose [e], micromolar, NaN for genes; x [e, d]; u [e, d], unit rows. The genes come
    first, by name, then the compounds, by name and dose. start [g + 1]: a gene or compound has the rows start[i] to
    start[i + 1]. row_of [n], of each row of map.parquet the row here, -1 for controls.
    """

    def __init__(self, found: Map):
        genes, x, _ = found.genes
        rows, columns = found.compounds(), found.columns
        rows = rows[np.lexsort([columns["concentration_um"][rows], columns["perturbation"][rows].astype(str)])]
        self.name = np.concatenate([genes, columns["perturbation"][rows]]).astype(object)
        self.kind = np.array([KINDS[0]] * len(genes) + [KINDS[1]] * len(rows), object)
        self.dose = np.concatenate([np.full(len(genes), np.nan), columns["concentration_um"][rows]])
        self.x = np.concatenate([x, found.features[rows].astype(np.float64)])
        self.u = relate.unit(self.x, lambda i: str(self.name[i]))
        first = np.ones(len(self.name), bool)
        first[1:] = (self.name[1:] != self.name[:-1]) | (self.kind[1:] != self.kind[:-1])
        self.start = np.append(np.flatnonzero(first), len(self.name))
        number = {name: i for i, name in enumerate(genes.tolist())}
        kinds, names = columns["kind"].tolist(), columns["gene"].tolist()
        self.row_of = np.array([number[g] if kind == "gene" else -1 for kind, g in zip(kinds, names)], np.int64)
        self.row_of[rows] = len(genes) + np.arange(len(rows))
        self._nulls: dict[tuple[str, ...], np.ndarray] = {}

    def one(self, name: str) -> int:
        """The number of a gene or compound. Raises UserError for a name the map has not got, with those that differ in
        case or begin alike."""
        found = np.flatnonzero(self.name[self.start[:-1]] == name)
        if not len(found):
            low = name.lower()
            near = sorted({one for one in self.name.tolist() if one.lower().startswith(low[:3] or " ")})
            near.sort(key=lambda one: (one.lower() != low, not one.lower().startswith(low), one))
            words = f"; did you mean {', '.join(near[:3])}?" if near else ""
            raise UserError(f"{shortened(name)} is not a gene or compound of the map{words}")
        return int(found[0])

    def find(self, name: str) -> np.ndarray:
        """The rows of a gene or of a compound's doses. Raises UserError as `one`."""
        i = self.one(name)
        return np.arange(self.start[i], self.start[i + 1])

    def null(self, one: str, other: str) -> np.ndarray:
        """Cosines of pairs of these two kinds, never of mixed ones, and not of two doses of one compound, sorted."""
        key = tuple(sorted((one, other)))
        if key not in self._nulls:
            self._nulls[key] = np.sort(self._pairs(*key))
        return self._nulls[key]

    def _pairs(self, one: str, other: str) -> np.ndarray:
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


class Nearest(NamedTuple):
    """Of each of m genes or compounds, the `top` that stand farthest out, both ways: own and other [m, top], rows of
    the entities, -1 where there are fewer; cosine and percentile [m, top]."""

    own: np.ndarray
    other: np.ndarray
    cosine: np.ndarray
    percentile: np.ndarray


def nearest(entities: Entities, first: int, last: int, top: int) -> Nearest:
    """The `top` most alike and most opposite genes and compounds together of those numbered from `first` to before
    `last`, by the distance of the percentile from .5, then by |cosine|; of two compounds at the doses that are farthest
    out. The percentile is among pairs of the same two kinds."""
    found = Nearest(*(np.full((last - first, top), value) for value in (-1, -1, np.nan, np.nan)))
    start, begin = entities.start, first
    while begin < last:  # at most BLOCK rows of one kind at a time
        kind = entities.kind[start[begin]]
        end = max(begin + 1, int(np.searchsorted(start, start[begin] + BLOCK, "right")) - 1)
        end = min(end, last, int(np.searchsorted(start, (entities.kind == kind).nonzero()[0][-1] + 1)))
        for i, values in enumerate(_farthest(entities, begin, end, top), begin - first):
            for into, value in zip(found, values):
                into[i, : len(value)] = value
        begin = end
    return found


def _farthest(entities: Entities, begin: int, end: int, top: int) -> Iterator[tuple[np.ndarray, ...]]:
    """(own, other, cosine, percentile), each [at most top], of each from `begin` to before `end`, all of one kind. The
    percentile rises with the cosine, so that only the `top` highest and lowest of a kind need one."""
    start, e = entities.start, len(entities.u)
    rows, kind = slice(start[begin], start[end]), entities.kind[start[begin]]
    cosines = entities.u[rows] @ entities.u.T  # [rows, e]
    kinds = entities.kind[start[:-1]]
    parts = []
    for other in KINDS:
        ones = np.flatnonzero(kinds == other)
        if not len(ones) or not len(null := entities.null(kind, other)):
            continue
        columns = np.arange(start[ones[0]], start[ones[-1] + 1])
        at = np.arange(rows.start, rows.stop)[:, None] * e + columns  # of which pair a cosine is
        for sign in (1, -1):
            best, pair = _largest(sign * cosines[:, columns], at, start[ones] - columns[0], 1)
            best, pair = _largest(best, pair, start[begin:end] - rows.start, 0)
            if kind == other:
                best[np.arange(end - begin), np.arange(begin, end) - ones[0]] = -np.inf  # itself
            chosen = np.argpartition(-best, min(top, len(ones)) - 1, axis=1)[:, :top]
            value, pair = (np.take_along_axis(one, chosen, 1) for one in (sign * best, pair))
            parts.append((ones[chosen], pair, value, relate.percentiles_of_sorted(null, value)))
    if not parts:
        return
    of, pair, value, percentile = (np.concatenate(one, 1) for one in zip(*parts))
    order = np.lexsort((-np.abs(value), -np.abs(percentile - 0.5)))
    for i in range(end - begin):
        row = order[i][np.isfinite(value[i, order[i]])]
        row = row[np.sort(np.unique(of[i, row], return_index=True)[1])][:top]  # each once, where it is farthest out
        yield *np.divmod(pair[i, row], e), value[i, row], percentile[i, row]


def _largest(values: np.ndarray, at: np.ndarray, start: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """(the largest of each part of `values` along an axis, its `at`). Args: start, where the parts begin."""
    if len(start) == values.shape[axis]:
        return values, at
    most = np.maximum.reduceat(values, start, axis)
    spread = np.repeat(most, np.diff(start, append=values.shape[axis]), axis)
    return most, np.maximum.reduceat(np.where(values == spread, at, -1), start, axis)


def neighbours(
    entities: Entities, name: str, top: int = 20, relations: list[Relations] = (), genome: Genome | None = None
) -> list[dict]:
    """The rows of `nearest` for one name.

    A row has name, kind, dose (that of the neighbour where it is a compound), own_dose (of the compound asked for),
    cosine, percentile (two-sided p below 2 min(q, 1 - q)), known (sources that have the pair) and same_arm.
    Raises UserError for a name that the map has not got.
    """
    i = entities.one(name)
    own, chosen, value, percentile = (one[0] for one in nearest(entities, i, i + 1, top))
    known = _known(name, relations)
    arm = {}
    if genome is not None:
        genes = np.array([name, *entities.name[chosen[chosen >= 0]]], object)
        arm = dict(zip(genes.tolist(), arm_numbers(genes, genome).tolist()))
    return [
        {
            "name": entities.name[e], "kind": entities.kind[e], "dose": float(entities.dose[e]),
            "own_dose": float(entities.dose[own[k]]), "cosine": float(value[k]), "percentile": float(percentile[k]),
            "known": known.get(entities.name[e], []),
            "same_arm": ARMS[arm[name]] if arm.get(name, -1) >= 0 and arm.get(entities.name[e]) == arm[name] else "",
        }
        for k, e in enumerate(chosen.tolist()) if e >= 0
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
    rows = entities.find(name)
    rows = rows[np.argsort(entities.dose[rows])]
    if entities.kind[rows[0]] != "compound" or len(rows) < 2:
        return None
    length = np.linalg.norm(entities.x[rows], axis=1)
    found = {"dose": entities.dose[rows].tolist(), "length": length.tolist()}
    found["length_spearman"] = _order(entities.dose[rows], length)
    if target is not None:
        other = entities.find(target)[0]
        cosine = entities.u[rows] @ entities.u[other]
        found |= {"target": target, "cosine": cosine.tolist(), "cosine_spearman": _order(entities.dose[rows], cosine)}
    return found


def with_magnitude(found: Map, name: str, curve: dict) -> dict:
    """The `dose_response` of a compound, and of each dose the energy distance of its wells from control wells
    (`univariate.magnitude`, NaN for fewer than five) with its Spearman correlation. As it is where the map has no
    controls, or no dose has five wells."""
    columns = found.columns
    rows = np.flatnonzero((columns["kind"] == "compound") & (columns["perturbation"] == name))
    rows = rows[np.argsort(columns["concentration_um"][rows])]
    of, x, _ = found.replicates
    controls, treated = np.flatnonzero(of["is_control"] > 0), np.flatnonzero(of["is_control"] == 0)
    codes = np.full(len(x), -1)
    number = {row: k for k, row in enumerate(rows.tolist())}
    codes[treated] = [number.get(row, -1) for row in of["map_row"][treated].tolist()]
    if len(controls) < 2 or np.bincount(codes[codes >= 0]).max() < univariate.LEAST["magnitude"]:
        return curve
    value = univariate.magnitude(x, codes, univariate.Reference(x, controls, SEED))
    there = np.isfinite(value)
    order = _order(columns["concentration_um"][rows][there], value[there])
    return curve | {"magnitude": value.tolist(), "magnitude_spearman": order}


def _order(dose: np.ndarray, y: np.ndarray) -> float:
    """Spearman's correlation of y [n] with the dose, NaN of constant ones."""
    from scipy.stats import spearmanr

    return float(spearmanr(dose, y).statistic) if np.ptp(y) else math.nan


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
