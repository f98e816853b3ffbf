"""Batch statistics: every method's are those of the images that it says, in training and at test."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from method_tools import SHARES, batch_of, close, draw, make, windows
from parameters import random_variables
from step_tools import collections as of_step

from rxrx_jax import data
from rxrx_jax.adapt.method import Group, Method, Network
from rxrx_jax.adapt.statistics.adabn import AdaBN
from rxrx_jax.adapt.statistics.arm_bn import ArmBN
from rxrx_jax.adapt.statistics.batch_statistics import BatchStatistics
from rxrx_jax.adapt.statistics.ben import BEN
from rxrx_jax.adapt.statistics.context_token import ContextToken
from rxrx_jax.adapt.statistics.cs_bn import CSBN
from rxrx_jax.adapt.statistics.ttbna import TTBNA
from rxrx_jax.base.sharding import make_mesh
from rxrx_jax.data.augment import EPSILON, Augment
from rxrx_jax.data.batch import CONTROLS, TRAIN
from rxrx_jax.evaluate.predict import Context
from rxrx_jax.models.convnet import ConvNet
from rxrx_jax.models.heads import Head
from rxrx_jax.models.vit import Encoder, Size
from rxrx_jax.tasks.classify import Classify


def test_the_table_of_settings():
    keys = lambda method: (method.train, method.read, method.context)  # noqa: E731
    assert keys(AdaBN()) == ("experiment", "experiment", "all")
    assert keys(TTBNA()) == ("mixed", "minibatch", "all")
    assert keys(BEN()) == ("plate", "plate", "all")
    assert keys(ArmBN()) == ("experiment", "minibatch", "all")
    assert keys(CSBN()) == ("plate", "plate", "both")
    assert keys(BatchStatistics()) == ("mixed", "experiment", "all")  # what adabn is post hoc
    domains = {m: m().domain for m in (AdaBN, TTBNA, BEN, ArmBN, CSBN)}
    assert domains == {AdaBN: "experiment", TTBNA: "experiment", ArmBN: "experiment", BEN: "plate", CSBN: "plate"}
    assert BatchStatistics(train="mixed", read="plate").domain == "plate"
    read_by = (ArmBN(train="plate").read_by, TTBNA().read_by, BEN(read="experiment").read_by)
    assert read_by == ("plate", "experiment", "experiment")


# Training.

TRAINED = {  # name: (method, groups that its 8 images and 4 untreated ones share statistics in)
    "adabn": (AdaBN(SHARES, 1), 1),
    "ttbna": (TTBNA(SHARES), 1),
    "ben": (BEN(SHARES, 1), 1),
    "arm_bn": (ArmBN(SHARES, 2), 2),
    "cs_bn": (CSBN(SHARES, 1), 1),
    "controls alone": (CSBN(SHARES, 1, context="controls"), 1),
    "arm_bn of four with controls": (ArmBN(SHARES, 4, context="both"), 4),
    "arm_bn of controls alone": (ArmBN(SHARES, 2, context="controls"), 2),
}


@pytest.mark.parametrize("name", TRAINED)
def test_training_normalises_by_the_statistics_of_the_group(name):
    method, groups = TRAINED[name]
    with jax.enable_x64(True):
        random = np.random.default_rng(0)
        streams = {TRAIN: draw(8, side=2)}
        if method.context != "all":
            streams[CONTROLS] = draw(4, seed=1, side=2) | {"label": np.full(4, -1)}
        for columns in streams.values():  # every group is brighter than the one before
            size = len(columns["label"]) // groups
            columns["image"] *= np.repeat(1.0 + np.arange(groups), size)[:, None, None, None]
            columns["image"] += np.repeat(np.arange(groups), size)[:, None, None, None]
        task = make(method, ConvNet((3,), dtype=jnp.float64))
        params = task.init(jax.random.key(0), np.zeros((1, 2, 2, 2)))["params"]
        params = jax.tree.map(lambda x: jnp.asarray(random.normal(size=x.shape)), params)
        stats = {"encoder": {"norm0": {"mean": jnp.zeros(3), "var": jnp.ones(3)}}, "head": {}}
        batch = batch_of(streams)

        def encode(images, average=False, statistics=None):
            return task._apply(params, stats, images, statistics, train=True)

        found, extra = method.forward(encode, batch.images, batch)
        assert extra == {}

        kernel = np.asarray(params["encoder"]["conv0"]["kernel"]).reshape(-1, 3)
        scale, bias = (np.asarray(params["encoder"]["norm0"][name]) for name in ("scale", "bias"))
        expected, means, variances = {name: [] for name in streams}, [], []
        parts = {name: np.split(columns["image"], groups) for name, columns in streams.items()}
        for g in range(groups):
            x = {name: windows(part[g])[:, 0] @ kernel for name, part in parts.items()}  # one window per image
            seen = x[CONTROLS] if method.context == "controls" else np.concatenate([*x.values()])
            means.append(seen.mean(0))
            variances.append(seen.var(0))
            for name, values in x.items():
                y = (values - seen.mean(0)) / np.sqrt(seen.var(0) + 1e-5) * scale + bias
                expected[name].append(np.maximum(y, 0))
        for name in streams:
            close(batch.of(name, found.features), np.concatenate(expected[name]))
        running = found.batch_stats["encoder"]["norm0"]  # momentum 0.9
        close(running["mean"], 0.1 * np.mean(means, axis=0))
        close(running["var"], 0.9 + 0.1 * np.mean(variances, axis=0))


def test_the_loss_is_that_of_the_images_beside_the_controls():
    method = CSBN(SHARES, 1)
    streams = {TRAIN: draw(8, side=2), CONTROLS: draw(4, seed=1, side=2) | {"label": np.full(4, -1)}}
    streams = {name: columns | {"plate": columns["experiment"]} for name, columns in streams.items()}
    task, batch = make(method, ConvNet((3,))), batch_of(streams)
    variables = random_variables(task.init, np.zeros((1, 2, 2, 2), np.float32))
    collections = of_step(variables)

    @jax.jit
    def run(params):
        encoded = task._apply(params, variables["batch_stats"], batch.images, None, train=True)
        return task.loss(params, collections, batch, jax.random.key(0), 0.5), encoded.logits

    (loss, (_, found)), logits = run(variables["params"])
    logits = np.asarray(logits, np.float64)[:8]
    errors = np.log(np.exp(logits).sum(1)) - logits[np.arange(8), streams[TRAIN]["label"]]
    close(loss, errors.mean(), rtol=1e-5)
    close(found["accuracy"], (logits.argmax(1) == streams[TRAIN]["label"]).mean())


@pytest.mark.parametrize("name", ["adabn", "arm_bn", "cs_bn", "controls alone", "arm_bn of controls alone", "token"])
def test_three_updates_lower_the_loss_and_names_of_domains_do_not_matter(name):
    method = ContextToken(shares=SHARES, groups=1) if name == "token" else TRAINED[name][0]
    task = make(method, Encoder(Size(8, 1, 16, 2), 4) if name == "token" else ConvNet((6,)))
    streams = {TRAIN: draw(8, side=8), CONTROLS: draw(4, seed=1, side=8) | {"label": np.full(4, -1)}}
    if not method.needs.streams:
        del streams[CONTROLS]
    variables = random_variables(task.init, np.zeros((1, 8, 8, 2), np.float32))

    def losses(domain):
        named = {
            name: columns | {method.domain: np.full(len(columns["label"]), domain)} for name, columns in streams.items()
        }
        batch, params, collections, found = batch_of(named), variables["params"], of_step(variables), []

        @jax.jit
        def update(params, collections):
            loss = lambda p: task.loss(p, collections, batch, jax.random.key(0), 0.5)  # noqa: E731
            (value, (new, _)), gradients = jax.value_and_grad(loss, has_aux=True)(params)
            return value, jax.tree.map(lambda p, g: p - 0.1 * g, params, gradients), new

        for _ in range(4):
            value, params, collections = update(params, collections)
            found.append(float(value))
        return found

    first = losses(0)
    assert first[0] > first[1] > first[2] > first[3] and losses(1) == first


# At test.


class Predict:
    """Notes which rows' statistics which rows were read with."""

    def __init__(self):
        self.read = []

    def __call__(self, network, rows):
        self.read.append((network.batch_stats, rows.tolist()))
        return {"row": rows, "logits": np.zeros((len(rows), 2))}

    def batch_statistics(self, network, rows):
        return rows.tolist()


