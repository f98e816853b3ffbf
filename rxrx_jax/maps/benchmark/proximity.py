"""Proximity bias: knockouts of neighbouring genes resemble each other because Cas9 truncates the chromosome arm (Lazar
et al. 2023, bioRxiv 2023.04.15.537038). How strong it is, and arm centring.

The probability is Brunner and Munzel's that two genes of one arm are more alike than two of different arms; .5 is
unbiased. Every pair is counted once, and the other arms are really the others. Published variants, by name: in
`per_arm`, pairs between arms counted from both sides for the whole genome; in `per_gene`, each gene compared with the
whole map, itself and its arm included.
"""

import concurrent.futures
import threading

import numpy as np

from rxrx_jax.base.command import cores
from rxrx_jax.maps import relate
from rxrx_jax.maps.statistics import Ranked, brunner_munzel, compare, counts_below

LEAST_PAIRS = 21  # within and between, for a statistic of an arm: more than 20, as published
LEAST_GENES = 5  # on an arm that is centred, shrunk
PUBLISHED_GENES = 20  # and as published: strictly more
THREADS = 4  # at most; each sorts a block of cosines, 70 MB for 17,000 genes, and sorting takes most of the time


class _Counts:
    """The pairs within arms, sorted, and how many pairs between arms are below each."""

    def __init__(self, within: np.ndarray):
        self.values, self.times = np.unique(within, return_counts=True)
        self.below, self.upto, self.n = np.zeros(len(self.values), np.int64), np.zeros(len(self.values), np.int64), 0
        self.lock = threading.Lock()

    def add(self, between: np.ndarray) -> None:
        """Args: between [m], sorted."""
        below, upto = counts_below(self.values, between)
        with self.lock:
            self.below += below
            self.upto += upto
            self.n += len(between)

    def result(self) -> Ranked:
        return brunner_munzel(self.values, self.times, self.below, self.upto, self.n)


def per_arm(u: np.ndarray, arm: np.ndarray, arms: int, published: bool = False) -> tuple[Ranked, list[Ranked | None]]:
    """(of the genome, of each arm [arms]; None with 20 pairs or fewer within or between).

    Args: u [n, d], unit rows; arm [n], numbers below `arms`; published: the genome's pairs between arms counted twice.
    """
    order = np.argsort(arm, kind="stable")
    u, arm = u[order], arm[order]
    edges = np.searchsorted(arm, np.arange(arms + 1))
    within = []
    for a in range(arms):
        part = u[edges[a] : edges[a + 1]]
        within.append((part @ part.T)[np.triu_indices(len(part), 1)])
    whole = _Counts(np.concatenate(within))

    def of_arm(a: int) -> Ranked | None:
        one = _Counts(within[a])
        mine, rest = u[edges[a] : edges[a + 1]], np.concatenate([u[: edges[a]], u[edges[a + 1] :]])
        later = edges[a]  # rest[later:] are of arms behind this one, so that they meet each pair once
        for _, part in relate.blocks(mine, rest):
            earlier, second = part[:, :later].ravel(), part[:, later:].ravel()
            for between in (earlier, second):
                between.sort()
                one.add(between)
            whole.add(second)
            if published:
                whole.add(earlier)
        return one.result() if min(len(within[a]), one.n) >= LEAST_PAIRS else None

    with _threads() as threads:
        found = list(threads.map(of_arm, range(arms)))
    return whole.result(), found


def _threads() -> concurrent.futures.ThreadPoolExecutor:
    return concurrent.futures.ThreadPoolExecutor(min(len(cores()), THREADS))


def per_gene(u: np.ndarray, arm: np.ndarray, least: int = 20, published: bool = False) -> np.ndarray:
    """The probability of each gene [n], from its cosines with its arm's other genes and with those of all other arms;
    NaN on arms of fewer than `least` genes. Args: u [n, d], unit rows; arm [n], numbers."""
    found = np.full(len(u), np.nan)
    counts = np.bincount(arm)
    rows = np.flatnonzero(counts[arm] >= least)

    def of_block(start: int) -> None:
        chosen = rows[start : start + relate.BLOCK]
        for i, cosines in zip(chosen, u[chosen] @ u.T):
            same = arm == arm[i]
            others = cosines if published else cosines[~same]
            same[i] = False
            if len(others) > 1:
                found[i] = compare(cosines[same], others).probability

    with _threads() as threads:
        list(threads.map(of_block, range(0, len(rows), relate.BLOCK)))
    return found


def along_arm(probability: np.ndarray, position: np.ndarray, is_long: bool) -> tuple[float, float]:
    """(Spearman correlation, p) of probabilities [g] with the rank from centromere to telomere, NaN for fewer than
    three. Args: position [g], base pairs; is_long: the arm is q, whose telomere is at its end."""
    from scipy.stats import spearmanr

    kept = np.isfinite(probability)
    if kept.sum() < 3:
        return float("nan"), float("nan")
    rank = np.argsort(np.argsort(position[kept] if is_long else -position[kept], kind="stable"), kind="stable")
    result = spearmanr(rank, probability[kept])
    return float(result.statistic), float(result.pvalue)


def centre_arms(
    x: np.ndarray, arm: np.ndarray, arms: int, unexpressed: np.ndarray, how: str = "shrunk"
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(x [n, d] with arms centred, float64; c of each arm [arms], 0 where left alone; genes it is from [arms]).

    Args: x [n, d]; arm [n], numbers below `arms`, -1 for genes of none; unexpressed bool [n], the genes that means are
      of, whose knockout should do nothing but truncate; how, "published" or "shrunk".

    "published" subtracts the mean of the arm's unexpressed genes, where there are more than 20, from all of the arm's
    genes. "shrunk" subtracts c (m_arm - m_all), c = max(0, 1 - sqrt(s / |m_arm - m_all|^2)), where s = the variance of
    the unexpressed genes within the arm over their number is what |m_arm - m_all|^2 would be of noise; at least five.
    """
    if how not in ("published", "shrunk"):
        raise ValueError(f"how={how!r}: expected published or shrunk")
    x = np.array(x, np.float64)
    used = unexpressed & (arm >= 0)
    genes = np.bincount(arm[used], minlength=arms)
    factor = np.zeros(arms)
    centre = x[used].mean(0) if used.any() else np.zeros(x.shape[1])
    offsets = []
    for a in range(arms):
        part = x[used & (arm == a)]
        if how == "published":
            factor[a] = float(len(part) > PUBLISHED_GENES)
            offsets.append(part.mean(0) if factor[a] else centre)
        elif len(part) >= LEAST_GENES:
            offset = part.mean(0) - centre
            noise = np.square(part - part.mean(0)).sum() / (len(part) - 1) / len(part)
            factor[a] = max(0.0, 1 - np.sqrt(noise / max(offset @ offset, np.finfo(float).tiny)))
            offsets.append(offset)
        else:
            offsets.append(centre)
    for a in np.flatnonzero(factor):
        x[arm == a] -= factor[a] * offsets[a]
    return x, factor, genes
