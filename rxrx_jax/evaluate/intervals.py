"""Confidence intervals of accuracies: which unit varies, how it is pooled, and a description in words.

The images of one experiment share its batch effect, and the experiments of one simulated world share its treatments and
plates (intraclass correlation of the demo's rows: median .21). So the unit of one dataset is the experiment, within its
cell type, and the unit of several worlds is the world. `benchmarks/evaluation/coverage.py` simulates what these
intervals cover.
"""

import dataclasses
import math
import warnings
from collections.abc import Mapping, Sequence

import numpy as np

ENOUGH_WORLDS = 5  # for a table
OWN_VARIANCE = 3  # experiments per cell type
EXACT = 20  # units up to which all 2^n flips of signs are counted
DRAWS = 100_000  # of them that are drawn beyond


@dataclasses.dataclass(frozen=True)
class Interval:
    """mean; low and high, nan where undefined; how, its construction in words."""

    mean: float
    low: float
    high: float
    how: str


def over_units(values: Sequence[float], level: float = 0.95, unit: str = "experiments") -> Interval:
    """Student's t interval of the mean of independent values [n]: mean -+ t(n - 1) s / sqrt(n)."""
    values = np.asarray(values, float)
    how = f"t over {len(values)} {unit}"
    if len(values) < 2:
        return Interval(float(values.mean()) if len(values) else math.nan, math.nan, math.nan, how)
    return _interval(values.mean(), values.var(ddof=1) / len(values), len(values) - 1, level, how)


def over_experiments(values: Mapping[str, float], strata: Mapping[str, str], level: float = 0.95) -> Interval:
    """The t interval of the mean over the experiments of one dataset, stratified by cell type.

    The mean is over all n experiments, so that a cell type weighs as much as it has experiments; what separates cell
    types widens nothing. With s_h^2 the variance of the n_h experiments of cell type h about their mean, and
    s^2 = sum (n_h - 1) s_h^2 / sum (n_h - 1) pooled over all cell types, the variance of the mean is

        V = (sum over n_h >= 3 of n_h s_h^2 + m s^2) / n^2,    m experiments in cell types of one or two,

    and its degrees of freedom are those of Welch and Satterthwaite (Satterthwaite 1946, Biometrics Bulletin 2, 110):
    V^2 / sum of (term of V)^2 / (n_h - 1), for the term of s^2 with sum (n_h - 1) in its place. Cell types of one or
    two determine their own variance too poorly: at 2/2/2, Welch's interval covers .98. Where no cell type has two
    experiments, all are one stratum.

    Args:
      values: experiment -> accuracy.
      strata: experiment -> cell type.
      level: of confidence.
    """
    groups: dict[str, list[float]] = {}
    for name, value in values.items():
        groups.setdefault(strata[name], []).append(value)
    n, freedom = len(values), len(values) - len(groups)
    if len(groups) < 2 or freedom < 1:
        found = over_units(list(values.values()), level)
        as_one = f", the {len(groups)} cell types as one" if len(groups) > 1 else ""
        return dataclasses.replace(found, how=found.how + as_one)
    variance = {name: float(np.var(g, ddof=1)) for name, g in groups.items() if len(g) > 1}
    pooled = sum((len(groups[name]) - 1) * v for name, v in variance.items()) / freedom
    small = sorted(name for name, g in groups.items() if len(g) < OWN_VARIANCE)
    terms = [(len(g) * variance[name], len(g) - 1) for name, g in groups.items() if name not in small]
    if small:
        terms.append((sum(len(groups[name]) for name in small) * pooled, freedom))
    total = sum(term for term, _ in terms)
    squares = sum(term**2 / nu for term, nu in terms)
    sizes = "/".join(str(len(g)) for g in sorted(groups.values(), key=len, reverse=True))
    said = f"; {', '.join(small)}: fewer than {OWN_VARIANCE}, with the pooled variance" if small else ""
    how = f"t over {n} experiments within {len(groups)} cell types ({sizes}{said})"
    mean = np.mean(list(values.values()))
    return _interval(mean, total / n**2, total**2 / squares if squares else freedom, level, how)


