"""Every kind of probe under a protocol: what it is fitted to, how its C is chosen, and classes that it never saw."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from protocol_tools import screen

from rxrx_jax.base import sharding
from rxrx_jax.base.errors import UserError
from rxrx_jax.data import Roles, Scoring
from rxrx_jax.evaluate import protocols
from rxrx_jax.evaluate.probes import kinds, lars, logistic, neighbours

SMALL = dict(version="v2", treatments=4, replicates=2, positive_controls=2, positive_wells=2, untreated_wells=2)


@pytest.fixture(scope="module")
def embedded():
    """The simulated screen's table with its default protocol, and embeddings [n, 12] of class, noise and experiment."""
    dataset = screen(**SMALL)
    dataset.roles = protocols.roles(dataset, "held_out_experiments")
    random, sites = np.random.default_rng(0), dataset.sites
    x = random.normal(size=(7, 12))[sites.label] + random.normal(size=(len(sites), 12))
    x += random.normal(size=(len(dataset.experiments), 12))[sites.experiment]
    return dataset, x.astype(np.float32)


def changed(dataset, **more):
    return type(dataset)(**vars(dataset) | more)


def scored(dataset, x, kind=kinds.KINDS[0], rows=None):
    rows = np.arange(len(x)) if rows is None else rows
    return dict(kinds.score("x", x[rows], rows, dataset, kind=kind))


def test_c_is_the_best_on_validation_and_no_other_held_out_row_takes_part(embedded, monkeypatch):
    dataset, x = embedded
    monkeypatch.setattr(logistic, "STRENGTHS", (1e-3, 1.0, 1e2))
    sites, roles = dataset.sites, dataset.roles
    fit, validation = roles.fit, roles.scored["validation"]
    right = {}
    for strength in logistic.STRENGTHS:
        model = logistic.fit(x[fit], sites.label[fit], strength)
        right[strength] = (model.predict(x[validation]) == sites.label[validation]).mean()
    found = scored(dataset, x)
    assert found["x/C"] == max(right, key=right.get) != 1.0 and found["x/C_chosen_on"] == "validation"
    assert found["x/validation/site_accuracy"] == max(right.values()) > found["x/C_1/validation/site_accuracy"]
    assert found["x/C_1/C"] == 1.0 and found["x/C_1/validation/site_accuracy"] == right[1.0]
    assert found["x/converged"] == 1.0 and 0 < found["x/steps"] < 500 and found["x/gradient"] < 1e-4
    # With all else that is held out turned into something else, the probes are the same.
    label, other, others = sites.label.copy(), x.copy(), np.setdiff1d(np.arange(len(x)), np.union1d(fit, validation))
    label[others], other[others] = (label[others] + 1) % 7, 100.0
    again = scored(changed(dataset, sites=dataclasses.replace(sites, label=label)), other)
    for name in found:
        held_out = any(f"/{role}/" in name for role in roles.scored if role != "validation")
        assert held_out or again[name] == found[name] or np.isnan(found[name]), name
    assert again["x/cross_batch/site_accuracy"] != found["x/cross_batch/site_accuracy"]


def test_the_metric_is_the_protocols(embedded, monkeypatch):
    """Where the commonest class fills validation, the strongest penalty is best per site and not by class."""
    dataset, x = embedded
    monkeypatch.setattr(logistic, "STRENGTHS", (1e-3, 1.0))
    label = dataset.sites.label.copy()
    label[dataset.roles.fit[::2]] = 0
    held = dataset.roles.scored["validation"]
    keep = np.flatnonzero((label[held] != 0) & (np.arange(len(held)) % 4 == 0))
    label[np.delete(held, keep)] = 0
    dataset = changed(dataset, sites=dataclasses.replace(dataset.sites, label=label))
    by_class = dataclasses.replace(dataset.roles, scoring=Scoring(chosen_by="balanced_accuracy"))
    assert scored(dataset, x)["x/C"] == 1e-3 and scored(changed(dataset, roles=by_class), x)["x/C"] == 1.0


