"""Retrieval: whether the profiles that belong together are each other's nearest neighbours.

Average precision of each profile's ranking, as copairs defines it (Kalinin et al. 2025, Nature Communications 16,
5181): those of its group are relevant, others are not, nearest first by cosine. Its expectation under a random order is
known, so that (AP - E) / (1 - E) is 0 for chance. Equal cosines share their precision: it is the mean over their
orders, where copairs takes the order of rows.
"""

import functools
import itertools
import math

import numpy as np

from rxrx_jax.maps import relate, statistics

EXACT = 10_000  # combinations that are enumerated; more are drawn
DRAWS = 10_000


def average_precision(
    u: np.ndarray,
    group: np.ndarray,
    apart: np.ndarray | None = None,
    against: np.ndarray | None = None,
    queries: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(average precision [n], relevant [n], ranked [n]) of each profile; NaN where nothing is relevant, or all is.

    Args:
      u: [n, d], unit rows.
      group: [n], numbers; -1 for profiles that only others are ranked against.
      apart: [n], numbers: only profiles of another one are ranked, such as of another batch; None for all.
      against: bool [n], the profiles that are relevant to none; None for all of other groups.
      queries: numbers of the profiles that are asked for; None for all of a group.
    """
    n = len(u)
    ap, relevant, ranked = np.full(n, np.nan), np.zeros(n, np.int64), np.zeros(n, np.int64)
    queries = np.flatnonzero(group >= 0) if queries is None else queries
    queries = queries[np.argsort(group[queries], kind="stable")]
    others = None if against is None else np.flatnonzero(against)
    for part in _parts(queries, group, others is not None):
        mine = np.flatnonzero(group == group[part[0]]) if others is not None else None
        among = np.arange(n) if others is None else np.union1d(mine, others)
        for i, row in zip(part, u[part] @ u[among].T):
            same = group[among] == group[i]
            use = among != i if apart is None else (among != i) & (apart[among] != apart[i])
            hits, rest = row[use & same], row[use & ~same]
            relevant[i], ranked[i] = len(hits), len(hits) + len(rest)
            if len(hits) and len(rest):
                ap[i] = of_scores(hits, rest)
    return ap, relevant, ranked


def average_precision_by_label(
    u: np.ndarray, labels: np.ndarray, apart: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(label [q], average precision [q], relevant [q], ranked [q]), one for each label of each profile, in the order of
    profiles; NaN as in `average_precision`.

    Of a profile and one of its labels those with the same label are relevant, and those are ranked beside them that
    share none of its labels, as copairs does for profiles of several labels, such as compounds of several targets.

    Args:
      u: [n, d], unit rows.
      labels: bool [n, labels]; profiles without any are only ranked.
      apart: [n], numbers: only profiles of another one are ranked, such as of another compound.
    """
    profile, label = np.nonzero(labels)
    counted = labels.astype(np.float32)
    ap, relevant, ranked = np.full(len(label), np.nan), np.zeros(len(label), np.int64), np.zeros(len(label), np.int64)
    asked = np.unique(profile)
    for start in range(0, len(asked), relate.BLOCK):
        part = asked[start : start + relate.BLOCK]
        shared = counted[part] @ counted.T > 0
        for i, row, alike in zip(part, u[part] @ u.T, shared):
            others = apart != apart[i]
            rest = row[others & ~alike]
            for k in range(*np.searchsorted(profile, (i, i + 1))):
                hits = row[others & labels[:, label[k]]]
                relevant[k], ranked[k] = len(hits), len(hits) + len(rest)
                if len(hits) and len(rest):
                    ap[k] = of_scores(hits, rest)
    return label, ap, relevant, ranked


def _parts(queries: np.ndarray, group: np.ndarray, by_group: bool):
    """Queries, sorted by group, in parts of a block, or of a group each."""
    if by_group and len(queries):
        return np.split(queries, np.flatnonzero(np.diff(group[queries])) + 1)
    return [queries[k : k + relate.BLOCK] for k in range(0, len(queries), relate.BLOCK)]


def of_scores(hits: np.ndarray, rest: np.ndarray) -> float:
    """Average precision of relevant scores among others; without sorting where few are relevant and none equal."""
    if len(hits) > 16:
        return tied_average_precision(np.concatenate([hits, rest]), np.arange(len(hits) + len(rest)) < len(hits))
    hits = np.sort(hits)[::-1]
    above, upto = (rest > hits[:, None]).sum(1), (rest >= hits[:, None]).sum(1)
    if (above != upto).any():
        return tied_average_precision(np.concatenate([hits, rest]), np.arange(len(hits) + len(rest)) < len(hits))
    place = np.arange(1, len(hits) + 1)
    return float((place / (place + above)).mean())


def tied_average_precision(score: np.ndarray, hit: np.ndarray) -> float:
    """Average precision of scores [m], the highest first, of which `hit` bool [m] are relevant: the mean over all
    orders of equal scores. Of a block of t equal ones with r relevant, after R relevant among B, that is
    r / t sum over its places k of (R + 1 + (k - 1) (r - 1) / (t - 1)) / (B + k)."""
    order = np.argsort(-score, kind="stable")
    score, hit = score[order], hit[order]
    if not (score[1:] == score[:-1]).any():
        place = np.flatnonzero(hit)
        return float((np.arange(1, len(place) + 1) / (place + 1)).mean())
    first = np.flatnonzero(np.concatenate([[True], score[1:] != score[:-1]]))
    size = np.diff(np.append(first, len(score)))
    inside = np.add.reduceat(hit.astype(float), first)
    before = np.cumsum(inside) - inside
    block = np.repeat(np.arange(len(first)), size)
    k = np.arange(len(score)) - first[block]  # from 0
    share = np.where(size > 1, (inside - 1) / np.maximum(size - 1, 1), 0)[block]
    precision = (before[block] + 1 + k * share) / (np.arange(len(score)) + 1)
    return float((inside / size)[block] @ precision / hit.sum())


def expected(relevant: np.ndarray, ranked: np.ndarray) -> np.ndarray:
    """The mean average precision of a random order of L profiles with M relevant [n]:
    ((M - 1) (L - H_L) / (L - 1) + H_L) / L, with H the harmonic numbers (Bestgen 2015, PBML 103, 109-128)."""
    most = int(ranked.max(initial=0))
    harmonic = np.concatenate([[0], np.cumsum(1 / np.arange(1, most + 1))])[ranked]
    size = np.maximum(ranked, 2)
    return ((relevant - 1) / (size - 1) * (ranked - harmonic) + harmonic) / np.maximum(ranked, 1)


def normalised(ap: np.ndarray, relevant: np.ndarray, ranked: np.ndarray) -> np.ndarray:
    """(AP - E) / (1 - E) [n]: 1 is perfect, 0 what a random order gives."""
    chance = expected(relevant, ranked)
    return (ap - chance) / np.where(chance < 1, 1 - chance, np.nan)


@functools.lru_cache(4096)
def null(relevant: int, ranked: int, seed: int) -> tuple[np.ndarray, bool]:
    """(average precisions of random orders, whether they are all there are): every choice of the relevant places where
    these are at most EXACT, else DRAWS drawn ones."""
    exact = math.comb(ranked, relevant) <= EXACT
    if exact:
        places = np.array(list(itertools.combinations(range(ranked), relevant)))
    else:
        rng = np.random.default_rng([seed, relevant, ranked])
        places = statistics.distinct(rng, ranked, relevant, DRAWS)
    return (np.arange(1, relevant + 1) / (places + 1)).mean(1), exact


def mean_average_precision(
    ap: np.ndarray, relevant: np.ndarray, ranked: np.ndarray, group: np.ndarray, seed: int = 0
) -> list[dict]:
    """A row per group with a profile that has an average precision: group, profiles, mAP, normalised, p.

    p is of the mean of as many independent random orders: exact for one profile with few combinations, else
    (1 + #{null >= mAP}) / (1 + DRAWS). Args: of `average_precision`.
    """
    rows, chance = [], normalised(ap, relevant, ranked)
    known = np.flatnonzero(np.isfinite(ap) & (group >= 0))
    known = known[np.argsort(group[known], kind="stable")]
    means: dict[tuple, tuple[np.ndarray, bool]] = {}
    for here in np.split(known, np.flatnonzero(np.diff(group[known])) + 1) if len(known) else ():
        value = float(ap[here].mean())
        sizes = tuple(sorted(zip(relevant[here].tolist(), ranked[here].tolist())))
        if sizes not in means:
            means[sizes] = _null_of_mean(sizes, seed)
        null_means, exact = means[sizes]
        near = value - 1e-12 * max(value, 1)  # equal sums may differ in rounding
        beyond = len(null_means) - int(np.searchsorted(null_means, near))
        p = beyond / len(null_means) if exact else (1 + beyond) / (1 + len(null_means))
        rows.append({"group": int(group[here[0]]), "profiles": len(here), "map": value,
                     "normalised": float(chance[here].mean()), "p": p})  # fmt: skip
    for row, adjusted in zip(rows, statistics.false_discovery(np.array([row["p"] for row in rows])) if rows else ()):
        row["fdr"] = float(adjusted)
    return rows


def _null_of_mean(sizes: tuple, seed: int) -> tuple[np.ndarray, bool]:
    """(sorted means of one average precision of each size, whether they are all there are)."""
    nulls = [null(*one, seed) for one in sizes]
    if len(sizes) == 1 and nulls[0][1]:
        return np.sort(nulls[0][0]), True
    rng = np.random.default_rng([seed, len(sizes)])
    return np.sort(sum(one[rng.integers(len(one), size=DRAWS)] for one, _ in nulls) / len(sizes)), False
