"""Control anchors by their formulas: blind to treatments' labels, marked, and refused where they cannot be used."""

import dataclasses
import types

import jax
import numpy as np
import pytest
import scipy.optimize
import scipy.special
from parameters import random_variables

from rxrx_jax import adapt, data
from rxrx_jax.adapt.anchors.control_affine import ControlAffine, affine
from rxrx_jax.adapt.anchors.control_bias import ControlBias, bias
from rxrx_jax.adapt.anchors.control_mean import ControlMean
from rxrx_jax.adapt.controls import PENALTIES
from rxrx_jax.adapt.method import Method, Network
from rxrx_jax.adapt.statistics.adabn import AdaBN
from rxrx_jax.base.errors import UserError
from rxrx_jax.base.sharding import make_mesh
from rxrx_jax.data.augment import Augment
from rxrx_jax.evaluate import accuracy
from rxrx_jax.evaluate.predict import Context
from rxrx_jax.models.convnet import ConvNet
from rxrx_jax.models.heads import Head
from rxrx_jax.models.vit import Encoder, Size, Style
from rxrx_jax.tasks.classify import Classify

CLASSES, TREATMENTS = 7, 3  # then three positive controls, then untreated
EXPERIMENTS = ("A-01", "A-02", "B-01", "A-03", "A-04", "B-02")
ROLE = ("fit", "fit", "fit", "validation", "cross_batch", "cross_batch")
PER_PLATE = (0, 1, 2, 3, 4, 5, 6, 6)  # labels
EVERY = {"mean": ControlMean(), "affine": ControlAffine(), "bias": ControlBias()}


