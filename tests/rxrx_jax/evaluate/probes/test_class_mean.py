"""The nearest class mean against scikit-learn and by hand."""

import numpy as np
from sklearn.neighbors import NearestCentroid

from rxrx_jax.evaluate.probes.class_mean import nearest_mean


def test_the_nearest_class_mean_is_scikit_learns(points):
    given, labels, queries = points
    found = nearest_mean(given, labels, queries, 8)
    scaled = lambda x: (x - given.mean(0)) / given.std(0)  # noqa: E731
    model = NearestCentroid().fit(scaled(given), labels)
    assert (found.argmax(1) == model.predict(scaled(queries))).all() and (found[:, 6:] == -np.inf).all()
    by_hand = -((scaled(queries)[:, None] - model.centroids_) ** 2).mean(2)
    np.testing.assert_allclose(found[:, :6], by_hand, atol=1e-5)


def test_a_constant_feature_changes_nothing(points):
    given, labels, queries = points
    more = lambda x: np.concatenate([x, np.ones((len(x), 1), np.float32)], 1)  # noqa: E731
    found = nearest_mean(more(given), labels, more(queries), 6)
    np.testing.assert_allclose(found * 9 / 8, nearest_mean(given, labels, queries, 6), atol=1e-5)