ROWS, MEMBERS, UNTREATED = np.array([3, 5, 6, 8, 9]), np.arange(3, 10), np.array([4, 9])
READ = {  # name: (method, [(whose statistics, which rows are read by them)]), four images per minibatch at most
    "adabn": (AdaBN(), [(MEMBERS, ROWS)]),
    "ben": (BEN(), [(MEMBERS, ROWS)]),
    "arm_bn": (ArmBN(support=2), [([3, 5], [3, 5]), ([6, 8], [6, 8]), ([8, 9], [9])]),  # the last one is not alone
    "ttbna": (TTBNA(), [([3, 5, 6, 8], [3, 5, 6, 8]), ([5, 6, 8, 9], [9])]),
    "controls": (CSBN(context="controls"), [([4, 9], ROWS)]),
    "cs_bn": (CSBN(), [([3, 4, 5, 6, 9, 4, 6, 7, 8, 9], ROWS)]),  # each four of the plate, with both untreated ones
    "minibatch by minibatch": (
        CSBN(read="minibatch", support=3),
        [([3, 4, 5, 6, 9], [3, 5, 6]), ([4, 6, 8, 9], [8, 9])],
    ),
}


@pytest.mark.parametrize("name", READ)
def test_whose_statistics_the_rows_of_a_domain_are_read_by(name):
    method, expected = READ[name]
    predict = Predict()
    found = method.at_test(predict, Network({}, {}), Group(ROWS, MEMBERS, 4, UNTREATED))
    assert predict.read == [(list(seen), list(rows)) for seen, rows in expected]
    np.testing.assert_array_equal(found["row"], ROWS)


