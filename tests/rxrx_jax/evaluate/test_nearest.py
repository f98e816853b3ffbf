"""The nearest rows, by both metrics, with ties and a mask."""

import numpy as np
import pytest

from rxrx_jax.evaluate import nearest as lib
from rxrx_jax.evaluate.nearest import nearest


def test_the_nearest_by_cosine_and_those_of_another_group():
    angles = np.array([0.0, 0.1, 0.3, 3.0])
    points = np.stack([np.cos(angles), np.sin(angles)], axis=1) * np.array([[1.0], [5.0], [2.0], [1.0]])
    index, cosine = nearest(points, 8, "cosine")
    assert index[:, :3].tolist() == [[1, 2, 3], [0, 2, 3], [1, 0, 3], [2, 1, 0]] and (index[:, 3:] == -1).all()
    np.testing.assert_allclose(cosine[0], [*np.cos([0.1, 0.3, 3.0]), 0, 0, 0, 0, 0])
    groups = np.array(["a", "a", "b", "a"])
    assert nearest(points, 1, "cosine", groups)[0][:, 0].tolist() == [2, 2, 1, 2]
    index, cosine = nearest(points, 2, "cosine", groups)
    assert index.tolist() == [[2, -1], [2, -1], [1, 0], [2, -1]] and (cosine[[0, 1, 3], 1] == 0).all()
    assert (nearest(points, 1, "cosine", np.zeros(4))[0] == -1).all()


@pytest.mark.parametrize("metric", lib.METRICS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_blocks_find_what_the_whole_square_has(metric, dtype, monkeypatch):
    monkeypatch.setattr(lib, "BLOCK", 7)
    random = np.random.default_rng(0)
    x = random.integers(-3, 4, size=(40, 3)).astype(dtype)  # with many ties, and rows that are there twice
    x[~x.any(1)] = 1
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    far = 1 - unit @ unit.T if metric == "cosine" else np.sqrt(((x[:, None] - x) ** 2).sum(2))
    np.fill_diagonal(far, np.inf)
    expected = np.sort(far, axis=1)[:, :5]
    index, value = nearest(x, 5, metric)
    np.testing.assert_allclose(1 - value if metric == "cosine" else value, expected, atol=1e-6)
    assert (index != np.arange(40)[:, None]).all() and all(len(set(row)) == 5 for row in index.tolist())
    one = nearest(x, 1, metric)
    np.testing.assert_allclose(one[1][:, 0], value[:, 0], atol=1e-6)


def test_of_one_row_there_is_none():
    index, value = nearest(np.ones((1, 2)), 3, "euclidean")
    assert index.tolist() == [[-1] * 3] and value.tolist() == [[0.0] * 3]
