"""Corrections of embeddings against independent formulas and libraries, and what they refuse in one line."""

import ast

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
from paths import ROOT
from sklearn.covariance import LedoitWolf
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from rxrx_jax.adapt.correct import CORRECTIONS, correct
from rxrx_jax.adapt.correct.centre import centre, centre_scale
from rxrx_jax.adapt.correct.combat import combat
from rxrx_jax.adapt.correct.harmony import harmony
from rxrx_jax.adapt.correct.pca_centre_scale import pca_centre_scale
from rxrx_jax.adapt.correct.position import position
from rxrx_jax.adapt.correct.rank_inverse_normal import rank_inverse_normal
from rxrx_jax.adapt.correct.sphering import sphering
from rxrx_jax.adapt.correct.tvn import tvn
from rxrx_jax.adapt.correct.tvn_shrunk import ledoit_wolf, tvn_shrunk
from rxrx_jax.base.errors import UserError


@pytest.fixture(scope="module")
def screen():
    """(x [180, 5], groups of three experiments in random order, is_control: every third well)."""
    random = np.random.default_rng(0)
    groups = random.permutation(np.repeat(["A-01", "A-02", "B-01"], 60))
    is_control = np.zeros(180, bool)
    for name in np.unique(groups):
        is_control[np.flatnonzero(groups == name)[:20]] = True
    shift = {name: random.normal(size=5) * 3 for name in np.unique(groups)}
    x = (random.normal(size=(180, 5)) @ random.normal(size=(5, 5)) + [shift[g] for g in groups]).astype(np.float32)
    return x, groups, is_control


def gram(x):
    return x @ x.T


def each(x, groups, fit):
    """x [n, d] with fit(x of a group, its rows) in place of each group."""
    found = [np.flatnonzero(groups == name) for name in np.unique(groups)]
    out = np.empty(x.shape)
    for rows in found:
        out[rows] = fit(x[rows].astype(np.float64), rows)
    return out


@pytest.mark.parametrize("on", ["all", "controls"])
def test_centre_and_scale(screen, on):
    x, groups, is_control = screen
    used = is_control if on == "controls" else np.ones(len(x), bool)
    expected = each(x, groups, lambda part, rows: part - part[used[rows]].mean(0))
    np.testing.assert_allclose(centre(*screen, on=on), expected, atol=1e-12)
    expected = each(x, groups, lambda part, rows: StandardScaler().fit(part[used[rows]]).transform(part))
    np.testing.assert_allclose(centre_scale(*screen, on=on), expected, rtol=1e-9, atol=1e-12)


def test_a_constant_feature_and_a_group_of_one_become_zero():
    x = np.array([[0.1, 1], [0.1, 3], [7, 7]], np.float32)
    found = centre_scale(x, np.array([0, 0, 1]), np.zeros(3, bool))
    np.testing.assert_array_equal(found, [[0, -1], [0, 1], [0, 0]])


def test_integers_are_not_truncated():
    found = centre_scale(np.array([[0], [1], [3]]), np.zeros(3), np.zeros(3, bool))
    np.testing.assert_allclose(found.std(), 1)


def test_rank_inverse_normal(screen):
    x, groups, is_control = screen
    found = rank_inverse_normal(*screen)
    expected = each(x, groups, lambda part, _: scipy.stats.norm.ppf((part.argsort(0).argsort(0) + 1 - 0.375) / 60.25))
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
    tied = rank_inverse_normal(np.array([[1.0], [1.0], [5.0]]), np.zeros(3), np.zeros(3, bool))[:, 0]
    assert tied[0] == tied[1] < tied[2]
    np.testing.assert_allclose(found, rank_inverse_normal(np.exp(x.astype(float)), groups, is_control), atol=1e-12)


def test_pca_centre_scale(screen):
    x, groups, is_control = screen
    found = pca_centre_scale(*screen, components=3)
    axes = PCA(3).fit(x[is_control].astype(np.float64))
    components = axes.transform(x.astype(np.float64))
    expected = each(components, groups, lambda part, rows: StandardScaler().fit(part[is_control[rows]]).transform(part))
    np.testing.assert_allclose(gram(found), gram(expected), rtol=1e-8, atol=1e-8)
    few = np.zeros(180, bool)
    for name in np.unique(groups):
        few[np.flatnonzero(groups == name)[:4]] = True
    assert pca_centre_scale(x, groups, few).shape == (180, 3)  # a quarter of twelve
    assert pca_centre_scale(*screen).shape == (180, 5)


