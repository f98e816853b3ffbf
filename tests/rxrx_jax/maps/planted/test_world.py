"""A planted screen is what its settings say."""

import dataclasses

import numpy as np
import pytest

from rxrx_jax.maps.benchmark.genome import ARMS
from rxrx_jax.maps.planted import wells, world
from rxrx_jax.maps.planted.world import Settings

SMALL = Settings(genes=400, complexes=20, compounds=8, inert=4, plates=2, dim=16, biology=8)


@pytest.fixture(scope="module")
def drawn():
    made = world.draw(SMALL)
    given = wells.perturbations(made)
    return made, given, wells.simulate(SMALL, given)


def test_the_demo_is_as_large_as_asked():
    s = Settings()
    assert (s.genes, s.guides, s.complexes, s.smallest, s.largest) == (3000, 6, 120, 3, 20)
    assert (s.unexpressed, s.batches, s.compounds, len(s.doses), s.inert) == (0.3, 12, 80, 8, 20)


def test_complexes_lie_where_they_should(drawn):
    made, _, _ = drawn
    sizes = np.bincount(made.member[made.member >= 0])
    assert len(sizes) == 20 and sizes.min() >= 3 and sizes.max() <= 20
    assert len(made.pairs) == (sizes * (sizes - 1) // 2).sum()
    assert (made.member[made.pairs[:, 0]] == made.member[made.pairs[:, 1]]).all()
    arms = [len(set(made.arm[made.member == k].tolist())) for k in range(20)]
    assert arms[:2] == [1, 1] and max(arms[2:]) > 1
    assert not (made.active & ~made.expressed).any() and made.expressed.mean() == pytest.approx(0.7)
    i, j = made.pairs.T
    cosine = (made.effects[i] * made.effects[j]).sum(1) / np.linalg.norm(made.effects, axis=1)[[i, j]].prod(0)
    assert np.abs(cosine).mean() == pytest.approx(0.5, abs=0.1) and (cosine < -0.2).any()


def test_arms_act_more_towards_the_telomere(drawn):
    made, _, _ = drawn
    of_arm = np.linalg.norm(made.knockouts - made.effects, axis=1)
    np.testing.assert_allclose(of_arm, SMALL.arm * made.telomere, atol=1e-9)
    assert all(name == ARMS[a] for name, a in zip(made.genome.arm, made.arm))
    long_arm = np.array([name.endswith("q") for name in made.genome.arm])
    for a in np.unique(made.arm):
        here = made.arm == a
        order = np.argsort(made.telomere[here])
        start = made.genome.start[here][order]
        assert (np.diff(start if long_arm[here][0] else -start) >= 0).all()


def test_a_guide_is_a_dud_and_another_hits_a_second_gene(drawn):
    made, given, _ = drawn
    effect = given.effect[: 400 * 6].reshape(400, 6, -1)
    assert ((np.abs(effect).max(2) == 0).sum(1) == 1).all()
    cut = np.flatnonzero(np.linalg.norm(made.knockouts, axis=1) > 0.1)
    unit = made.knockouts[cut] / np.linalg.norm(made.knockouts[cut], axis=1, keepdims=True)
    off = effect[cut] - (effect[cut] * unit[:, None]).sum(2, keepdims=True) * unit[:, None]
    assert ((np.linalg.norm(off, axis=2) > 1e-9).sum(1) <= 1).all()
    assert ((np.linalg.norm(off, axis=2) > 1e-9).sum(1) == 1).mean() > 0.9


def test_doses_follow_hill_curves(drawn):
    made, given, _ = drawn
    length = np.linalg.norm(made.responses, axis=2)
    assert (np.diff(length[:8], axis=1) > 0).all() and not length[8:].any()
    assert [len(t) for t in made.targets[8:]] == [0] * 4 and {len(t) for t in made.targets[:8]} <= {1, 2, 3}
    assert (given.dose[400 * 6 :].reshape(12, 8) == SMALL.doses).all()
    full = made.effects[made.targets[0]].sum(0)
    sign = np.sign(made.responses[0] @ full)
    assert (sign == sign[0]).all()


def test_every_perturbation_has_its_wells_in_three_batches(drawn):
    _, given, found = drawn
    assert len(found.x) == 12 * 2 * 384 and found.x.dtype == np.float32
    for batch in range(12):
        here = found.perturbation[found.batch == batch]
        assert (np.unique(here[here >= 0]) == np.flatnonzero(given.block == batch % 4)).all()
    wanted = np.where(given.compound >= 0, 6, 3)
    assert (np.bincount(found.perturbation[found.perturbation >= 0]) == wanted).all()
    places = np.stack([found.batch, found.plate, found.row, found.column], 1)
    assert len(np.unique(places, axis=0)) == len(places)


def test_a_seed_decides_everything_and_null_takes_the_effects_alone(drawn):
    made, given, found = drawn
    again = wells.simulate(SMALL, wells.perturbations(world.draw(SMALL)))
    assert (again.x == found.x).all() and (again.perturbation == found.perturbation).all()
    empty = world.draw(SMALL.null())
    assert not empty.knockouts.any() and not empty.responses.any()
    assert (empty.pairs == made.pairs).all() and (empty.active == made.active).all()
    other = world.draw(dataclasses.replace(SMALL, seed=1))
    assert not np.array_equal(other.arm, made.arm)


def test_a_batch_without_room_for_controls_is_refused(drawn):
    with pytest.raises(ValueError, match="a batch of 384 wells has no room for"):
        wells.simulate(dataclasses.replace(SMALL, plates=1), drawn[1])
