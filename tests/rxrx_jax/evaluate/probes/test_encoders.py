"""The probe of every block: planted signals, regressions by hand, and which block is the best."""

import dataclasses
import operator

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from rxrx_jax import data
from rxrx_jax.adapt.method import Method, Network
from rxrx_jax.base import sharding
from rxrx_jax.base.errors import UserError
from rxrx_jax.data import Dataset, Roles, Sites
from rxrx_jax.data.augment import Augment
from rxrx_jax.evaluate import predict
from rxrx_jax.evaluate.probes import encoders, logistic
from rxrx_jax.models.convnet import ConvNet
from rxrx_jax.models.handcrafted import Handcrafted
from rxrx_jax.models.heads import Head, Projection
from rxrx_jax.models.vit import Encoder, Size, Style
from rxrx_jax.tasks.classify import Classify
from rxrx_jax.tasks.distill import Distill
from rxrx_jax.training.state import TrainState

SPLITS = ("train", "id_test", "val", "test")
SIZES = (60, 25, 25, 25)
SPLIT = np.repeat(SPLITS, SIZES)
LABEL = np.arange(len(SPLIT), dtype=np.int32) % 3
DEPTH = 4


class Planted(Encoder):
    """Block k's embedding is the mean of each quadrant of channel k."""

    @nn.compact
    def __call__(self, images, train=False, mask=None, keep=None):
        b, s, _, c = images.shape
        x = images.reshape(b, 2, s // 2, 2, s // 2, c).mean((2, 4)).reshape(b, 4, c)
        return x, {"embedding": x[..., -1], "block_embeddings": x.transpose(2, 0, 1)}


class Source(list):
    def __getitems__(self, indices):
        return [{"image": self[i]} for i in indices]


def pictures(labels_of_block):
    """uint8 [n, 8, 8, DEPTH]: quadrant `label` of channel k is bright, for the label that block k is to show."""
    random = np.random.default_rng(0)
    images = random.integers(60, 140, (len(SPLIT), 8, 8, DEPTH))
    for k, labels in enumerate(labels_of_block):
        for image, label in zip(images, labels):
            top, left = divmod(int(label), 2)
            image[4 * top : 4 * top + 4, 4 * left : 4 * left + 4, k] += 60
    return images.astype(np.uint8)


def shuffled(*splits):
    """The labels, at random within these splits."""
    labels, random = LABEL.copy(), np.random.default_rng(1)
    for name in splits:
        labels[SPLIT == name] = random.integers(0, 3, (SPLIT == name).sum())
    return labels


# The second block is best on validation, the third on held-out test experiments, the first on training wells alone.
BLOCKS = (shuffled("val", "test"), shuffled("test"), shuffled("val"), shuffled(*SPLITS))


def make_context(encoder, labels_of_block=BLOCKS, label=LABEL, statistics=(0.0, 1.0)):
    images = pictures(labels_of_block)
    index = np.concatenate([np.arange(n) for n in SIZES])
    experiment = np.select([SPLIT == "val", SPLIT == "test"], [2, 3], np.arange(len(SPLIT)) % 2).astype(np.int32)
    values = {f.name: np.zeros(len(SPLIT), np.int32) for f in dataclasses.fields(Sites)}
    values |= dict(split=SPLIT, index=index, label=label, experiment=experiment, plate=experiment)
    values |= dict(well_id=np.array([f"A-0{e}_1_{i}" for i, e in enumerate(experiment)]))
    sources = {name: Source(images[name == SPLIT]) for name in SPLITS}
    named = dict(experiments=["A-00", "A-01", "A-02", "A-03"], plates=["a", "b", "c", "d"], cell_types=["A"])
    whole = dict(folder=None, classes=["x", "y", "z"], image_shape=images.shape[1:], mean={}, std={}, sources=sources)
    fit, *others = (np.flatnonzero(SPLIT == name) for name in SPLITS)
    whole["roles"] = Roles(fit, dict(zip(("in_batch", "validation", "cross_batch"), others)))
    dataset = Dataset(sites=Sites(**values), **named, **whole)
    task = Classify(encoder, Head(3), Method(), 0.0, frozen="encoder/")
    mean, std = (np.full((4, DEPTH), value, np.float32) for value in statistics)
    mesh = sharding.make_mesh(1, 1)
    augment = Augment("dataset", 8, True, True, 0.0)
    context = predict.Context(task, {"": task.method}, dataset, augment, {"mean": mean, "std": std}, mesh, 16, None, 0)
    variables = task.init(jax.random.key(2), jnp.zeros((1, *images.shape[1:])))
    context.network = Network(variables["params"], variables["batch_stats"])
    return context, images


LOGISTIC = {"logistic": ""}
PLANTED = Planted(Size(4, DEPTH, 8, 1), 4)


def accuracies(found, block):
    return [found[f"probe/{block}/{where}/site_accuracy"] for where in ("in_batch", "validation", "cross_batch")]


def test_the_best_block_is_that_of_validation_and_no_other():
    found = dict(encoders.evaluate(make_context(PLANTED)[0], blocks=True))
    assert np.array(accuracies(found, "block_2"))[:2].min() > 0.9 and accuracies(found, "block_2")[2] < 0.7
    assert accuracies(found, "block_3")[1] < 0.7 and accuracies(found, "block_3")[2] > 0.9
    assert accuracies(found, "block_1")[0] > 0.9 and max(accuracies(found, "block_4")) < 0.7
    assert found["probe/best_block"] == 2
    start = "probe/best_block/"
    best = {k.removeprefix(start): v for k, v in found.items() if k.startswith(start)}
    second = {k.removeprefix("probe/block_2/"): v for k, v in found.items() if k.startswith("probe/block_2/")}
    assert best == pytest.approx(second, nan_ok=True) and {"cross_batch/site_accuracy", "in_batch/sites"} < best.keys()


def test_without_blocks_there_are_none_and_the_others_stay():
    with_blocks = dict(encoders.evaluate(make_context(PLANTED)[0], blocks=True))
    found = dict(encoders.evaluate(make_context(PLANTED)[0]))
    assert found == pytest.approx({k: v for k, v in with_blocks.items() if "block" not in k}, nan_ok=True)
    encoders_of = {name.removeprefix("marks/").split("/")[1] for name in found}
    assert encoders_of == {"pretrained", "untrained", "handcrafted", "handcrafted_spatial"}
    assert found == pytest.approx(dict(encoders.evaluate(make_context(PLANTED)[0], blocks=())), nan_ok=True)


def test_corrections_by_name():
    context, _ = make_context(PLANTED)
    kinds = np.where(LABEL == 0, "negative_control", "treatment")
    sites = dataclasses.replace(context.dataset.sites, well_type=kinds)
    context.dataset = dataclasses.replace(context.dataset, sites=sites)
    found = dict(encoders.evaluate(context, corrections=("none", "centre_experiment_controls")))
    assert found["marks/probe/pretrained/centre_experiment_controls/cross_batch"] == "C"
    assert found["marks/probe/pretrained/none/cross_batch"] == ""
    rows, embedding = context.embeddings()
    for one in range(4):
        here = sites.experiment == one
        embedding[here] -= embedding[here & (LABEL == 0)].mean(0)
    model, test = logistic.fit(embedding[SPLIT == "train"], LABEL[SPLIT == "train"]), SPLIT == "test"
    right = model.predict(embedding) == LABEL
    start = "probe/pretrained/centre_experiment_controls/C_1/cross_batch"
    assert found[f"{start}/site_accuracy"] == pytest.approx(right[test].mean(), abs=1.5 / 25)
    treated = right[test & (LABEL > 0)].mean()
    assert found[f"{start}/treatments/site_accuracy"] == pytest.approx(treated, abs=1.5 / 16)
    with pytest.raises(UserError, match="evaluators.probe.corrections='tvnn': expected none, "):
        dict(encoders.evaluate(context, corrections=("tvnn",)))


def test_other_kinds_of_probe_have_names_of_their_own():
    """Of every encoder and of blocks, each with its best one."""
    blocks = (shuffled("val"), shuffled("test"), LABEL, shuffled(*SPLITS))
    context, _ = make_context(PLANTED, blocks)
    kinds = ("class_mean", "knn_3")
    found = dict(encoders.evaluate(context, blocks=(1, 2), corrections=("none",), kinds=kinds))
    rows, embedding = context.embeddings()
    train, test = embedding[SPLIT == "train"], embedding[SPLIT == "test"]
    votes = KNeighborsClassifier(3, metric="cosine").fit(train, LABEL[SPLIT == "train"])
    right = (votes.predict(test) == LABEL[SPLIT == "test"]).mean()
    assert found["probe/pretrained/none/knn_3/cross_batch/site_accuracy"] == pytest.approx(right)
    assert found["marks/probe/pretrained/none/knn_3/cross_batch"] == ""
    for kind in kinds:
        of = {block: found[f"probe/block_{block}/{kind}/validation/site_accuracy"] for block in (1, 2)}
        assert found[f"probe/best_block/{kind}"] == max(of, key=of.get) == 2
        for baseline in ("untrained", "handcrafted", "handcrafted_spatial"):
            assert f"probe/{baseline}/none/{kind}/cross_batch/site_accuracy" in found
    assert "probe/pretrained/none/cross_batch/site_accuracy" not in found and "probe/best_block" not in found
    with pytest.raises(UserError, match="^evaluators.probe.kinds='svm': expected logistic, lars, "):
        dict(encoders.evaluate(context, kinds=("svm",)))


def test_handcrafted_statistics_are_the_models(monkeypatch):
    """Alone and before the spatial ones, which are of the same pass over the images."""
    context, images = make_context(PLANTED, statistics=(100.0, 40.0))
    rows = np.arange(len(SPLIT))
    found = dict(encoders._baselines(context, rows))
    x = (images.astype(np.float32) - 100) / (40 + 1e-3)
    for name, spatial in (("handcrafted", False), ("handcrafted_spatial", True)):
        np.testing.assert_allclose(found[name], Handcrafted(spatial).apply({}, x)[0], rtol=1e-3, atol=1e-3)


def test_chosen_blocks_alone():
    context, _ = make_context(PLANTED)
    found = dict(encoders.evaluate(context, blocks=(4, 3)))
    whole = dict(encoders.evaluate(context, blocks=True))
    assert {name.split("/")[1] for name in found if "block" in name} == {"block_3", "block_4", "best_block"}
    for block in ("block_3", "block_4"):
        assert accuracies(found, block) == accuracies(whole, block)
    validation = {k: found[f"probe/block_{k}/validation/site_accuracy"] for k in (3, 4)}
    assert found["probe/best_block"] == max(validation, key=validation.get)


def test_of_equal_blocks_the_first_is_the_best():
    context, _ = make_context(PLANTED, (shuffled(*SPLITS), LABEL, LABEL, shuffled(*SPLITS)))
    found = dict(encoders.evaluate(context, blocks=True))
    assert accuracies(found, "block_2")[1] == accuracies(found, "block_3")[1] == 1
    assert found["probe/best_block"] == 2


def test_without_labelled_validation_sites_no_block_is_the_best():
    label = np.where(SPLIT == "val", -1, LABEL).astype(np.int32)
    found = dict(encoders.evaluate(make_context(PLANTED, label=label)[0], blocks=True))
    assert "probe/block_3/cross_batch/site_accuracy" in found and not any("best" in name for name in found)


def test_all_blocks_cost_one_pass_over_the_images(monkeypatch):
    passes, original = [], data.evaluation_minibatches

    def count(dataset, rows, *rest):
        passes.append(len(rows))
        return original(dataset, rows, *rest)

    monkeypatch.setattr(data, "evaluation_minibatches", count)
    dict(encoders.evaluate(make_context(PLANTED)[0]))
    without, passes[:] = sum(passes), []
    dict(encoders.evaluate(make_context(PLANTED)[0], blocks=True))
    assert sum(passes) == without + len(SPLIT)


@pytest.mark.parametrize("style", [Style(), Style(block="parallel", class_token=True, channel_agnostic=True)])
def test_the_blocks_of_a_vit_by_hand(style):
    """Tokens of a block by a truncated encoder, their mean, and a regression on the training sites."""
    context, images = make_context(Encoder(Size(8, DEPTH, 16, 2), 4, style), statistics=(100.0, 40.0))
    found = dict(encoders.score_blocks(context, (1, 3, 4), np.arange(len(SPLIT)), LOGISTIC))
    x = (images.astype(np.float32) - 100) / (40 + 1e-3)
    params = context.network.params["encoder"]
    for k in (1, 3, 4):
        blocks = {"block": jax.tree.map(operator.itemgetter(slice(k)), params["blocks"]["block"])}
        shorter = Encoder(Size(8, k, 16, 2), 4, dataclasses.replace(style, final_norm=False))
        tokens, _ = shorter.apply({"params": params | {"blocks": blocks}}, x)
        features = np.asarray(tokens)[:, int(style.class_token) :].mean(1)
        model = logistic.fit(features[SPLIT == "train"], LABEL[SPLIT == "train"])
        right = model.predict(features) == LABEL
        expected = [right[name == SPLIT].mean() for name in SPLITS[1:]]
        assert accuracies(found, f"block_{k}/C_1") == pytest.approx(expected, abs=1.5 / 25)  # a site on the border


def test_outputs_of_all_rows_in_order_with_a_last_minibatch_that_is_not_full():
    context, images = make_context(PLANTED)
    rows = np.arange(len(SPLIT))[::-1][:37]
    found = context.of_images(lambda x, factor: {"sum": factor * x.sum((1, 2, 3)), "corner": x[:, 0, 0]}, rows, 2.0)
    np.testing.assert_allclose(found["sum"], 2 * images[rows].sum((1, 2, 3), dtype=np.float64) / 1.001, rtol=1e-5)
    np.testing.assert_allclose(found["corner"], images[rows, 0, 0] / 1.001, rtol=1e-6)
    assert context.of_images(lambda x: {"sum": x.sum()}, rows[:0]) == {}
    assert context(context.network, rows)["row"] is rows


@pytest.mark.parametrize("blocks", [(0,), (5,), (1, 5), ("1",), 2, (True,)])
def test_blocks_that_are_not_there_are_refused(blocks):
    with pytest.raises(UserError, match=r"evaluators.probe.blocks=.*: expected True or numbers of blocks, 1 to 4"):
        encoders.block_numbers(PLANTED, blocks)


def test_blocks_need_a_transformer():
    assert encoders.block_numbers(ConvNet((4,)), False) == encoders.block_numbers(ConvNet((4,)), ()) == ()
    with pytest.raises(UserError, match="needs a model of transformer blocks"):
        encoders.block_numbers(ConvNet((4,)), True)
    assert encoders.block_numbers(PLANTED, True) == (1, 2, 3, 4) and encoders.block_numbers(PLANTED, (4, 2, 4)) == (
        2,
        4,
    )


def test_the_blocks_of_a_distilled_run_are_the_teachers(monkeypatch):
    encoder = Encoder(Size(8, DEPTH, 8, 1), 4, Style(final_norm=False))  # so that the last block is the embedding
    context, _ = make_context(encoder)
    context.task = Distill(encoder, Projection(4, 4, 4), 0.9, (0.1, 0.1), 0.0, 0.1, 0.9)
    images = jnp.zeros((1, 8, 8, DEPTH))
    student, teacher = (context.task.init(jax.random.key(seed), images)["params"] for seed in (0, 1))
    averages = {"params": teacher, "batch_stats": {}}
    context.use(TrainState(0, student, {"batch_stats": {}, "carry": {}, "averages": averages}, {}))
    seen = []
    monkeypatch.setattr(encoders, "score", lambda name, features, *rest, **more: seen.append(features) or iter(()))
    rows, expected = context.embeddings()
    dict(encoders.score_blocks(context, (DEPTH,), rows, LOGISTIC))
    np.testing.assert_allclose(seen[0], expected, rtol=1e-5, atol=1e-5)
