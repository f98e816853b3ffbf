"""Preferences, exponents and their encodings; scalarisations; objectives of grids and strings; mistakes in them."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rxrx_jax.base.errors import UserError
from rxrx_jax.generate import rewards, scalarise
from rxrx_jax.generate.conditions import Conditions, checked_preference, thermometer
from rxrx_jax.generate.rewards import grid, strings


def test_a_thermometer_fills_bins_up_to_the_value():
    values = np.array([0, 0.25, 0.4, 1, 2], np.float32)
    edges = np.linspace(0, 1, 5)
    expected = np.clip(values[:, None] - edges, 0, 0.25) / 0.25
    np.testing.assert_allclose(thermometer(jnp.asarray(values), 5, 0, 1), expected, atol=1e-6)
    np.testing.assert_allclose(expected[2], [1, 0.6, 0, 0, 0], atol=1e-6)


def drawn(count=2000, **settings):
    conditions = Conditions(**{"objectives": 3} | settings)

    @jax.jit
    @jax.vmap
    def one(key):
        w, beta = conditions.sample(key)
        return w, beta, conditions.encode(w, beta)

    w, beta, codes = one(jax.random.split(jax.random.key(0), count))
    assert codes.shape == (count, conditions.width) and codes.min() >= 0 and codes.max() <= 1
    return np.asarray(w), np.asarray(beta), np.asarray(codes)


def test_preferences_and_exponents_are_of_their_distributions():
    w, beta, _ = drawn()
    np.testing.assert_allclose(w.sum(1), 1, atol=1e-5)
    np.testing.assert_allclose(w.mean(0), 1 / 3, atol=0.03)
    assert w.max(1).mean() > drawn(alpha=20.0)[0].max(1).mean() + 0.1 and (beta == 8).all()
    uniform = drawn(exponent="uniform", exponents=(1.0, 32.0))[1]
    assert uniform.min() >= 1 and uniform.max() <= 32 and uniform.mean() == pytest.approx(16.5, abs=0.7)
    logs = np.log(drawn(exponent="loguniform", exponents=(1.0, 32.0))[1])
    assert logs.min() >= 0 and logs.mean() == pytest.approx(np.log(32) / 2, abs=0.1)
    gamma = drawn(exponent="gamma", exponents=(16.0, 4.0))[1]
    assert gamma.mean() == pytest.approx(16, abs=0.5) and gamma.std() == pytest.approx(4, abs=0.4) and gamma.min() > 0
    whole = drawn(exponent="integers", exponents=(1.0, 4.0))[1]
    assert set(whole.tolist()) == {1, 2, 3, 4}
    fixed, _, codes = drawn(preference=(0.5, 0.25, 0.25))
    assert (fixed == [0.5, 0.25, 0.25]).all() and codes.shape[1] == 1  # nothing to tell
    assert drawn(encoding="plain", exponent="uniform", exponents=(1.0, 2.0))[2].shape[1] == 4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(preference=(0.5, 0.5)), "2 numbers for 3 objectives"),
        (dict(preference=(0.5, 0.5, 0.5)), "is off the simplex"),
        (dict(preference=(1.5, -0.5, 0.0)), "is off the simplex"),
        (dict(preference=(float("nan"), 0.5, 0.5)), "is off the simplex"),
        (dict(preference=("a", 0, 1)), "expected 3 numbers"),
        (dict(exponents=(0.0, 0.0)), "two numbers above 0"),
        (dict(exponents=(-1.0, 2.0), exponent="uniform"), "two numbers above 0"),
        (dict(exponents=(2.0, 1.0), exponent="uniform"), "the smaller one first"),
        (dict(exponents=(1.0,)), "two numbers above 0"),
        (dict(exponent="normal"), "expected constant, uniform"),
        (dict(preference_bins=1), "preference_bins=1: a thermometer needs at least 2 bins"),
        (dict(exponent_bins=0), "exponent_bins=0: a thermometer needs at least 2 bins"),
        (dict(encoding="onehot"), "expected thermometer or plain"),
        (dict(alpha=0.0), "expected a number above 0"),
    ],
)
def test_conditions_that_cannot_be(settings, message):
    with pytest.raises(UserError, match=message) as found:
        Conditions(objectives=3, **settings)
    assert "\n" not in str(found.value) and "task." in str(found.value)


def test_a_preference_may_be_off_by_rounding():
    assert checked_preference([1 / 3] * 3, 3) == (1 / 3,) * 3


def test_scalarisations_by_hand_and_larger_for_what_is_better():
    r, w = jnp.array([0.5, 0.8]), jnp.array([0.25, 0.75])
    assert np.exp(scalarise.weighted_sum(r, w)) == pytest.approx(0.725)
    assert np.exp(scalarise.weighted_log_sum(r, w)) == pytest.approx(0.5**0.25 * 0.8**0.75)
    assert np.exp(scalarise.tchebycheff(r, w)) == pytest.approx(1 - 0.15)
    assert np.exp(scalarise.tchebycheff_published(r, w)) == pytest.approx(0.15)
    random = np.random.default_rng(0)
    worse = random.random((100, 3)).astype(np.float32) * 0.9
    better, w = worse + 0.1 * random.random((100, 3)).astype(np.float32), random.dirichlet([1] * 3, 100)
    for name in ("weighted_sum", "weighted_log_sum", "tchebycheff"):
        assert (scalarise.scalarisation(name)(better, w) >= scalarise.scalarisation(name)(worse, w)).all(), name
    assert (
        scalarise.tchebycheff_published(better, w) <= scalarise.tchebycheff_published(worse, w)
    ).all()  # the wrong sign
    assert np.isfinite(scalarise.weighted_log_sum(jnp.zeros(2), jnp.array([0.0, 1.0])))
    with pytest.raises(UserError, match="task.scalarisation='product': expected weighted_sum"):
        scalarise.scalarisation("product")


def test_branin_and_currin_at_their_known_values():
    """The three minima of Branin's function, 0.397887, and the maximum of Currin's, 13.798722 at (0.2167, 0)."""
    for x in ((-np.pi, 12.275), (np.pi, 2.275), (9.42478, 2.475)):
        at = jnp.array([(x[0] + 5) / 15, x[1] / 15])
        assert grid.branin(at) == pytest.approx(1 - 0.397887 / 308.1291, abs=1e-5)
    assert grid.branin(jnp.zeros(2)) == pytest.approx(0, abs=1e-5)
    assert grid.currin(jnp.array([0.2166667, 0.0])) == pytest.approx(1, abs=1e-5)
    cells = jnp.stack(jnp.meshgrid(*[jnp.linspace(0, 1, 65)] * 2), -1).reshape(-1, 2)
    for function in grid.OBJECTIVES.values():
        values = jax.vmap(function)(cells)
        assert values.min() >= 0 and values.max() <= 1 and jnp.ptp(values) > 0.8


def test_motifs_are_counted_as_python_counts_them():
    random, letters = np.random.default_rng(0), "ACV"
    texts = ["".join(random.choice(list(letters), 12)) for _ in range(60)] + ["A" * 12, "ACACACACACAC", "AACAACAACAAC"]
    tokens = np.array([[letters.index(x) for x in text] for text in texts])
    for motif in ["".join(m) for n in (1, 2) for m in itertools.product("AC", repeat=n)] + ["ACA"]:
        code = tuple(letters.index(x) for x in motif)
        found = jax.jit(jax.vmap(lambda x, code=code: strings.count(x, code)))(tokens)
        assert found.tolist() == [text.count(motif) for text in texts], motif
    problem = strings.problem(("AC", "V"), 12, letters)
    np.testing.assert_allclose(problem.objectives(tokens[-2]), [1, 0])
    assert problem.say(tokens[-2]) == "ACACACACACAC"
    apart = problem.distances(tokens[-3:])
    assert apart[0, 1] == 0.5 and apart[0, 0] == 0 and apart[0, 2] == pytest.approx(4 / 12)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: rewards.chosen(("branin", "rosenbrock"), grid.OBJECTIVES), "'rosenbrock' is unknown; expected branin"),
        (lambda: rewards.chosen((), grid.OBJECTIVES), "one or more different objectives"),
        (lambda: rewards.chosen(("branin",) * 2, grid.OBJECTIVES), "one or more different objectives"),
        (lambda: rewards.few(tuple("abcde")), "5 objectives, and the exact hypervolume is for at most 4; drop some"),
        (lambda: grid.problem(("branin",), 4, 1), "need two or more"),
        (lambda: strings.problem(("A", "C", "D", "E", "F"), 9), "5 objectives"),
        (lambda: strings.problem(("AZ",), 9), "'AZ' is unknown; expected a motif of the letters"),
        (lambda: strings.problem(("ACA",), 2), "ACA is longer than the strings"),
        (lambda: strings.problem(("A", "A"), 9), "one or more different motifs"),
        (lambda: strings.problem(("A",), 9, "AAC"), "two or more different ones"),
    ],
)
def test_objectives_that_cannot_be(make, message):
    with pytest.raises(UserError, match=message) as found:
        make()
    assert "\n" not in str(found.value)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -0.1, 1.1])
def test_a_value_outside_0_to_1_is_named_with_its_state(bad):
    values = np.array([[0.0, 1.0], [0.5, bad]])
    assert rewards.checked(values[:1], ("qed", "sa"), str) is not None
    with pytest.raises(UserError, match="the objective sa of CCO is .*: expected a finite number from 0 to 1"):
        rewards.checked(values, ("qed", "sa"), lambda i: ("C", "CCO")[i])
