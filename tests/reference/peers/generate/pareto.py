"""Writes pareto.npz: what pymoo 0.6.2 makes of random sets of points: called, as its users call it.

python -m venv ENV && ENV/bin/pip install pymoo==0.6.2
cd tests && ENV/bin/python -m reference.peers.generate.pareto

pymoo minimises: it is given the negative of points that are maximised.
"""

import pathlib

import numpy as np

PATH = pathlib.Path(__file__).with_suffix(".npz")
FRONTS, SORTED = 200, 20  # the metrics of the first, the ranks and crowding distances of so many of them


def points(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(points [n, d], a reference front [m, d]), d = 1 to 4; every third set has ties and repeats."""
    random = np.random.default_rng(seed)
    d, n, m = 1 + seed % 4, random.integers(1, 40), random.integers(1, 30)
    found, reference = random.random((n, d)), random.random((m, d)) * 1.2
    if seed % 3 == 0:
        found, reference = found.round(1), reference.round(1)
    return found, reference


def metrics(seed: int) -> list[float]:
    """[hypervolume, IGD+, GD+]"""
    from pymoo.indicators.gd_plus import GDPlus
    from pymoo.indicators.hv import HV
    from pymoo.indicators.igd_plus import IGDPlus

    found, reference = points(seed)
    zero = np.zeros(found.shape[1])
    return [float(HV(ref_point=zero)(-found)), float(IGDPlus(-reference)(-found)), float(GDPlus(-reference)(-found))]


def sort(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(rank of the front of every point, its crowding distance in that front): [n] each."""
    from pymoo.operators.survival.rank_and_crowding.metrics import get_crowding_function
    from pymoo.util.nds.non_dominated_sorting import NonDominatedSorting

    found = -np.random.default_rng(seed).random((30, 1 + seed % 3))
    ranks, crowding = np.empty(len(found), int), np.empty(len(found))
    for rank, rows in enumerate(NonDominatedSorting().do(found)):
        ranks[rows] = rank
        crowding[rows] = get_crowding_function("cd").do(found[rows])
    return ranks, crowding


def main():
    arrays = {"metrics": np.array([metrics(seed) for seed in range(FRONTS)])}
    arrays["ranks"], arrays["crowding"] = map(np.array, zip(*[sort(seed) for seed in range(SORTED)]))
    np.savez_compressed(PATH, **arrays)


if __name__ == "__main__":
    main()
