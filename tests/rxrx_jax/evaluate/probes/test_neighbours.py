"""k-nearest neighbours and class means against scikit-learn and by hand, ties, supports, and what is refused."""

import dataclasses
import types

import numpy as np
import pytest
from protocol_tools import screen
from sklearn.neighbors import KNeighborsClassifier

from rxrx_jax.base.errors import UserError
from rxrx_jax.data import Roles
from rxrx_jax.evaluate import protocols
from rxrx_jax.evaluate.probes import neighbours


@pytest.mark.parametrize("k", [1, 10, 20])
def test_votes_are_scikit_learns(points, k, monkeypatch):
    given, labels, queries = points
    monkeypatch.setattr(neighbours, "BLOCK", 64)  # so that the last block is not full
    near = neighbours.nearest(given, queries, 20)
    found = neighbours.votes(near, labels, 7, k)
    np.testing.assert_array_equal(near[:, :k], neighbours.nearest(given, queries, k))
    monkeypatch.setattr(neighbours, "SIMILARITIES", 1)  # a query at a time
    np.testing.assert_array_equal(near, neighbours.nearest(given, queries, 20))
    model = KNeighborsClassifier(k, metric="cosine", algorithm="brute").fit(given, labels)
    np.testing.assert_allclose(np.exp(found[:, :6]), model.predict_proba(queries), atol=1e-6)
    assert (found.argmax(1) == model.predict(queries)).all() and (found[:, 6] == -np.inf).all()


def test_ties_go_by_index():
    given = np.array([[1, 0], [2, 0], [0, 1], [0, 3], [4, 0]], np.float32)  # all on two rays
    labels, query = np.array([3, 1, 2, 0, 0]), np.array([[5, 0]], np.float32)
    near = neighbours.nearest(given, query, 99)
    assert near.tolist() == [[0, 1, 4, 2, 3]]  # of three equally near the first comes first, and there are five
    assert np.exp(neighbours.votes(near, labels, 4, 2))[0].tolist() == pytest.approx([0, 0.5, 0, 0.5])
    assert neighbours.votes(near, labels, 4, 2).argmax() == 1
    assert np.exp(neighbours.votes(near, labels, 4, 99)).sum() == pytest.approx(1)


SMALL = dict(treatments=4, replicates=3, positive_controls=2, positive_wells=2, untreated_wells=1)


def embedded(noise=0.3, shift=0.0, seed=0, **settings):
    """The simulated screen's table, and embeddings [n, 12] that show the class, noise and the experiment's shift."""
    dataset = screen(**(SMALL | settings))
    random, sites = np.random.default_rng(seed), dataset.sites
    x = random.normal(size=(7, 12))[sites.label] + noise * random.normal(size=(len(sites), 12))
    return dataset, (x + shift * random.normal(size=(len(dataset.experiments), 12))[sites.experiment]).astype(
        np.float32
    )


def scores(dataset, x, k=(), **changes):
    dataset = types.SimpleNamespace(**vars(dataset) | changes)
    return dict(neighbours.score(x, np.arange(len(x)), dataset, k))


def k_shot(dataset, settings):
    return protocols.roles(dataset, f"k_shot:cell_type=SIMA,partial,{settings}")


@pytest.mark.parametrize("settings", ["k=1", "k=2", "k=2,seed=3", "k=4"])
def test_prototypes_are_the_means_of_k_wells_of_the_held_out_cell_type(settings):
    """Scored again in a few lines from the rows alone."""
    dataset, x = embedded(shift=0.5)
    roles, sites = k_shot(dataset, settings), dataset.sites
    found = scores(dataset, x, roles=roles)
    wells = {}
    for row in roles.support:
        wells.setdefault(sites.label[row], set()).add(sites.well_id[row])
    assert {len(found) for found in wells.values()} == {int(settings[2])} and len(wells) == 7
    z = (x - x[roles.support].mean(0)) / x[roles.support].std(0)
    means = np.stack([z[[r for r in roles.support if sites.label[r] == c]].mean(0) for c in range(7)])
    for role in ("in_batch_wells", "cross_batch"):
        rows = roles.scored[role]
        nearest = ((z[rows, None] - means) ** 2).sum(2).argmin(1)
        assert found[f"neighbours/class_mean/{role}/site_accuracy"] == np.mean(nearest == sites.label[rows])
        assert set(sites.cell_type[rows]) == {dataset.cell_types.index("SIMA")}
    # Other cell types have no prototypes of their own.
    assert not any("in_batch/" in name or "validation" in name for name in found)


