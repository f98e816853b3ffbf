"""Version 3 of the simulated screen: its design, what a perturbation does, and what that leaves as it was."""

import numpy as np
import pytest
from scipy import ndimage

from rxrx_jax.simulate import effects, render
from rxrx_jax.simulate.arrangement import ARRANGEMENT, COLOCALISATION
from rxrx_jax.simulate.screen import Screen, render_site, sites

SCREEN = Screen(seed=100, size="large")
KINDS = tuple(effects.KINDS)
PLACES = {  # as golgi_pole, 2/rim -> where an effect has it
    name if isinstance(name, str) else "/".join(map(str, name)): (kind, i)
    for kind, names in (("arrangement", ARRANGEMENT), ("colocalisation", COLOCALISATION))
    for i, name in enumerate(names)
}


def of(index, experiment="SIMA-01", well_type="treatment", cell_type="SIMA", seed=100):
    return effects.effect(seed, index, well_type, cell_type, experiment)


def kinds(effect):
    return [kind for kind in KINDS if getattr(effect, kind).any()]


def cosine(one, other):
    return one @ other / np.linalg.norm(one) / np.linalg.norm(other)


def test_the_design_is_eight_four_and_two_experiments_and_two_of_each_to_test():
    counts = {
        split: [sum(name.startswith(cell_type) for name in names) for cell_type in ("SIMA", "SIMB", "SIMC")]
        for split, names in SCREEN.splits.items()
    }
    assert counts == {"train": [8, 4, 2], "val": [1, 1, 1], "test": [2, 2, 2]}
    small = Screen().splits
    assert len(small["train"]) == 7 and set(small["val"] + small["test"]) <= set(SCREEN.experiments)
    rows = sites(SCREEN)
    assert len(rows) == 23 * 4 * 58 * 2 and {row["split"] for row in rows} == {"train", "id_test", "val", "test"}


def test_a_treatment_is_of_two_kinds_and_one_in_five_is_inert():
    made = [of(i, seed=seed) for seed in range(4) for i in range(60)]
    assert {len(kinds(effect)) for effect in made} == {0, 2}
    inert = np.reshape([not kinds(effect) for effect in made], (4, 12, 5))
    assert (inert.sum(-1) == 1).all() and set(inert.argmax(-1).ravel()) == set(range(5))
    assert {kind for effect in made for kind in kinds(effect)} == set(KINDS)
    shares = [effect.share for effect in made if kinds(effect)]
    assert 0.5 <= min(shares) < 0.55 and 0.95 < max(shares) <= 1
    assert not kinds(of(27, well_type="negative_control")) and len(kinds(of(25, well_type="positive_control"))) == 2


def test_directions_of_a_pathway_have_a_cosine_of_seven_tenths(monkeypatch):
    monkeypatch.setattr(effects, "CELL_TYPE_PART", 0.0)
    monkeypatch.setattr(effects, "INTERACTION", 0.0)
    inside, across = [], []
    for seed in range(1000, 1040):  # not cached
        made = [of(i, seed=seed) for i in range(30)]
        for i, one in enumerate(made):
            for j, other in enumerate(made[:i]):
                if "morphology" in kinds(one) and "morphology" in kinds(other):
                    (inside if i // 3 == j // 3 else across).append(cosine(one.morphology, other.morphology))
    assert np.mean(inside) == pytest.approx(0.7, abs=0.02) and abs(np.mean(across)) < 0.02
    assert len(inside) > 300


def test_the_effect_differs_from_experiment_to_experiment_and_keeps_its_direction():
    pairs = [(of(i, "SIMA-01"), of(i, "SIMA-02")) for i in range(24) if kinds(of(i))]
    both = [(np.hstack([getattr(e, k) for k in KINDS]) for e in pair) for pair in pairs]
    found = [(cosine(a, b), np.linalg.norm(a) / np.linalg.norm(b)) for a, b in both]
    assert 0.75 < np.mean([c for c, _ in found]) < 0.97
    assert 0.1 < np.std(np.log([ratio for _, ratio in found])) < 0.6


def shown(monkeypatch, **shifts):
    """16 sites of untreated wells with every cell shifted so: uint8 [16, 64, 64, 6]."""
    parts = {kind: np.zeros(size) for kind, size in effects.KINDS.items()}
    for name, size in shifts.items():
        kind, i = PLACES[name]
        parts[kind][i] = size
    effect = effects.Effect(**parts, stain=np.zeros(6), share=1.0)
    monkeypatch.setattr(render.effects, "effect", lambda *names: effect)
    rows = [r for r in sites(SCREEN) if r["experiment"] == "SIMA-01" and r["well_type"] == "negative_control"]
    return np.stack([render_site(SCREEN, row) for row in rows[:16]]).astype(float)


def correlation(images, one, other, width=1.0):
    """Of two channels over pixels, mean over images, once both are blurred."""
    blurred = ndimage.gaussian_filter(images, (0, width, width, 0)).reshape(len(images), -1, 6)
    return np.mean([np.corrcoef(x[:, one], x[:, other])[0, 1] for x in blurred])


@pytest.mark.parametrize(
    "name, channels, sign",
    [
        ("golgi_distance", (0, 5), -1),  # away from the nucleus
        ("1/golgi_side", (1, 5), 1),
        ("4/golgi_side", (4, 5), 1),
        ("1/around_nucleus", (0, 1), 1),
        ("2/rim", (0, 2), -1),
        ("3/nucleus", (0, 3), 1),
        ("4/around_nucleus", (0, 4), 1),
        ("5/rim", (0, 5), -1),
    ],
)
def test_light_moves_between_parts_of_the_cell(monkeypatch, name, channels, sign):
    away, towards = (correlation(shown(monkeypatch, **{name: size}), *channels) for size in (-2.0, 2.0))
    assert sign * (towards - away) > 0.02


def test_each_change_of_arrangement_is_seen_and_keeps_amounts(monkeypatch):
    plain = shown(monkeypatch)
    for name in PLACES:
        for size in (-2.0, 2.0):
            images = shown(monkeypatch, **{name: size})
            assert (images != plain).mean() > 0.01, name
            np.testing.assert_allclose(images.mean((0, 1, 2)) / plain.mean((0, 1, 2)), 1, atol=0.08, err_msg=name)
