"""Recall of known relationships: how many known pairs lie in the tails of the cosines of all pairs.

`all_pairs` is that of EFAAR 1.0, `sampled_0_1` that of EFAAR 0.1, draw by draw. Their nulls differ, so that their
values must not be compared. Chance is lo + 1 - hi.
"""

import math
from collections.abc import Sequence

import numpy as np

from rxrx_jax.maps import relate, statistics
from rxrx_jax.maps.benchmark.relations import Relations

THRESHOLDS = ((0.05, 0.95), (0.1, 0.9))
NULLS = ("all_pairs", "sampled_0_1")
SIDES = {"two": lambda lo, hi: (lo, hi), "right": lambda lo, hi: (0.0, hi), "left": lambda lo, hi: (lo, 1.0)}
LEAST_ENTITIES = 20  # fewer give no recall
SEED, SAMPLES, RUNS = 42, 5000, 3  # of EFAAR 0.1


def edges(n: int, lo: float, hi: float) -> tuple[int, int]:
    """(k, m) so that a query q counts if q < the k-th or q > the m-th smallest of n values (from 0; k = -1 for none,
    m = n for none): rank_right(q) / n <= lo or rank_left(q) / n >= hi, in the arithmetic of floating point."""
    k = min(math.floor(lo * n), n - 1)
    while k + 1 < n and (k + 1) / n <= lo:
        k += 1
    while k >= 0 and k / n > lo:
        k -= 1
    m = min(math.ceil(hi * n), n)
    while m > 0 and (m - 1) / n >= hi:
        m -= 1
    while m < n and m / n < hi:
        m += 1
    return k, m - 1 if m / n >= hi else n


def hits(null: np.ndarray, queries: np.ndarray, thresholds: Sequence[tuple[float, float]]) -> np.ndarray:
    """Whether each query [m] counts at each (lo, hi), bool [m, t]; the null [N] is reordered, not sorted. With lo = 0
    nothing counts as low, with hi = 1 nothing as high."""
    if not len(null):
        return np.zeros((len(queries), len(thresholds)), bool)
    wanted = ranks(len(null), thresholds)
    return beyond(queries, dict(zip(wanted, relate.order_statistics(null, wanted))), len(null), thresholds)


def ranks(n: int, thresholds: Sequence[tuple[float, float]]) -> list[int]:
    """Of which of n values, in order, the `hits` at each (lo, hi) depend on the size."""
    return sorted({min(max(r, 0), n - 1) for pair in thresholds for r in edges(n, *pair)})


def beyond(queries: np.ndarray, value: dict[int, float], n: int, thresholds) -> np.ndarray:
    """The `hits` of queries [m], from the value of each of the `ranks` of a null of n."""
    found = np.zeros((len(queries), len(thresholds)), bool)
    for t, (lo, hi) in enumerate(thresholds if n else ()):
        k, m = edges(n, lo, hi)
        if lo > 0 and k >= 0:
            found[:, t] |= queries < value[k]
        if hi < 1 and m < n:
            found[:, t] |= queries > value[max(m, 0)]
    return found


def all_pairs(
    x: np.ndarray,
    names: np.ndarray,
    relations: Sequence[Relations],
    thresholds: Sequence[tuple[float, float]] = THRESHOLDS,
    side: str = "two",
    seed: int = 0,
    draws: int = statistics.DRAWS,
) -> list[dict]:
    """Recall of EFAAR 1.0, a row per source and threshold.

    Args:
      x: [n, d], one row per entity.
      names: of the entities [n], distinct.
      side: one of SIDES.
      seed, draws: of the bootstrap over entities.

    A row has source, licence, null, side, low, high, pairs, entities, recall (NaN without pairs, or with fewer than
    LEAST_ENTITIES entities in the map), chance, ci_low and ci_high. Raises UserError for a row without direction.
    """
    u = relate.unit(x, lambda i: str(names[i]))
    pairs = [one.among(names) for one in relations]
    i, j = (np.concatenate([pair[k] for pair in pairs] or [np.zeros(0, int)]) for k in (0, 1))
    limits, n = [SIDES[side](*pair) for pair in thresholds], len(u) * (len(u) - 1) // 2
    wanted = ranks(n, limits) if n else []
    values, queries = relate.order_statistics_of_pairs(u, wanted, (i, j))
    found, rows, start = beyond(queries, dict(zip(wanted, values)), n, limits), [], 0
    for one, (a, b) in zip(relations, pairs):
        part = found[start : start + len(a)]
        start += len(a)
        rows += _rows(one, "all_pairs", side, limits, part, a, b, len(u), seed, draws)
    return rows