def published_tvn(x, groups, is_control):
    x = StandardScaler().fit(x[is_control]).transform(x)
    x = PCA().fit(x[is_control]).transform(x)
    x = StandardScaler().fit(x[is_control]).transform(x)
    for name in np.unique(groups):
        rows = groups == name
        covariance = np.cov(x[rows & is_control], rowvar=False, ddof=1) + 0.5 * np.eye(x.shape[1])
        x[rows] = x[rows] @ scipy.linalg.fractional_matrix_power(covariance, -0.5).real
    return x


def test_tvn_is_the_published_one(screen):
    x, groups, is_control = screen
    expected = published_tvn(x.astype(np.float64), groups, is_control)
    np.testing.assert_allclose(gram(tvn(*screen)), gram(expected), rtol=1e-9, atol=1e-9)


def test_tvn_refuses_what_the_published_one_blows_up(screen):
    x, groups, is_control = screen
    wide = np.random.default_rng(1).normal(size=(180, 60))
    assert np.abs(published_tvn(wide, groups, is_control)[~is_control]).max() > 1e10
    with pytest.raises(UserError, match="tvn needs more untreated wells than features, and here are 60 and 60"):
        tvn(wide, groups, is_control)
    doubled = np.concatenate([x, x[:, :1], np.full((180, 1), 3)], axis=1)  # rank 5 of 7 features
    found = tvn(doubled, groups, is_control)
    assert found.shape == (180, 5) and np.abs(found).max() < 100


@pytest.mark.parametrize("size, seed", [((40, 6), 0), ((10, 30), 1), ((3, 4), 2)])
def test_the_shrinkage_is_that_of_ledoit_and_wolf(size, seed):
    random = np.random.default_rng(seed)
    x = random.normal(size=size) * random.uniform(0.1, 3, size[1]) + 5
    expected = LedoitWolf().fit(x)
    covariance, shrinkage = ledoit_wolf(x)
    np.testing.assert_allclose(covariance, expected.covariance_, rtol=1e-9, atol=1e-12)
    assert shrinkage == pytest.approx(expected.shrinkage_, rel=1e-9) and 0 < shrinkage <= 1


def test_tvn_shrunk_whitens_each_group_by_its_controls(screen):
    _, groups, is_control = screen
    x = np.random.default_rng(1).normal(size=(180, 90)) * np.linspace(0.1, 4, 90) + 2.0  # 60 controls
    found = tvn_shrunk(x, groups, is_control)
    assert found.shape == x.shape and np.abs(found).max() < 100
    y = StandardScaler().fit(x[is_control]).transform(x)
    root = lambda c: scipy.linalg.fractional_matrix_power(c, -0.5).real  # noqa: E731
    y = y @ root(LedoitWolf().fit(y[is_control]).covariance_)
    for name in np.unique(groups):
        rows = groups == name
        fit = LedoitWolf().fit(y[rows & is_control])
        y[rows] = (y[rows] - fit.location_) @ root(fit.covariance_)
    np.testing.assert_allclose(found, y, rtol=1e-7, atol=1e-9)


def test_sphering_as_cytominer_by_hand():
    """The example of `cytominer::whiten`, its features standardised first, as they are in a profile."""
    x = np.array([[8, 5], [20, 2], [12, 43], [32, 13]], np.float64)
    found = sphering(x, np.zeros(4), np.ones(4, bool), regularisation=0.01)
    z = (x - x.mean(0)) / x.std(0)
    r = (z[:, 0] * z[:, 1]).mean()  # eigenvectors of two standardised features are their sum and difference
    plus, minus = ((z[:, 0] + sign * z[:, 1]) / np.sqrt(2) for sign in (1, -1))
    plus, minus = plus / np.sqrt(4 / 3 * (1 + r) + 0.01), minus / np.sqrt(4 / 3 * (1 - r) + 0.01)
    np.testing.assert_allclose(found, np.stack([plus + minus, plus - minus], 1) / np.sqrt(2), rtol=1e-12)