@pytest.mark.parametrize("name", READ)
def test_a_role_without_rows_is_read_too(name):
    none = ROWS[:0]
    found = READ[name][0].at_test(Predict(), Network({}, {}), Group(none, none, 4, none))
    assert len(found["row"]) == 0


@pytest.fixture(scope="module")
def context(tmp_path_factory):
    """Twelve sites of two experiments and three plates, of two splits, three of them untreated; and their images."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (12, 2, 2, 2), dtype=np.uint8)
    plate = np.array([0, 2, 0, 1, 2, 0, 2, 1, 1, 2, 0, 2], np.int32)
    split = np.array(["test", "val"])[random.integers(0, 2, 12)]
    table = {field.name: np.zeros(12, np.int32) for field in dataclasses.fields(data.Sites)}
    index = np.where(split == "test", np.cumsum(split == "test"), np.cumsum(split == "val")) - 1
    well_type = np.full(12, "treatment", "U16")
    well_type[[2, 6, 7, 11]] = "negative_control"
    table |= {"split": split, "index": index, "plate": plate, "experiment": plate // 2, "well_type": well_type}
    sources = {name: list(images[split == name]) for name in ("test", "val")}
    names = ["A", "B"], ["A/1", "A/2", "B/1"], ["A"], ["x"]
    roles = data.Roles(scored={"cross_batch": np.flatnonzero(split == "test")})
    folder = tmp_path_factory.mktemp("data")
    dataset = data.Dataset(folder, data.Sites(**table), *names, (2, 2, 2), {}, {}, sources, roles)
    task = Classify(ConvNet((3,)), Head(2), Method(), 0.0)
    variables = random_variables(task.init, np.zeros((1, 2, 2, 2), np.float32))
    statistics = {key: np.full((3, 2), value, np.float32) for key, value in (("mean", 120), ("std", 70))}
    augment = Augment("dataset", 2, False, False, 0.0)
    readings = {"": task.method}
    found = Context(task, readings, dataset, augment, statistics, make_mesh(), 4, folder, 0)
    found.network = Network(variables["params"], variables["batch_stats"])
    return found, images


def direct(sites, rows, method):
    """The rows that give the statistics of each of `rows`, written down once more: {row: rows}."""
    of = sites.experiment if method.read_by == "experiment" else sites.plate
    found = {}
    for row in rows:
        here = of == of[row]
        if method.context == "controls":
            found[row] = np.flatnonzero(here & (sites.well_type == "negative_control"))
        else:
            found[row] = np.flatnonzero(here)
    return found


@pytest.mark.parametrize(
    "method", [AdaBN(), BEN(), BatchStatistics(read="plate"), CSBN(context="controls"), AdaBN(context="controls")]
)
def test_a_domain_is_read_with_its_own_statistics(method, context):
    """Of all of its images or untreated ones, of whichever split; the last minibatch is padded."""
    context, images = context
    sites, rows = context.dataset.sites, context.dataset.roles.scored["cross_batch"]
    context.readings |= {"mine": method}
    context.use(types.SimpleNamespace(network=lambda: context.network))
    found = context.predict("cross_batch", "mine")
    np.testing.assert_array_equal(found["row"], rows)
    encoder = jax.tree.map(lambda a: np.asarray(a, np.float64), context.network.params["encoder"])
    kernel = encoder["conv0"]["kernel"].reshape(-1, 3)
    x = windows((images - 120.0) / (70 + EPSILON))[:, 0] @ kernel  # one window per image
    embedding = []
    for row, seen in direct(sites, rows, method).items():
        y = (x[row] - x[seen].mean(0)) / np.sqrt(x[seen].var(0) + 1e-5)
        embedding.append(np.maximum(y * encoder["norm0"]["scale"] + encoder["norm0"]["bias"], 0))
        statistics = context.batch_statistics(context.network, seen)["encoder"]["norm0"]
        close(statistics["mean"], x[seen].mean(0), rtol=1e-4)
    np.testing.assert_allclose(found["embedding"], embedding, rtol=1e-4, atol=1e-5)
    assert np.abs(context.predict("cross_batch")["embedding"] - found["embedding"]).max() > 0.1  # not the running ones
    context.readings = {"": method}  # as the run's own method
    context.use(types.SimpleNamespace(network=lambda: context.network))
    np.testing.assert_array_equal(context.predict("cross_batch")["embedding"], found["embedding"])
    context.readings = {"": Method()}
