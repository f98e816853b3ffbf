"""What a string would add to a front is the difference of hypervolumes, and rounds of active learning find more."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rxrx_jax.base.errors import UserError
from rxrx_jax.generate import acquisition, pareto
from rxrx_jax.generate.environments.strings import Strings


@pytest.mark.parametrize("d", [1, 2, 3])
def test_improvement_is_the_difference_of_hypervolumes(d):
    random = np.random.default_rng(d)
    front, points = random.random((8, d)).round(1), random.random((20, d)).round(2)
    found = acquisition.improvement(points, *acquisition.padded(acquisition.boxes(front), 200))
    before = pareto.hypervolume(front)
    expected = [pareto.hypervolume(np.concatenate([front, one[None]])) - before for one in points]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    with pytest.raises(UserError, match="acquisition of 4 objectives: at most 3"):
        acquisition.boxes(np.ones((1, 4)))


def oracle(tokens):
    """The shares of the letters 0 and 1 of 3, which compete."""
    return np.stack([(tokens == 0).mean(1), (tokens == 1).mean(1)], 1)


SPACE = Strings(letters=3, length=8)


def test_the_ensemble_learns_and_its_members_differ():
    random = np.random.default_rng(0)
    tokens = random.integers(0, 3, (60, 8))
    params = acquisition.fit(jax.random.key(0), jnp.array(tokens), jnp.array(oracle(tokens)), 3, members=3, steps=200)
    new = random.integers(0, 3, (50, 8))
    found = np.asarray(acquisition.predict(params, jnp.array(new), 3))
    assert found.shape == (3, 50, 2) and np.abs(found.mean(0) - oracle(new)).mean() < 0.06 < oracle(new).std()
    assert found.std(0).mean() > 1e-3
    values = acquisition.nehvi(params, tokens, 3)(jnp.array(new))
    by_hand = [
        [pareto.hypervolume([*seen, one]) - pareto.hypervolume(seen) for one in said]
        for seen, said in zip(np.asarray(acquisition.predict(params, jnp.array(tokens), 3)), found)
    ]
    np.testing.assert_allclose(values, np.mean(by_hand, 0), atol=1e-5)


def test_bad_input():
    with pytest.raises(UserError, match="hypervolume 0"):
        acquisition.rounds(oracle, np.full((4, 8), 2), SPACE, None, 1, 4)
    with pytest.raises(UserError, match="1 strings to start from"):
        acquisition.rounds(oracle, np.zeros((1, 8), int), SPACE, None, 1, 4)


@pytest.mark.slow
@pytest.mark.parametrize("propose", [acquisition.by_flow, acquisition.by_genetic])
def test_rounds_find_more_than_random_ones(propose):
    start = np.random.default_rng(1).integers(0, 3, (16, 8))
    random = np.random.default_rng(2).integers(0, 3, (512, 8))

    def better(key, environment, acquire, count):
        """What is proposed, which adds more to the front than random strings do and is not one string."""
        found = propose(key, environment, acquire, count)
        assert found.shape == (count, 8) and len(np.unique(found, axis=0)) >= 8
        assert acquire(jnp.array(found)).mean() > 1.5 * acquire(jnp.array(random)).mean()
        return found

    history, tokens, points = acquisition.rounds(oracle, start, SPACE, better, 2, 8)
    by_chance, _, _ = acquisition.rounds(oracle, start, SPACE, None, 2, 8)
    assert [one.known for one in history] == [16, 24, 32] == [one.known for one in by_chance]
    assert history[0].relative == 1 and history[-1].hypervolume == pareto.hypervolume(points)
    assert history[-1].relative > by_chance[-1].relative
    np.testing.assert_array_equal(points, oracle(tokens))
    assert len(np.unique(tokens[16:], axis=0)) == 16