def test_sphering_as_pycytominer(screen):
    x, groups, is_control = screen
    found = sphering(*screen, form="pycytominer")
    np.testing.assert_allclose(np.cov(found[is_control], rowvar=False), np.eye(5), atol=1e-5)
    z = StandardScaler().fit(x[is_control].astype(np.float64)).transform(x.astype(np.float64))
    _, singular, axes = np.linalg.svd(z[is_control], full_matrices=True)
    weights = (axes / (singular + 1e-6)[:, None]).T * np.sqrt(59) @ axes
    np.testing.assert_allclose(found, z @ weights, rtol=1e-8, atol=1e-9)
    wide = np.random.default_rng(1).normal(size=(180, 90))
    with pytest.raises(UserError, match="vary in all 90 directions, and these 60 vary in 59; use form cytominer"):
        sphering(wide, groups, is_control, form="pycytominer")
    assert np.isfinite(sphering(wide, groups, is_control)).all()


def test_harmony_is_harmonypys(screen):
    harmonypy = pytest.importorskip("harmonypy")
    x, groups, is_control = screen
    expected = harmonypy.run_harmony(x.astype(np.float64), {"g": groups}, "g", verbose=False).Z_corr
    found = harmony(*screen)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    apart = lambda y: np.ptp([y[groups == g].mean(0) for g in np.unique(groups)], axis=0).sum()  # noqa: E731
    assert found.dtype == np.float64 and apart(found) < 0.8 * apart(x)


def test_without_harmonypy_it_is_one_line(screen, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "harmonypy", None)
    with pytest.raises(UserError, match=r"harmonypy is not installed; .* pip install 'rxrx_jax\[harmony\]'$"):
        harmony(*screen)


def test_combat_brings_groups_together(screen):
    """Its values are held to neuroCombat's beside those of maps."""
    x, groups, is_control = screen
    found = combat(*screen)
    np.testing.assert_allclose(found.mean(0), x.mean(0), atol=0.15)
    before, after = ([y[groups == g] for g in np.unique(groups)] for y in (x, found))
    spread = lambda parts, of: np.ptp([of(part, axis=0) for part in parts], axis=0)  # noqa: E731
    assert (spread(after, np.mean) < 0.05 * spread(before, np.mean)).all()
    assert (spread(after, np.std) <= spread(before, np.std)).mean() > 0.7


def test_position_takes_rows_and_columns_out_and_leaves_the_batch():
    random = np.random.default_rng(0)
    batch, row, column = (a.ravel() for a in np.meshgrid([0, 1], range(8), range(6), indexing="ij"))
    groups = np.array([f"E/{b}/{'ABCDEFGH'[r]}{c + 1:02d}" for b, r, c in zip(batch, row, column)])
    tilt = random.normal(size=(2, 8, 3))[batch, row] + random.normal(size=(2, 6, 3))[batch, column]
    mean = random.normal(size=(2, 3))[batch]
    found = position(tilt + mean, groups, np.zeros(96, bool))
    for b in (0, 1):
        np.testing.assert_allclose(found[batch == b], (tilt + mean)[batch == b].mean(0)[None].repeat(48, 0), atol=1e-9)
    kept = random.random(96) < 0.9  # some wells are empty
    x = random.normal(size=(96, 3))[kept]
    found = position(x, groups[kept], np.zeros(kept.sum(), bool))
    for b in (0, 1):
        of = batch[kept] == b
        design = np.concatenate([np.eye(8)[row[kept][of]], np.eye(6)[column[kept][of]]], 1)
        np.testing.assert_allclose(design.T @ (found[of] - found[of].mean(0)), 0, atol=1e-9)


# What all have in common.

NAMES = [name for name in CORRECTIONS if name != "harmony"]


def by_name(name, x, groups, is_control, key="--correct"):
    plate = np.char.add(groups.astype(str), "/1")
    return correct(name, x, groups, plate, np.where(is_control, "negative_control", "treatment"), key)