def table():
    """Two plates an experiment, eight wells a plate."""
    n = len(EXPERIMENTS) * 2 * len(PER_PLATE)
    experiment = np.repeat(np.arange(len(EXPERIMENTS), dtype=np.int32), 2 * len(PER_PLATE))
    label = np.tile(np.array(PER_PLATE, np.int32), 2 * len(EXPERIMENTS))
    values = {field.name: np.zeros(n, np.int32) for field in dataclasses.fields(data.Sites)}
    values |= dict(split=np.full(n, "train"), index=np.arange(n), label=label, experiment=experiment)
    values |= dict(plate=np.repeat(np.arange(n // 8, dtype=np.int32), 8), site_id=np.array([f"s{i}" for i in range(n)]))
    values |= dict(well_id=values["site_id"], cell_type=np.isin(experiment, (2, 5)).astype(np.int32))
    kinds = np.array(["treatment", "positive_control", "negative_control"])
    return data.Sites(**values | dict(well_type=kinds[(label >= TREATMENTS).astype(int) + (label == CLASSES - 1)]))


def roles(experiment):
    rows = lambda name: np.flatnonzero(np.isin(experiment, [i for i, r in enumerate(ROLE) if r == name]))  # noqa: E731
    return data.Roles(rows("fit"), {name: rows(name) for name in ("validation", "cross_batch")})


def make_context(readings, encoder=None, label=None):
    sites = table()
    random = np.random.default_rng(0)
    centres = random.integers(60, 160, (CLASSES, 4, 4, 2)) + random.integers(-30, 30, (len(EXPERIMENTS), 1, 4, 4, 2))
    noise = random.integers(-20, 20, (len(sites), 4, 4, 2))
    images = (centres[sites.experiment, sites.label] + noise).astype(np.uint8)
    if label is not None:
        sites = dataclasses.replace(sites, label=label)
    plates = [f"{name}/{i}" for name in EXPERIMENTS for i in (1, 2)]
    named = ["A", "B"], [str(i) for i in range(CLASSES)], (4, 4, 2), {}, {}, {"train": list(images)}
    dataset = data.Dataset(None, sites, list(EXPERIMENTS), plates, *named, roles=roles(sites.experiment))
    task = Classify(encoder or ConvNet((5,)), Head(CLASSES), Method(), 0.0)
    variables = random_variables(task.init, np.zeros((1, 4, 4, 2), np.float32))
    statistics = {"mean": np.full((1, 2), 110, np.float32), "std": np.full((1, 2), 40, np.float32)}
    augment = Augment("dataset", 4, False, False, 0.0)
    context = Context(task, readings, dataset, augment, statistics, make_mesh(), 32, None, 0)
    context.network = Network(variables["params"], variables["batch_stats"])
    return context


@pytest.fixture(scope="module")
def context():
    return make_context({"": Method()} | EVERY)


@pytest.fixture(scope="module")
def plain(context):
    """(features, logits) of every image, float64; the head, as a function."""
    found = context(context.network, np.arange(len(context.dataset.sites)))
    head = jax.tree.map(lambda a: np.asarray(a, np.float64), context.network.params["head"]["linear"])
    features, logits = (found[key].astype(np.float64) for key in ("embedding", "logits"))
    return features, logits, lambda x: x @ head["kernel"] + head["bias"]


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)  # predictions are float32


def reference(sites, experiment):
    """The fitted rows of the same cell type."""
    return np.isin(sites.experiment, (2,) if experiment in (2, 5) else (0, 1))


def test_control_mean_moves_the_untreated_of_each_plate_to_those_of_training(context, plain):
    (x, _, head), sites, rows = plain, context.dataset.sites, context.dataset.roles.scored["cross_batch"]
    untreated, moved = sites.label == CLASSES - 1, x.copy()
    for plate in np.unique(sites.plate):
        here = sites.plate == plate
        there = reference(sites, sites.experiment[here][0])
        moved[here] += x[there & untreated].mean(0) - x[here & untreated].mean(0)
    found = context.predict("cross_batch", "mean")
    close(found["embedding"], moved[rows])
    close(found["logits"], head(moved[rows]))
    np.testing.assert_array_equal(found["row"], rows)


def test_the_affine_map_is_the_ridge_regression_by_its_normal_equations(context, plain):
    random = np.random.default_rng(1)
    here, there = random.normal(size=(2, 4, 9))
    x, s, t = random.normal(size=(6, 9)), here - here.mean(0), there - there.mean(0)
    for penalty in (1e-2, 3.0):
        ridge = penalty * np.square(s).sum() / 4
        a = np.linalg.solve(s.T @ s + ridge * np.eye(9), s.T @ t + ridge * np.eye(9))  # d/dA = 0
        np.testing.assert_allclose(affine(x, here, there, penalty), (x - here.mean(0)) @ a + there.mean(0), rtol=1e-6)
    np.testing.assert_allclose(affine(here, here, there, 1e-9), there, atol=1e-6)
    np.testing.assert_allclose(affine(x, here, there, 1e12), x - here.mean(0) + there.mean(0), atol=1e-9)
    np.testing.assert_allclose(affine(x, here[:1], there[:1], 1.0), x - here[0] + there[0])  # one class: a shift

    (x, _, head), sites = plain, context.dataset.sites
    fixed = dataclasses.replace(context, readings={"affine": ControlAffine(penalty=0.5)})
    fixed.network, rows = context.network, context.dataset.roles.scored["cross_batch"]
    found, moved = fixed.predict("cross_batch", "affine"), x.copy()
    for one in (4, 5):
        at, ref = sites.experiment == one, reference(sites, one)
        mean = lambda of: np.array([x[of & (sites.label == c)].mean(0) for c in range(TREATMENTS, CLASSES)])  # noqa: E731
        moved[at] = affine(x[at], mean(at), mean(ref), 0.5)
    close(found["embedding"], moved[rows])
    close(found["logits"], head(moved[rows]))
    assert set(found["chosen_penalty"]) == {0.5}


def test_the_bias_minimises_its_loss():
    random = np.random.default_rng(2)
    logits, label = random.normal(size=(30, 5)) * 2, np.repeat([1, 2, 4], [20, 5, 5])

    def loss(b):
        log_p = scipy.special.log_softmax(logits + b, axis=1)[np.arange(30), label]
        return -np.mean([log_p[label == c].mean() for c in (1, 2, 4)]) + 0.3 * (b**2).sum() / 2

    limits = dict(maxiter=9999, maxfev=9999, xatol=1e-9, fatol=1e-14)
    best = scipy.optimize.minimize(loss, np.zeros(5), method="Nelder-Mead", options=limits)
    found = bias(logits, label, 0.3)
    np.testing.assert_allclose(found, best.x, atol=1e-5)
    assert loss(found) <= best.fun + 1e-10 and np.abs(bias(logits, label, 1e6)).max() < 1e-5


def test_the_penalty_is_the_best_for_control_classes_left_out_of_validation(context, plain):
    (x, z, head), sites = plain, context.dataset.sites
    here, ref = sites.experiment == 3, reference(sites, 3)
    mean = lambda of, classes: np.array([x[of & (sites.label == c)].mean(0) for c in classes])  # noqa: E731
    scores = {"affine": [], "bias": []}
    for penalty in PENALTIES:
        log_p = {"affine": [], "bias": []}
        for left in range(TREATMENTS, CLASSES):  # four classes, each in a part of its own
            kept, out = [c for c in range(TREATMENTS, CLASSES) if c != left], here & (sites.label == left)
            moved = {"affine": head(affine(x[out], mean(here, kept), mean(ref, kept), penalty))}
            of = here & np.isin(sites.label, kept)
            moved["bias"] = z[out] + bias(z[of], sites.label[of], penalty)
            for name, logits in moved.items():
                log_p[name].extend(scipy.special.log_softmax(logits, axis=1)[:, left])
        for name, values in log_p.items():
            scores[name].append(np.mean(values))
    for name, values in scores.items():
        assert np.ptp(values) > 1e-3
        assert set(context.predict("cross_batch", name)["chosen_penalty"]) == {PENALTIES[int(np.argmax(values))]}


def test_the_metrics_with_marks_and_without_controls(context):
    found = dict(accuracy.evaluate(context))
    sites, rows = context.dataset.sites, context.dataset.roles.scored["cross_batch"]
    for name in ("", *(f"{reading}/" for reading in context.readings if reading)):
        assert found[f"{name}cross_batch/sites"] == len(rows)
        assert found[f"{name}cross_batch/treatments/sites"] == (sites.label[rows] < TREATMENTS).sum()
        assert ("C" in found.get(f"marks/{name}cross_batch", "")) == bool(name)
        assert (f"{name}cross_batch/chosen_penalty" in found) == name.startswith(("affine", "bias"))
    plain = dataclasses.replace(context, readings={"": Method()})
    found = dict(accuracy.evaluate(plain.use(types.SimpleNamespace(network=lambda: context.network))))
    assert not [name for name in found if "treatments" in name or "chosen" in name]


@pytest.mark.parametrize("encoder", [ConvNet((5,)), Encoder(Size(8, 1, 16, 2), 2, Style())], ids=["convnet", "vit"])
def test_labels_of_held_out_treatments_change_nothing_and_those_of_controls_do(encoder):
    readings, sites = {"": Method()} | EVERY, table()
    held_out = ~np.isin(sites.experiment, (0, 1, 2))
    treated, random = sites.label < TREATMENTS, np.random.default_rng(3)
    found = {}
    for name, among in (("as it is", None), ("treatments", held_out & treated), ("controls", held_out & ~treated)):
        label = sites.label.copy()
        if among is not None:
            label[among] = random.permutation(label[among])
        context = make_context(readings, encoder, label)
        found[name] = {reading: context.predict("cross_batch", reading) for reading in readings}
    for reading in readings:
        for key, values in found["as it is"][reading].items():
            np.testing.assert_array_equal(found["treatments"][reading][key], values)
        same = np.array_equal(found["controls"][reading]["logits"], found["as it is"][reading]["logits"])
        # Which wells are untreated is their type, which the labels here do not say.
        assert same == (reading in ("", "mean"))
        plain = found["as it is"][""]["logits"]
        assert np.array_equal(found["as it is"][reading]["logits"], plain) == (reading == "")


def test_shuffled_controls_are_the_same_images_said_to_be_others(context):
    fitted, held_out = context.dataset.roles.fit, context.dataset.roles.scored["cross_batch"]
    for method in (ControlMean(), ControlAffine(penalty=0.1), ControlBias(penalty=0.1)):
        shuffled = dataclasses.replace(method, shuffled=True)
        true, false, again = (context._read(m, held_out)["logits"] for m in (method, shuffled, shuffled))
        assert np.abs(true - false).max() > 1e-2
        np.testing.assert_array_equal(again, false)
        of_fit = [context._read(m, fitted)["logits"] for m in (method, shuffled)]  # what was trained on stays
        np.testing.assert_array_equal(*of_fit)


def test_what_a_method_is_told_of_the_table(context):
    told = {}

    @dataclasses.dataclass(frozen=True)
    class Spy(Method):
        controls: bool = False

        @property
        def needs(self):
            return adapt.Needs(controls=self.controls)

        def at_test(self, predict, network, group):
            told[self.controls] = group.sites
            return predict(network, group.rows)

    for controls in (False, True):
        context._read(Spy(controls=controls), context.dataset.roles.scored["cross_batch"])
    sites = context.dataset.sites
    np.testing.assert_array_equal(told[True].label, np.where(sites.label >= TREATMENTS, sites.label, -1))
    assert (told[False].label == -1).all() and set(told[False].well_type) == {""}


def test_what_cannot_be_anchored_is_one_line(context):
    dataset = context.dataset
    gone = np.where(dataset.sites.plate == 9, "treatment", dataset.sites.well_type)
    without = dataclasses.replace(dataset, sites=dataclasses.replace(dataset.sites, well_type=gone))
    with pytest.raises(
        UserError, match="^post_hoc.m: ControlMean needs untreated wells on every plate, and A-04/2 has none$"
    ):
        adapt.check_controls("post_hoc.m", ControlMean(), without)
    adapt.check_controls("post_hoc.m", ControlAffine(), without)  # the experiment's other plate has some
    with pytest.raises(UserError, match="^adapt.name: ControlBias moves what .* head is given; this task has none$"):
        adapt.check_controls("adapt.name", ControlBias(), dataset, classifies=False)
    only = data.Roles(dataset.roles.fit, {"cross_batch": dataset.roles.scored["cross_batch"]})
    unselected = dataclasses.replace(dataset, roles=only)
    with pytest.raises(UserError, match="ControlAffine chooses its penalty on validation .* penalty above 0$"):
        adapt.check_controls("post_hoc.m", ControlAffine(), unselected)
    adapt.check_controls("post_hoc.m", ControlAffine(penalty=1.0), unselected)
    adapt.check_controls("post_hoc.m", AdaBN(), unselected)
    treated = data.Roles(np.flatnonzero(dataset.sites.label < TREATMENTS), {})
    with pytest.raises(UserError, match="^post_hoc.m: ControlMean moves controls to .* which have none$"):
        adapt.check_controls("post_hoc.m", ControlMean(), dataclasses.replace(dataset, roles=treated))
    found = adapt.make_method({"name": "control_mean", "shuffled": True}, {"experiment": (1.0,), "plate": (0.5, 0.5)})
    assert found == ControlMean("plate", (0.5, 0.5), 0, True)
