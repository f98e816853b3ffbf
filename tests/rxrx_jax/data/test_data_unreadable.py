"""Records that cannot be read: named, stood in for while training, left out of evaluations within a budget."""

import dataclasses
import types

import jax
import numpy as np
import pytest
import tiny

from rxrx_jax import data
from rxrx_jax.adapt.method import Method
from rxrx_jax.adapt.statistics.adabn import AdaBN
from rxrx_jax.base import sharding
from rxrx_jax.base.errors import UserError
from rxrx_jax.data.augment import Augment
from rxrx_jax.data.minibatches import host_part, stand_in
from rxrx_jax.evaluate.predict import Context, Network
from rxrx_jax.models.convnet import ConvNet
from rxrx_jax.models.heads import Head
from rxrx_jax.tasks.classify import Classify

CROP = 20


class Damaged:
    """A split's records, of which some cannot be read."""

    def __init__(self, source, bad):
        self.source, self.bad = source, set(bad)

    def __getitem__(self, index):
        if index in self.bad:
            raise ValueError(f"checksum of {index}")
        return self.source[index]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return tiny.under_protocol(data.open_dataset("rxrx_sim", tiny.SCREEN, str(tmp_path_factory.mktemp("data"))))


@pytest.fixture
def damage(whole, tmp_path):
    """Returns a function rows -> a dataset whose records of these rows cannot be read."""

    def get(rows):
        bad = {name: whole.sites.index[[r for r in rows if whole.sites.split[r] == name]] for name in whole.sources}
        sources = {name: Damaged(source, bad[name].tolist()) for name, source in whole.sources.items()}
        return dataclasses.replace(whole, sources=sources, folder=tmp_path)  # a place of its own: said once of each

    return get


def named(capfd, dataset):
    """The lines that name a record of this dataset; minibatches of other tests may still be read ahead."""
    return [line for line in capfd.readouterr().err.splitlines() if str(dataset.folder) in line]


def on_host(monkeypatch, index, count=2):
    monkeypatch.setattr(jax, "process_count", lambda: count)
    monkeypatch.setattr(jax, "process_index", lambda: index)


def training(dataset, steps=2, pairs="", sizes=(8, 4)):
    """The streams of each minibatch in one piece, and `row` [B], which a stand-in has of what it stands in for."""
    samplers = {
        stream: data.make_sampler(
            dataset, data.select(dataset, splits=split), size, "plate", 0, 3, pairs if stream == "train" else ""
        )
        for size, (stream, split) in zip(sizes, (("train", "train"), ("held_out", "val")))
    }
    found = list(data.training_minibatches(dataset, samplers, steps, 0, CROP, 3))
    for number, streams in enumerate(found):
        joined = {key: np.concatenate([part[key] for part in streams.values()]) for key in streams["train"]}
        rows = [host_part(sampler.rows(number)) for sampler in samplers.values()]
        found[number] = joined | {"row": np.concatenate(rows)}
    return found


def check_lanes(found, good, expected):
    """Lane i of every key is that of lane expected[i] without damage."""
    for key in good:
        if key not in ("valid", "row"):
            np.testing.assert_array_equal(found[key], good[key][expected], err_msg=key)


def test_the_next_readable_lane_of_the_same_sampler_stands_in(whole, damage, capfd):
    first, second = training(whole)
    rows = first["row"]
    found, other = training(damage(rows[[1, 6, 7, 9]]))
    assert found["valid"].tolist() == [lane not in (1, 6, 7, 9) for lane in range(12)]
    check_lanes(found, first, [0, 2, 2, 3, 4, 5, 0, 0, 8, 10, 10, 11])  # from the beginning after the last
    kept = [lane for lane in range(12) if second["row"][lane] not in rows[[1, 6, 7, 9]]]
    for key in second:
        np.testing.assert_array_equal(other[key][kept], second[key][kept])


def test_of_a_pair_both_are_replaced_and_one_is_missing(whole, damage):
    (good,) = training(whole, 1, "perturbation", (8,))
    (found,) = training(damage(good["row"][[3, 6]]), 1, "perturbation", (8,))
    assert found["valid"].tolist() == [True, True, True, False, True, True, False, True]
    check_lanes(found, good, [0, 1, 4, 5, 4, 5, 0, 1])
    assert (found["label"][::2] == found["label"][1::2]).all()


def test_only_the_host_that_has_the_record_stands_in_and_names_it(whole, damage, monkeypatch, capfd):
    good = training(whole)[0]
    row = good["row"][5]  # of the second host, whose lanes are 4 to 7 and 10, 11
    found = []
    for host in range(2):
        on_host(monkeypatch, host)
        found.append(training(damage([row]), steps=1)[0])
        lines = named(capfd, damage([row]))
        assert len(lines) == host
    assert [part["valid"].tolist() for part in found] == [[True] * 6, [True, False, *[True] * 4]]
    check_lanes(found[0], good, [0, 1, 2, 3, 8, 9])
    check_lanes(found[1], good, [4, 6, 6, 7, 10, 11])
    sites = whole.sites
    for word in (
        "host 1: ",
        f"{sites.site_id[row]} (experiment {whole.experiments[sites.experiment[row]]}, ",
        f"plate {whole.plates[sites.plate[row]]}, record {sites.index[row]} of train in ",
        f"cannot be read: checksum of {sites.index[row]}",
    ):
        assert word in lines[0]


def test_a_record_is_named_once_however_often_it_is_met(whole, damage, capfd):
    dataset = damage(data.select(whole, splits="train")[:5])
    for _ in range(2):
        minibatches = training(dataset, steps=24)
    missing = sum((~m["valid"]).sum() for m in minibatches)
    assert missing > 5  # of several epochs
    assert len(named(capfd, dataset)) == 5