@pytest.mark.parametrize("name", NAMES)
def test_names_of_groups_and_the_order_of_rows_do_not_matter(screen, name):
    x, groups, is_control = screen
    before, found = x.copy(), by_name(name, *screen)
    assert found.dtype == np.float64 or name == "none"
    np.testing.assert_array_equal(x, before)
    renamed = np.array([{"A-01": "z", "A-02": "b", "B-01": "a"}[g] for g in groups])
    np.testing.assert_allclose(gram(by_name(name, x, renamed, is_control)), gram(found), rtol=1e-6, atol=1e-6)
    order = np.random.default_rng(2).permutation(len(x))
    again = by_name(name, x[order], groups[order], is_control[order])
    np.testing.assert_allclose(gram(again), gram(found[order]), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_marks_say_what_is_used(screen, name):
    """Other treated wells change a well where all are used (T), and which ones are untreated where that is told (C)."""
    x, groups, is_control = screen
    marks, found = CORRECTIONS[name].marks, gram(by_name(name, *screen))
    treated = np.flatnonzero(~is_control & (groups == "B-01"))
    moved = x.copy()
    moved[treated[1:]] += 2.0
    kept = np.setdiff1d(np.arange(len(x)), treated[1:])
    again = gram(by_name(name, moved, groups, is_control))
    assert ("T" in marks) == (np.abs(again - found)[np.ix_(kept, kept)].max() > 1e-6)
    other = is_control.copy()
    other[treated[0]], other[np.flatnonzero(is_control & (groups == "B-01"))[0]] = True, False
    assert ("C" in marks) == (np.abs(gram(by_name(name, x, groups, other)) - found).max() > 1e-9)


@pytest.mark.parametrize(
    "name", [name for name in CORRECTIONS if "C" in CORRECTIONS[name].marks and name != "sphering"]
)
def test_a_group_without_controls_is_one_line_that_names_it(screen, name):
    x, groups, is_control = screen
    group = "A-02" if CORRECTIONS[name].by == "experiment" else "A-02/1"
    with pytest.raises(
        UserError, match=f"^--correct={name}: {group} has no untreated wells, and .* at least [123] there$"
    ):
        by_name(name, x, groups, is_control & (groups != "A-02"))


def test_no_file_of_them_needs_jax_or_training():
    known = {"numpy", "scipy", "harmonypy", "functools", "collections", "re", "typing"}
    for path in (ROOT / "rxrx_jax" / "adapt" / "correct").glob("*.py"):
        nodes = [
            node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, (ast.Import, ast.ImportFrom))
        ]
        names = [getattr(node, "module", None) or node.names[0].name for node in nodes]
        for name in names:
            assert name.split(".")[0] in known or name.startswith(("rxrx_jax.base.errors", "rxrx_jax.adapt.correct."))


def test_mistakes_are_one_line(screen):
    x, groups, is_control = screen
    bad = x.copy()
    bad[7, 2] = np.nan
    with pytest.raises(UserError, match="^--correct=tvn: embedding 7 of 180 has NaN or infinite values"):
        by_name("tvn", bad, groups, is_control)
    with pytest.raises(UserError, match="^--correct='tnv': expected none, centre_experiment, .*harmony$"):
        by_name("tnv", *screen)
    with pytest.raises(UserError, match="^--correct=tvn: the untreated wells all have the same embedding"):
        by_name("tvn", np.where(is_control[:, None], 1.0, x), groups, is_control)
    with pytest.raises(UserError, match="^--correct=tvn_shrunk: the untreated wells of .* vary too little"):
        by_name("tvn_shrunk", np.where((is_control & (groups == "A-02"))[:, None], 1.0, x), groups, is_control)
    with pytest.raises(UserError, match="^--correct=tvn needs to know the well_type of every embedding"):
        correct("tvn", x, groups, None, None, "--correct")
    with pytest.raises(UserError, match="^--correct=centre_plate needs to know the plate of every embedding"):
        correct("centre_plate", x, groups, None, None, "--correct")
    with pytest.raises(UserError, match="sphering needs at least 2 untreated wells, not 1$"):
        sphering(x, groups, np.arange(180) == 0)
    with pytest.raises(UserError, match="pca_centre_scale needs at least 4 untreated wells, not 3$"):
        pca_centre_scale(x, groups, np.arange(180) < 3)
    with pytest.raises(UserError, match="^combat needs at least 2 groups and 2 features, not 1 and 5$"):
        combat(x, np.full(180, "a"), is_control)
    with pytest.raises(UserError, match="^combat needs at least 2 embeddings of a group, and z has one$"):
        combat(x, np.where(np.arange(180) == 9, "z", groups), is_control)
    with pytest.raises(UserError, match="^combat cannot fit its priors to A-01"):
        combat(np.ones_like(x), groups, is_control)
    with pytest.raises(UserError, match="^A-0[12]|B-01 is not a batch and a well such as HUVEC-01/B02$"):
        position(x, groups, is_control)
    with pytest.raises(UserError, match="^E has 180 wells in 1 rows and 180 columns, and position needs 4 in each"):
        position(x, np.array([f"E/A{i:03d}" for i in range(180)]), is_control)
    with pytest.raises(UserError, match="harmony needs at least 30 embeddings, not 5$"):
        pytest.importorskip("harmonypy") and harmony(x[:5], groups[:5], is_control[:5])