def over_worlds(
    worlds: Sequence[Mapping[str, float]],
    strata: Mapping[str, str],
    means: Sequence[float] = (),
    level: float = 0.95,
    unit: str = "worlds",
) -> Interval:
    """Several worlds: t over their means. One world: its experiments, which say nothing about other worlds.

    Args:
      worlds: for each world experiment -> value: an accuracy, or a difference of two methods there.
      strata: experiment -> cell type.
      means: of the worlds, where they are not those of the experiments.
      level: of confidence.
      unit: what they are, if not worlds: folds of one dataset, each held out once.
    """
    if len(worlds) == 1 and worlds[0]:
        return over_experiments(worlds[0], strata, level)
    means = means or [float(np.mean(list(world.values()))) for world in worlds]
    return over_units(means, level, unit)


def paired(ours: Mapping[str, float], theirs: Mapping[str, float]) -> dict[str, float]:
    """experiment -> difference of two methods' values. Raises ValueError unless both have the same experiments."""
    if ours.keys() != theirs.keys():
        raise ValueError(f"experiments differ: {', '.join(sorted(ours.keys() ^ theirs.keys()))}")
    return {name: value - theirs[name] for name, value in ours.items()}


def sign_flip(differences: Sequence[float], unit: str = "experiments") -> tuple[float, str]:
    """The two-sided p of a mean difference of two methods, and how it was found in words: the share of all flips of the
    signs of `differences` [n], one for each unit, whose mean is as far from 0, because without a difference of the
    methods each could as well have the other sign (Fisher 1935, The Design of Experiments, section 21). Beyond EXACT
    units it is over DRAWS flips from a fixed seed, (b + 1) / (m + 1) (Phipson & Smyth 2010, SAGMB 9, 39). nan and ""
    for fewer than two units."""
    values = np.asarray(differences, float)
    n = len(values)
    if n < 2:
        return math.nan, ""
    least = abs(values.sum()) - 1e-9 * np.abs(values).sum()  # sums in another order differ in their last digits
    if n > EXACT:
        signs = np.random.default_rng(0).integers(0, 2, (DRAWS, n)) * 2 - 1
        extreme = int((np.abs(signs @ values) >= least).sum())
        return (extreme + 1) / (DRAWS + 1), f"sign-flip test over {n} {unit}, {DRAWS:,} draws"
    sums = values[:1]  # the other sign of the first one gives the same sums with the other sign
    for value in values[1:]:
        sums = np.concatenate([sums + value, sums - value])
    return float((np.abs(sums) >= least).mean()), f"exact sign-flip test over {n} {unit}"


def t_test(differences: Sequence[float], unit: str = "worlds") -> tuple[float, str]:
    """The two-sided p of Student's t test that the mean of differences [n] is 0, and how it was found in words. nan and
    "" for fewer than two, and where all are 0."""
    values = np.asarray(differences, float)
    n = len(values)
    if n < 2 or not values.any():
        return math.nan, ""
    from scipy.stats import ttest_1samp  # takes a second to import

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of differences that are all equal: its p is 0
        return float(ttest_1samp(values, 0).pvalue), f"t test over {n} {unit}"


def clipped(interval: Interval) -> Interval:
    """The interval of an accuracy, within [0, 1]."""
    low, high = (min(1.0, max(0.0, x)) if math.isfinite(x) else x for x in (interval.low, interval.high))
    return dataclasses.replace(interval, low=low, high=high)


def _interval(mean: float, variance: float, freedom: float, level: float, how: str) -> Interval:
    from scipy.special import stdtrit  # as in accuracy.py

    half = float(stdtrit(freedom, 0.5 + level / 2)) * math.sqrt(variance)
    return Interval(float(mean), float(mean - half), float(mean + half), how)