def test_a_part_without_any_readable_record_ends_the_run(whole, damage):
    rows = data.select(whole, splits="val")
    with pytest.raises(UserError, match=r"no record of this host's part of a minibatch can be read \(4, named above"):
        training(damage(rows))
    pair = {"image": np.arange(4), "valid": np.array([True, False, False, True])}
    with pytest.raises(UserError, match="no record"):
        stand_in(pair, slice(0, 4), 2)


def test_evaluation_raises_unless_it_may_go_on(whole, damage, capfd):
    rows = data.select(whole, splits="test")[:11]
    dataset = damage(rows[[2, 9]])
    with pytest.raises(UserError, match=rf"{whole.sites.site_id[rows[2]]} .* cannot be read: checksum of \d+; `python"):
        list(data.evaluation_minibatches(dataset, rows, 4, CROP))
    with pytest.raises(UserError, match="cannot be read"):
        data.read_minibatch(dataset, dataset.sites, rows)
    assert named(capfd, dataset) == []
    good = list(data.evaluation_minibatches(whole, rows, 4, CROP))
    for part, found in zip(good, data.evaluation_minibatches(dataset, rows, 4, CROP, True), strict=True):
        bad = [row in rows[[2, 9]] for row in part["row"]]
        np.testing.assert_array_equal(found["valid"], part["valid"] & ~np.array(bad))
        np.testing.assert_array_equal(found["row"], part["row"])
        assert not found["image"][bad].any()
        np.testing.assert_array_equal(found["image"][~np.array(bad)], part["image"][~np.array(bad)])
    assert len(named(capfd, dataset)) == 2


# Predictions.


def make_context(dataset, unreadable):
    task = Classify(ConvNet((4,)), Head(2), Method(), 0.0)
    readings = {"": task.method, "adabn": AdaBN()}
    mesh = sharding.make_mesh(1, 1)
    statistics = {key: np.full((len(dataset.plates), 6), value, np.float32) for key, value in (("mean", 9), ("std", 7))}
    augment = Augment("dataset", CROP, False, False, 0.0)
    context = Context(task, readings, dataset, augment, statistics, mesh, 16, None, 0, unreadable=unreadable)
    variables = task.init(jax.random.key(0), np.zeros((1, CROP, CROP, 6), np.float32))
    context.network = Network(variables["params"], variables["batch_stats"])
    return context


def test_predictions_leave_out_what_cannot_be_read_and_count_it(whole, damage):
    good = make_context(whole, 0)
    rows = data.select(whole, splits="test")
    bad = rows[[0, 17, len(rows) - 1]]
    context = make_context(damage(bad), 3)
    expected, found = good.predict("cross_batch"), context.predict("cross_batch")
    keep = ~np.isin(rows, bad)
    np.testing.assert_array_equal(found["row"], rows[keep])
    np.testing.assert_allclose(found["embedding"], expected["embedding"][keep], rtol=1e-6)
    assert context.left_out == set(bad.tolist()) and good.left_out == set()
    pixels = lambda images: {"sum": images.sum((1, 2, 3))}  # noqa: E731
    np.testing.assert_array_equal(
        context.of_images(pixels, rows[keep])["sum"], good.of_images(pixels, rows[keep])["sum"]
    )
    assert len(context.embeddings()[0]) == len(whole.sites) - 3 and len(context.left_out) == 3
    with pytest.raises(UserError, match=rf"{whole.sites.site_id[bad[0]]} .* can no longer be read"):
        context.of_images(pixels, rows)
    state = types.SimpleNamespace(network=lambda: good.network)
    assert context.use(state).left_out == set()


def test_more_than_the_budget_stop_the_evaluation(whole, damage):
    rows = np.concatenate([data.select(whole, splits=s)[:2] for s in ("val", "test")])
    context = make_context(damage(rows), 3)
    context.predict("validation")
    first = whole.sites.site_id[data.select(whole, splits="test")[0]]
    with pytest.raises(UserError, match=rf"4 records cannot be read and evaluated, among them {first} .*unreadable=3"):
        context.predict("cross_batch")
    with pytest.raises(UserError, match="1 records cannot be read .*data.unreadable=0"):
        make_context(damage(rows[:1]), 0).predict("validation")


def test_statistics_of_an_experiment_are_of_what_can_be_read(whole, damage):
    """Also where a whole minibatch of it, or all of it, cannot be read."""
    sites, test = whole.sites, data.select(whole, splits="test")
    members = np.flatnonzero(sites.experiment == sites.experiment[test[0]])
    assert len(members) > 32
    bad = np.concatenate([members[16:32], members[3:4]])
    less = dataclasses.replace(whole, sites=dataclasses.replace(sites, experiment=sites.experiment.copy()))
    less.sites.experiment[bad] = 99  # as if they were of no experiment that is predicted
    keep = ~np.isin(test, bad)
    expected = make_context(less, 0)._read(AdaBN(), test[keep])
    context = make_context(damage(bad), len(bad))
    found = context.predict("cross_batch", "adabn")
    np.testing.assert_array_equal(found["row"], test[keep])
    np.testing.assert_allclose(found["embedding"], expected["embedding"], rtol=1e-4, atol=1e-5)
    assert context.left_out == set(bad.tolist())
    context = make_context(damage(members), len(members))
    assert set(context.predict("cross_batch", "adabn")["row"]) == set(test) - set(members)
    with pytest.raises(UserError, match="cannot be read and evaluated"):
        make_context(damage(members), len(members) - 1).predict("cross_batch", "adabn")