@pytest.mark.parametrize("lost", ["role", "labels"])
def test_without_validation_c_is_1(embedded, lost):
    dataset, x = embedded
    label, roles = dataset.sites.label.copy(), dataset.roles
    if lost == "labels":
        label[roles.scored["validation"]] = -1
    else:
        roles = Roles(roles.fit, {role: rows for role, rows in roles.scored.items() if role != "validation"})
    dataset = changed(dataset, roles=roles, sites=dataclasses.replace(dataset.sites, label=label))
    found = scored(dataset, x)
    assert found["x/C"] == 1.0 and found["x/C_chosen_on"] == ""
    assert found["x/cross_batch/site_accuracy"] == found["x/C_1/cross_batch/site_accuracy"]


@pytest.mark.parametrize("kind", ["logistic", "lars", "class_mean", "knn_1", "knn_3"])
def test_a_class_absent_from_training_is_counted_and_scored_as_wrong(embedded, kind, monkeypatch):
    dataset, x = embedded
    monkeypatch.setattr(logistic, "STRENGTHS", (1.0,))
    label, roles = dataset.sites.label, dataset.roles
    dataset = changed(dataset, roles=dataclasses.replace(roles, fit=roles.fit[label[roles.fit] != 2]))
    x = x + 20 * np.eye(12, dtype=np.float32)[label]  # all else is plain to see
    rows = np.setdiff1d(np.arange(len(x)), roles.scored["validation"][::2])
    found = scored(dataset, x, kind, rows)
    for prefix in ("x", "x/C_1") if kind == "logistic" else ("x",):
        for role in roles.scored:
            members = np.intersect1d(roles.scored[role], rows)
            assert found[f"{prefix}/{role}/sites"] == len(members)
            assert found[f"{prefix}/{role}/site_accuracy"] == pytest.approx((label[members] != 2).mean())
            missing = [found[f"{prefix}/{role}/absent_{what}"] for what in ("classes", "sites")]
            assert missing == [1, (label[members] == 2).sum()]
    assert ("x/training_accuracy" in found) == (kind == "lars")


@pytest.mark.parametrize("kind", ["logistic", "lars", "knn_3"])
def test_a_mesh_in_force_changes_nothing(embedded, kind, monkeypatch):
    """Each host fits by itself, on one device."""
    dataset, x = embedded
    monkeypatch.setattr(logistic, "STRENGTHS", (1.0,))
    monkeypatch.setattr(lars, "LEAST_STEPS", 20)
    meshes = []
    for module, name in ((logistic, "_minimise"), (lars, "_train"), (neighbours, "_nearest")):
        original = getattr(module, name)

        def spy(*given, original=original):
            meshes.append(jnp.zeros(1).sharding)
            return original(*given)

        monkeypatch.setattr(module, name, spy)
    plain = scored(dataset, x, kind)
    with jax.set_mesh(sharding.make_mesh()):
        assert scored(dataset, x, kind) == pytest.approx(plain, nan_ok=True)
    assert meshes and all(of.mesh.axis_names == ("alone",) for of in meshes)


def test_unknown_kinds_and_what_cannot_be_fitted_are_one_line(embedded):
    dataset, x = embedded
    assert [kinds.check(kind, "--probe") for kind in (*kinds.KINDS, "knn_7")] == [*kinds.KINDS, "knn_7"]
    for wrong in ("knn", "knn_0", "svm", ""):
        with pytest.raises(UserError, match="^--probe='.*': expected logistic, lars, class_mean, knn_1, knn_10, knn_2"):
            kinds.check(wrong, "--probe")
    with pytest.raises(UserError, match="needs training sites with labels, and there are none"):
        scored(changed(dataset, roles=Roles(scored=dataset.roles.scored)), x)
    x = x.copy()
    x[dataset.roles.scored["cross_batch"][3], 2] = np.nan
    with pytest.raises(UserError, match="^1 embeddings hold NaN or infinite values"):
        scored(dataset, x, "knn_1")


def test_a_fit_in_words():
    about = {"C": 0.1, "converged": 1.0, "steps": 41, "gradient": 9.31e-5, "C_chosen_on": "validation"}
    said = (
        "C = 0.1 chosen on validation, converged after 41 steps of L-BFGS, the gradient's largest entry 9.3e-05 per row"
    )
    assert kinds.in_words(kinds.Probe(None, about)) == said
    assert "C = 0.1, NOT CONVERGED after" in kinds.in_words(
        kinds.Probe(None, {k: about[k] for k in ("C", "steps", "gradient")} | {"converged": 0.0})
    )
    assert kinds.in_words(kinds.Probe(None, {"training_accuracy": 0.98765})) == "training accuracy 0.9877"
