"""Silhouettes and principal component regression by hand, and where they are not defined."""

import math

import numpy as np
import pytest

from rxrx_jax.evaluate.batch_metrics import separation


def test_silhouettes_by_hand():
    """0 and 1 against 3: of 0, a = 1 and b = 3; of 1, a = 1 and b = 2; a label's only row has 0."""
    x, labels = np.array([[0.0], [1.0], [3.0]]), np.array([0, 0, 1])
    np.testing.assert_allclose(separation.silhouettes(x, labels), [2 / 3, 1 / 2, 0])
    assert separation.silhouette_label(x, labels) == pytest.approx(((2 / 3 + 1 / 2) / 3 + 1) / 2)


def test_batches_are_compared_within_a_label_and_labels_weigh_alike():
    x = np.array([[0.0], [1.0], [3.0], [50.0], [50.0], [50.0], [50.0], [99.0], [98.0]])
    label = np.array([0, 0, 0, 1, 1, 1, 1, 2, 2])
    batch = np.array([0, 0, 1, 0, 0, 1, 1, 0, 1])  # of label 2 one row each: left out
    expected = [1 - np.mean([2 / 3, 1 / 2, 0]), 1.0]
    assert separation.silhouette_batch(x, batch, label) == pytest.approx(np.mean(expected))
    assert math.isnan(separation.silhouette_batch(x, label, label)) and math.isnan(
        separation.silhouette_batch(x[7:], batch[7:], label[7:])
    )


def test_one_label_or_one_for_each_row_has_no_silhouette():
    x = np.eye(4)
    assert math.isnan(separation.silhouette_label(x, np.zeros(4)))
    assert math.isnan(separation.silhouette_label(x, np.arange(4)))


def test_the_variance_that_the_batch_explains_by_hand():
    """Means -1 and 1 of two batches, and within them -2 and 2 along another axis: 1 of 5."""
    x = np.array([[-1, -2], [-1, 2], [1, -2], [1, 2.0]])
    batch = np.array(["a", "a", "b", "b"])
    assert separation.principal_component_regression(x, batch) == pytest.approx(1 / 5)
    assert separation.principal_component_regression(x + 1e4, batch) == pytest.approx(1 / 5)
    assert separation.principal_component_regression(x, batch, components=1) == pytest.approx(0)  # the larger axis
    assert separation.principal_component_regression(x[:, :1], batch) == pytest.approx(1)
    assert math.isnan(separation.principal_component_regression(x * 0, batch))


def test_it_is_the_regression_of_each_component():
    random = np.random.default_rng(0)
    x, batch = random.normal(size=(90, 70)) * np.linspace(3, 1, 70), random.integers(0, 4, 90)
    centred = x - x.mean(0)
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    scores, design = u[:, :50] * s[:50], np.eye(4)[batch]
    fitted = design @ np.linalg.lstsq(design, scores, rcond=None)[0]
    r2 = 1 - np.square(scores - fitted).sum(0) / np.square(scores).sum(0)
    expected = r2 @ s[:50] ** 2 / (s[:50] ** 2).sum()
    assert separation.principal_component_regression(x, batch) == pytest.approx(expected)
