"""What the intervals of rxrx_jax.evaluate.intervals cover, simulated at the sizes of the tables.

    python benchmarks/evaluation/coverage.py --out=docs/coverage.json        # a minute on one core

Accuracies are drawn about their cell types' means, whose distance is that of the experiments' deviations or up to three
times it, with equal deviations or with such that double from the first cell type to the last, or halve. Worlds differ
with the intraclass correlation that the demo's rows have (median .21). For comparison: what others would print.
"""

import argparse
import json
import pathlib

import numpy as np

from rxrx_jax.evaluate import intervals

SIZES = ((7, 3, 3, 1), (2, 2, 2))  # held-out experiments of each cell type: WILDS RxRx1, and a small screen
ICC = 0.21
SPREADS = {"equal": (1.0, 1.0), "rising": (1.0, 2.0), "falling": (2.0, 1.0)}  # deviations, first to last cell type
WITHIN = (0.93, 0.97)


def strata_coverage(sizes, effect: float, spread: str, draws: int, rng) -> dict[str, float]:
    """The share of `draws` datasets whose interval holds the mean; effect: of the last cell type, in deviations."""
    group = np.repeat(np.arange(len(sizes)), sizes)
    means = np.linspace(0, effect, len(sizes))[group]
    deviations = np.linspace(*SPREADS[spread], len(sizes))[group]
    strata = {f"{g}-{i}": str(g) for i, g in enumerate(group)}
    values = means + deviations * rng.normal(size=(draws, len(group)))
    stratified = (intervals.over_experiments(dict(zip(strata, row)), strata) for row in values)
    return {
        "printed": covered(stratified, means.mean()),
        "percentile bootstrap within cell types": bootstrap(values, sizes, means.mean(), rng),
        "t, cell types as one": covered(map(intervals.over_units, values), means.mean()),
    }


def worlds_coverage(worlds: int, experiments: int, draws: int, rng) -> dict[str, float]:
    """The same for worlds of `experiments` each, whose means differ with the intraclass correlation ICC."""
    between = np.sqrt(ICC) * rng.normal(size=(draws, worlds, 1))
    values = between + np.sqrt(1 - ICC) * rng.normal(size=(draws, worlds, experiments))
    names = [f"A-{i}" for i in range(experiments)]
    strata = dict.fromkeys(names, "A")
    over = (intervals.over_worlds([dict(zip(names, world)) for world in draw], strata) for draw in values)
    pooled = map(intervals.over_units, values.reshape(draws, -1))
    return {"printed": covered(over, 0), "t, experiments of all worlds as one": covered(pooled, 0)}


def covered(found, truth: float) -> float:
    return float(np.mean([interval.low <= truth <= interval.high for interval in found]))


def bootstrap(values: np.ndarray, sizes, truth: float, rng, resamples: int = 400) -> float:
    """The percentile bootstrap over the experiments of each cell type."""
    start = np.repeat(np.cumsum((0, *sizes[:-1])), sizes)
    size, hits = np.repeat(sizes, sizes), 0
    for row in values:
        drawn = row[start + rng.integers(size, size=(resamples, len(row)))].mean(1)
        low, high = np.quantile(drawn, (0.025, 0.975))
        hits += low <= truth <= high
    return hits / len(values)


def simulate(draws: int, seed: int = 0) -> list[dict]:
    """One entry a case, each with a generator of its own."""
    found = []
    for sizes in SIZES:
        for effect in (1.0, 3.0):
            for spread in SPREADS:
                case = f"one dataset, experiments {'/'.join(map(str, sizes))}, cell types {effect:g} apart, {spread}"
                found.append(
                    {"case": case} | strata_coverage(sizes, effect, spread, draws, generator(seed, len(found)))
                )
    for worlds in (3, intervals.ENOUGH_WORLDS):
        case = f"{worlds} worlds of 4 experiments, intraclass correlation {ICC}"
        found.append({"case": case} | worlds_coverage(worlds, 4, draws, generator(seed, len(found))))
    return [{k: round(v, 3) if isinstance(v, float) else v for k, v in entry.items()} for entry in found]


def generator(seed: int, case: int) -> np.random.Generator:
    return np.random.default_rng((seed, case))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("--draws", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    cases = simulate(arguments.draws, arguments.seed)
    outside = [f"{c['case']}: {c['printed']}" for c in cases if not WITHIN[0] <= c["printed"] <= WITHIN[1]]
    error = round(1.96 * np.sqrt(0.95 * 0.05 / arguments.draws), 4)
    text = json.dumps(
        {
            "level": 0.95, "draws": arguments.draws, "seed": arguments.seed, "simulation_error": error,
            "cases": cases, "outside": outside,
        },
        indent=1,
    )  # fmt: skip
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