def _rows(one, null, side, limits, part, a, b, n, seed, draws):
    entities = len(np.unique(np.concatenate([a, b])))
    enough = len(a) and n >= LEAST_ENTITIES and entities >= LEAST_ENTITIES
    nothing = np.full(len(limits), np.nan)
    ends = statistics.bootstrap_pairs(part, a, b, n, seed, draws) if enough and draws else (nothing, nothing)
    for t, (lo, hi) in enumerate(limits):
        yield {
            "source": one.name, "licence": one.licence, "null": null, "side": side, "low": lo, "high": hi,
            "pairs": len(a), "entities": entities, "recall": float(part[:, t].mean()) if enough else math.nan,
            "chance": lo + 1 - hi, "ci_low": float(ends[0][t]), "ci_high": float(ends[1][t]),
        }  # fmt: skip


def sampled_0_1(
    x: np.ndarray,
    names: np.ndarray,
    relations: Sequence[Relations],
    lo: float = 0.05,
    hi: float = 0.95,
    seed: int = 0,
    draws: int = statistics.DRAWS,
) -> list[dict]:
    """Recall of EFAAR 0.1, as its seeds draw it: the null is of 5,000 x 5,000 cosines of entities drawn with
    replacement, less those of an entity with itself; pairs count as often as a file has them; the mean of three runs.

    A row per source, as of `all_pairs`; NaN where fewer than 20 entities are first, or second, in a pair. Args: seed,
    draws, of the bootstrap over entities alone.
    """
    u = relate.unit(x, lambda i: str(names[i]))
    seeds = np.random.RandomState(SEED).randint(2**32, size=2 * RUNS, dtype=np.int64).reshape(RUNS, 2)
    found = {one.name: [] for one in relations}
    asked = {one.name: one.given_among(names) for one in relations}
    usable = {
        name: min(len(np.unique(i)), len(np.unique(j))) >= LEAST_ENTITIES for name, (i, j) in asked.items()
    }  # fmt: skip
    for pair in seeds if any(usable.values()) and len(u) >= LEAST_ENTITIES else ():
        a, b = (np.random.RandomState(seed).choice(len(u), SAMPLES) for seed in pair)
        null = (u[a] @ u[b].T)[a[:, None] != b[None]]
        n = len(null)
        ranks = [min(math.floor(lo * n), n - 1), math.ceil(hi * n) - 1]  # left ranks: q <= the first, q > the second
        low, high = relate.order_statistics(null, ranks)
        for name, (i, j) in asked.items():
            q = relate.of_pairs(u, u, i[i != j], j[i != j])
            found[name].append((q <= low) | (q > high))
    rows = []
    for one in relations:
        i, j = (numbers[asked[one.name][0] != asked[one.name][1]] for numbers in asked[one.name])
        scored = usable[one.name] and bool(found[one.name])
        hit = np.mean(found[one.name], axis=0)[:, None] if scored else np.zeros((0, 1))
        ends = statistics.bootstrap_pairs(hit, i, j, len(u), seed, draws) if scored and draws else ([math.nan],) * 2
        rows.append({
            "source": one.name, "licence": one.licence, "null": "sampled_0_1", "side": "two", "low": lo, "high": hi,
            "pairs": len(i), "entities": len(np.unique(np.concatenate([i, j]))),
            "recall": float(hit.mean()) if scored else math.nan, "chance": lo + 1 - hi,
            "ci_low": float(ends[0][0]), "ci_high": float(ends[1][0]),
        })  # fmt: skip
    return rows
