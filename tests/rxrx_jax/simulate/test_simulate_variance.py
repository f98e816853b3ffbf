"""Shares of variance: the estimator on data whose components are known, and the simulated screen."""

import numpy as np
import pytest

from rxrx_jax.simulate.screen import Screen, sites
from rxrx_jax.simulate.variance import KEYS, components, main, shares

TRUE = {"cell_type": 0.0, "experiment": 4.0, "plate": 1.0, "perturbation": 2.0, "well": 0.5, "site": 1.5}


def test_components_are_recovered_from_an_unbalanced_design():
    screen = Screen(
        train=tuple(f"SIMA-{i:02d}" for i in range(1, 61)), val=(), test=(), cell_types=("SIMA",),
        treatments=120, replicates=2, positive_controls=2, untreated_wells=7,
    )  # fmt: skip
    rng = np.random.default_rng(0)
    rows = [row for row in sites(screen) if rng.random() < 0.8]
    pixels, values, levels = 16, np.zeros((len(rows), 3)), {}
    for factor, variance in TRUE.items():
        names = np.array(["/".join(str(row[key]) for key in KEYS[factor]) for row in rows])
        if factor != "cell_type":
            levels[factor] = np.unique(names, return_inverse=True)[1]
            effects = rng.normal(0, np.sqrt(variance), (levels[factor].max() + 1, 3))
            values += effects[levels[factor]]
    y = 20 + values[:, None] + rng.normal(0, 3.0, (len(rows), pixels, 3))
    found = components(levels, y.sum(1), (y**2).sum(1), pixels).mean(1)
    expected = [4.0, 1.0, 2.0, 0.5, 1.5, 9.0]
    np.testing.assert_allclose(found, expected, rtol=0.2)


def test_constant_effects_have_no_variance():
    levels = {"experiment": np.repeat([0, 1, 2], 8), "site": np.arange(24)}
    y = np.full((24, 4, 1), 7.0)
    np.testing.assert_allclose(components(levels, y.sum(1), (y**2).sum(1), 4), 0, atol=1e-9)


def test_the_batch_effect_dominates_but_does_not_drown_the_perturbations():
    found = shares(Screen(seed=0, version="v2"), wells=500)
    assert abs(sum(pixels for pixels, _ in found.values()) - 1) < 1e-9
    experiment, perturbation = found["experiment"][0], found["perturbation"][0]
    assert 0.12 < experiment < 0.35
    assert 0.02 < perturbation < 0.10
    assert experiment > 2 * perturbation


def test_in_version_three_perturbations_are_hardly_in_the_intensities():
    found = shares(Screen(seed=0), wells=500)
    assert 0.2 < found["experiment"][0] < 0.6 and abs(found["perturbation"][0]) < 0.02


@pytest.mark.parametrize("strength", ["nuisance_strength", "perturbation_strength"])
def test_without_a_cause_there_is_no_share(strength):
    screen = Screen(train=("SIMA-01", "SIMA-02", "SIMA-03", "SIMA-04"), val=(), test=(), **{strength: 0.0})
    found = shares(screen, wells=160)
    assert abs(found["experiment" if strength == "nuisance_strength" else "perturbation"][0]) < 0.01


def test_command_prints_a_table(capsys):
    main(["--wells", "40", "--set", "seed=1", "train=SIMA-01,SIMB-01", "val=", "test="])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["factor", "pixels", "site", "means"]
    assert [line.split()[0] for line in lines[1:]] == [*KEYS, "pixel"]