def test_controls_as_free_support_undo_the_shift_of_an_experiment():
    dataset, x = embedded(noise=0.1, shift=2.0)
    plain, told = (scores(dataset, x, roles=k_shot(dataset, f"k=1{more}")) for more in ("", ",controls"))
    name = "neighbours/class_mean/cross_batch/site_accuracy"
    assert told[name] > 0.95 > 0.7 > plain[name]
    roles = k_shot(dataset, "k=1,controls")
    y = neighbours.moved(x, np.arange(len(x)), types.SimpleNamespace(**vars(dataset) | {"roles": roles}))
    sites = dataset.sites
    giving = set(sites.experiment[roles.support[sites.well_type[roles.support] == "treatment"]])
    for experiment in set(sites.experiment[roles.support]):
        here = sites.experiment == experiment
        offset = (x - y)[here]
        np.testing.assert_allclose(offset, offset[:1].repeat(here.sum(), 0), atol=1e-5)
        assert (np.abs(offset).max() > 0.5) == (experiment not in giving)
    untouched = ~np.isin(sites.experiment, sites.experiment[roles.support])
    np.testing.assert_array_equal(x[untouched], y[untouched])


def test_an_experiment_without_controls_is_refused_where_they_are_support():
    dataset, _ = embedded()
    kinds = dataset.sites.well_type.copy()
    kinds[dataset.sites.experiment == dataset.experiments.index("SIMA-03")] = "treatment"
    dataset.sites = dataclasses.replace(dataset.sites, well_type=kinds)
    with pytest.raises(UserError, match="^protocol k_shot:controls: SIMA-03 has no control well; leave controls out"):
        k_shot(dataset, "controls")
    assert len(k_shot(dataset, "k=1").support)
    dataset.sites = dataclasses.replace(dataset.sites, well_type=None)
    with pytest.raises(UserError, match="no column well_type"):
        k_shot(dataset, "controls")


def test_an_experiment_that_shares_no_control_is_refused():
    dataset, x = embedded()
    roles = k_shot(dataset, "k=1,controls")
    told = neighbours.only_controls_told(dataset, roles.support)
    lost = np.isin(dataset.sites.experiment[roles.support], told[:1])
    label = dataset.sites.label.copy()
    label[roles.support[lost]] = 3  # of none of their controls
    sites = dataclasses.replace(dataset.sites, label=label)
    with pytest.raises(UserError, match=f"{dataset.experiments[told[0]]} shares no control with the experiments"):
        scores(dataset, x, roles=roles, sites=sites)


def test_without_a_support_the_fitted_rows_are_near():
    dataset, x = embedded()
    roles = protocols.roles(dataset, "held_out_experiments")
    found = scores(dataset, x, k=(1, 10), roles=roles)
    model = KNeighborsClassifier(10, metric="cosine").fit(x[roles.fit], dataset.sites.label[roles.fit])
    for role, rows in roles.scored.items():
        right = model.predict(x[rows]) == dataset.sites.label[rows]
        assert found[f"neighbours/knn_10/{role}/site_accuracy"] == pytest.approx(right.mean())
        assert f"neighbours/knn_1/{role}/well_accuracy" in found and f"neighbours/class_mean/{role}/sites" in found


def test_a_class_without_a_reference_is_wrong_and_not_left_out():
    dataset, x = embedded(noise=0.01)
    roles = protocols.roles(dataset, "held_out_experiments")
    fit = roles.fit[dataset.sites.label[roles.fit] != 2]
    found = scores(dataset, x, k=(1,), roles=Roles(fit, roles.scored))
    label = dataset.sites.label[roles.scored["cross_batch"]]
    for name in ("knn_1", "class_mean"):
        assert found[f"neighbours/{name}/cross_batch/site_accuracy"] == pytest.approx(np.mean(label != 2))
        assert found[f"neighbours/{name}/cross_batch/sites"] == len(label)
        missing = [found[f"neighbours/{name}/cross_batch/absent_{what}"] for what in ("classes", "sites")]
        assert missing == [1, (label == 2).sum()]


def test_embeddings_with_nan_are_refused():
    dataset, x = embedded()
    x[3, 2] = np.nan
    x[5, 1] = np.inf
    with pytest.raises(UserError, match="^2 embeddings hold NaN or infinite values: embed again"):
        scores(dataset, x, roles=protocols.roles(dataset, "held_out_experiments"))
    with pytest.raises(UserError, match="no row that is trained on, or is support, has a label"):
        scores(*embedded(), roles=Roles())
