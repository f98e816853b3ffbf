"""The map of a planted screen finds what was planted, and in a screen without effects nothing but chance."""

import dataclasses

import numpy as np
import pytest
from scipy.stats import kstest

from rxrx_jax import planted_maps
from rxrx_jax.maps import relate, statistics
from rxrx_jax.maps.benchmark import proximity, retrieval, univariate
from rxrx_jax.maps.benchmark.genome import ARMS
from rxrx_jax.maps.build import align
from rxrx_jax.maps.build.aggregate import aggregate
from rxrx_jax.maps.planted import score, wells, world
from rxrx_jax.maps.planted.world import Settings

SMALL = Settings(
    dim=16, biology=12, genes=240, guides=3, complexes=20, largest=6, mean_size=4.0, compounds=12, inert=4, batches=4,
    blocks=2, plates=2, compound_wells=1,
)  # fmt: skip
# Every batch has all genes: where it has some of them, what is left of batches makes guides of a gene alike.
NOTHING = dataclasses.replace(SMALL, batches=2, blocks=1, plates=3).null()
SEEDS = 20
PER_SEED = 10  # p-values that are looked at, as those of one screen share their null


def test_alignment_finds_more_of_what_was_planted():
    found = {(name, how): (marks, row) for name, how, marks, row in score.score(SMALL, ("none", "tvn_shrunk"))}
    assert list(found) == [(name, how) for name in ("none", "tvn_shrunk") for how in score.ARM_CENTRING]
    (unmarked, before), (marked, after) = found["none", "none"], found["tvn_shrunk", "none"]
    assert (unmarked, marked) == ("", "C")
    for name in ("recall_across", "guides", "wells", "targets"):
        assert after[name] > before[name] + 0.01, name
    assert after["probability"] > 0.6 and after["overcorrection"] < 0.02
    centred = found["tvn_shrunk", "shrunk"][1]
    assert 0.5 < centred["probability"] < after["probability"] - 0.03
    assert centred["wells"] == after["wells"] and centred["recall_across"] > 0.2


def test_centring_an_arm_beyond_its_effect_is_told(monkeypatch):
    """Subtracting twice the mean of an arm turns its genes away from each other."""
    truth = world.draw(SMALL)
    given = wells.perturbations(truth)
    noise = np.random.default_rng(0).normal(size=(len(given.gene), SMALL.dim))
    arm = np.repeat(truth.arm, SMALL.guides)
    pushed = noise.copy()
    for a in np.unique(arm):
        rows = np.flatnonzero(arm == a)
        pushed[rows] -= 1.5 * noise[rows].mean(0)
    assert score._map(pushed, truth, given)["overcorrection"] > score._map(noise, truth, given)["overcorrection"] + 0.01


def of_null(name: str, seed: int) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """(what is found of a screen without effects; p-values of it)."""
    settings = dataclasses.replace(NOTHING, seed=seed)
    truth = world.draw(settings)
    given = wells.perturbations(truth)
    screen = wells.simulate(settings, given)
    batch = np.array([f"B{b}" for b in screen.batch], object)
    _, x = align.fit(name, screen.x, batch, screen.is_control)
    treated = ~screen.is_control
    centres, _ = aggregate(x[treated], screen.perturbation[treated])
    found = score._map(centres, truth, given)
    found["wells"] = score._wells(x[treated], screen.perturbation[treated], screen.batch[treated], given, seed)

    guide = treated & (screen.perturbation < settings.genes * settings.guides)
    codes, rng = np.where(guide, screen.perturbation, -1), np.random.default_rng(seed)
    some = rng.choice(settings.genes * settings.guides, PER_SEED, replace=False)
    u, controls = relate.unit(x), np.flatnonzero(screen.is_control)
    drawn = univariate.matched_controls(codes, screen.batch, controls, 2, univariate.NULL_DRAWS, seed)
    consistency = univariate.consistency(u[guide], codes[guide])
    p = {"consistency": statistics.p_values(univariate.null_consistency(u, drawn), consistency[some])}
    queries = np.array([np.flatnonzero(codes == k)[0] for k in some])
    ap, relevant, ranked = retrieval.average_precision(u, codes, screen.batch, queries=queries)
    rows = retrieval.mean_average_precision(ap, relevant, ranked, codes, seed)
    p["retrieval"] = np.array([row["p"] for row in rows])
    genes = centres[: settings.genes * settings.guides].reshape(settings.genes, settings.guides, -1).mean(1)
    p["arms"] = np.array([proximity.per_arm(relate.unit(genes), truth.arm, len(ARMS))[0].p_value])
    return found, p


@pytest.mark.slow
@pytest.mark.parametrize("name", planted_maps.alignments())
def test_without_effects_there_is_chance_and_p_is_uniform(name):
    found, p = zip(*(of_null(name, seed) for seed in range(SEEDS)))
    chance = {"recall_across": 0.1, "probability": 0.5, "guides": 0.0, "wells": 0.0}
    chance["targets"] = np.array([one["targets_chance"] for one in found])
    for metric, expected in chance.items():
        off = np.array([one[metric] for one in found]) - expected
        assert abs(off.mean()) < 3.5 * off.std(ddof=1) / np.sqrt(SEEDS), (metric, off.mean())
    for test in p[0]:
        values = np.concatenate([one[test] for one in p])
        assert np.isfinite(values).all() and kstest(values, "uniform").pvalue > 0.01, test
