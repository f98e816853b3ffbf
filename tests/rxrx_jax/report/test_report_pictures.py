"""rxrx_jax.report.pictures and .records: components, colours, composites, the choice of maps."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from rxrx_jax.report import pictures, records
from rxrx_jax.report.columns import Cell
from rxrx_jax.report.table import Line
from rxrx_jax.tables import Column, Row, Run, Table


def test_principal_components_find_the_largest_variance():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(4000, 4)) @ np.diag([1, 5, 0.5, 3]) + 7
    scores, shares = pictures.principal_components(points.astype(np.float32))
    variances = np.sort(points.var(0))[::-1]
    np.testing.assert_allclose(shares, variances[:2] / variances.sum(), rtol=0.01)
    assert np.corrcoef(scores[:, 0], points[:, 1])[0, 1] > 0.99  # the sign too
    assert np.corrcoef(scores[:, 1], points[:, 3])[0, 1] > 0.99
    assert pictures.principal_components(np.ones((5, 3))) == (None, None)


def test_more_experiments_than_colours_still_have_one():
    names = [f"e{i}" for i in range(51)]
    assert set(pictures.colours(names)) == set(names)
    assert len(set(pictures.colours(names[:8]).values())) == 8


def test_reconstructions_keep_what_was_visible(tmp_path):
    images = np.full((2, 4, 4, 6), 0.0)
    images[:, :2, :, 0] = 1.0  # the upper half has w1, blue, at its brightest
    mask = np.zeros_like(images)
    mask[:, :, 2:] = 1  # the right half is hidden
    prediction = np.full_like(images, 0.0)
    prediction[..., 2] = 1.0  # and reconstructed as w3, red
    images[0, 3, 3, 2] = 1.0
    pictures.save_reconstructions(tmp_path / "r.png", images, mask, prediction, ["A-01_1_B02_1", "b"])
    sheet = np.asarray(Image.open(tmp_path / "r.png").convert("RGB"))
    step, tile = pictures.TILE + pictures.GAP, pictures.TILE
    left, top = sheet.shape[1] - 2 * step, sheet.shape[0] - 3 * step
    at = lambda row, y, x: sheet[top + row * step + y, left + step + x].tolist()  # noqa: E731  of the second site
    blue, red, black, grey = [19, 0, 249], [255, 0, 25], [0, 0, 0], [38, 38, 38]
    near, far = tile // 4, 3 * tile // 4
    assert [at(0, near, near), at(0, near, far), at(0, far, far)] == [blue, blue, black]
    assert [at(1, near, near), at(1, near, far), at(1, far, near)] == [blue, grey, black]
    assert [at(2, near, near), at(2, near, far), at(2, far, far)] == [blue, red, red]
    assert (sheet[:top, left:] < 128).any() and (sheet[top:, : left - 2] < 128).any()  # titles and labels


def test_composites_need_no_bokeh():
    code = "import sys, rxrx_jax.simulate.picture, tfds_builders.report.page\n"
    code += "print({'bokeh', 'sklearn', 'jax'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
    black = pictures.composite(np.zeros((2, 2, 6)), 0, np.full(6, 200))
    full = pictures.composite(np.full((2, 2, 6), 255), 0, np.full(6, 200))
    assert black.max() == 0 and full.max() == 1
    only_w2 = pictures.composite(np.array([0, 100, 0, 0, 0, 0]), 0, 200)
    np.testing.assert_allclose(only_w2, np.array([42, 255, 31]) / 255 / 2)


def test_chosen_channels_keep_their_colours():
    pixels = np.random.default_rng(0).uniform(0, 255, (5, 6))
    whole = pictures.composite(np.where(np.isin(np.arange(6), [4, 1]), pixels, 0), 0, 200)
    np.testing.assert_allclose(pictures.composite(pixels[:, [4, 1]], 0, 200, (4, 1)), whole)
    assert not pictures.composite(pixels[:, :1], 0, 200, (7,)).any()  # which has no colour


def test_composites_have_any_number_of_channels():
    """The first six are drawn."""
    nine = np.array([0, 100, 0, 0, 0, 0, 200, 200, 200])
    np.testing.assert_allclose(pictures.composite(nine, 0, np.full(9, 200)), np.array([42, 255, 31]) / 255 / 2)
    np.testing.assert_allclose(pictures.composite(np.array([200]), 0, 200), np.array([19, 0, 249]) / 255)


def test_the_map_shows_runs_chosen_by_rule():
    columns = [Column("cross", "cross_batch/site_accuracy"), Column("leakage", "leakage/experiment_accuracy")]
    lines = []
    for run, cross, leakage, layout, prefix in (
        ("a", 0.1, 0.9, "fixed", ""),
        ("b", 0.9, 0.1, "reshuffled", ""),
        ("c", 0.5, 0.7, "fixed", ""),
        ("d", 0.8, 0.1, "fixed", "adabn_experiment/"),
        ("e", 0.3, 0.2, "fixed", ""),
    ):
        cells = [Cell("", {"": cross}), Cell("", {"": leakage})]
        lines.append(Line(1, Row(("m", layout), run, prefix), 1, "", cells))
    runs = [Run(line.row.run, "x.py") for line in lines]
    rows = [line.row for line in lines]
    table = Table(title="t", labels=("method", "layout"), group="layout", columns=columns, rows=rows, runs=runs)
    chosen = dict(records.choose_for_map(table, lines, ["a", "b", "c", "d", "e", "pretraining"]))
    assert list(chosen) == ["a", "c", "e", "pretraining"]
    assert chosen["c"] == "highest cross-batch accuracy" and chosen["e"] == "lowest leakage"
    assert list(dict(records.choose_for_map(table, lines, ["e", "b"]))) == ["b", "e"]
    assert records.choose_for_map(table, lines, []) == []


@pytest.mark.slow
def test_umap_keeps_groups_apart_and_is_the_same_each_time():
    """Numba compiles it for a while."""
    pytest.importorskip("umap", reason="umap-learn is not installed: pip install 'rxrx_jax[umap]'")
    random = np.random.default_rng(0)
    group = np.arange(90) % 3
    x = 8 * np.eye(3)[group] + random.normal(size=(90, 3))
    places = pictures.umap(x)
    assert places.shape == (90, 2) and np.isfinite(places).all() and pictures.umap(x[:9]) is None
    apart = ((places[:, None] - places) ** 2).sum(2)
    np.fill_diagonal(apart, np.inf)
    assert (group[apart.argmin(1)] == group).all()
    np.testing.assert_array_equal(pictures.umap(x), places)


def test_without_umap_the_map_is_by_t_sne(monkeypatch):
    x = np.random.default_rng(0).normal(size=(12, 3))
    monkeypatch.setattr(pictures, "umap", lambda embeddings: embeddings[:, :2])
    for there, title in ((True, "UMAP"), (False, "t-SNE")):
        monkeypatch.setattr(pictures, "has_umap", lambda: there)  # noqa: B023
        assert pictures.neighbour_map(x)[0] == title
