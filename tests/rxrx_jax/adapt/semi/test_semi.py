"""Methods that learn from unlabelled held-out images, against their formulas in float64 numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from method_tools import CLASSES, SHARES, batch_of, close, draw, make, start

from rxrx_jax.adapt.semi.fixmatch import FixMatch, strong_views
from rxrx_jax.data.batch import HELD_OUT, TRAIN, join
from rxrx_jax.models.convnet import ConvNet

pytestmark = pytest.mark.usefixtures("double")


def log_softmax(x):
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def minibatch(size=6):
    return {TRAIN: draw(4), HELD_OUT: draw(size, seed=2) | {"label": np.full(size, -1)}}


def batch_and_views(streams):
    columns, _ = join(streams)
    other = columns["image"] + 0.3
    return batch_of(streams, views=(columns["image"], other)), other


def test_fixmatch_takes_the_confident_classes_of_weak_views_as_labels_of_strong_ones():
    task = make(FixMatch(weight=2.0, tau=0.7, strength=0.4, shares=SHARES))
    params, collections = start(task)
    streams = minibatch()
    batch, other = batch_and_views(streams)
    loss = lambda p: task.loss(p, collections, batch, jax.random.key(1), 0.5)  # noqa: E731
    (value, (_, found)), gradient = jax.value_and_grad(loss, has_aux=True)(params)
    strong = np.asarray(strong_views(batch.key, other[4:], 0.4)).reshape(6, -1)

    head = jax.tree.map(np.asarray, params["head"]["linear"])
    weak = np.exp(log_softmax(streams[HELD_OUT]["image"].reshape(6, -1) @ head["kernel"] + head["bias"]))
    confident, guess = weak.max(-1) >= 0.7, weak.argmax(-1)
    assert 0 < confident.sum() < 6

    def by_hand(kernel):  # weak predictions are constants
        x = streams[TRAIN]["image"].reshape(4, -1)
        risk = -log_softmax(x @ kernel + head["bias"])[np.arange(4), streams[TRAIN]["label"]].mean()
        each = -log_softmax(strong @ kernel + head["bias"])[np.arange(6), guess]
        return risk + 2.0 * (confident * each).mean()

    close(value, by_hand(head["kernel"]))
    close(found["confident"], confident.mean())
    for index in ((0, 0), (5, 2)):
        step = np.zeros(head["kernel"].shape)
        step[index] = 1e-6
        expected = (by_hand(head["kernel"] + step) - by_hand(head["kernel"] - step)) / 2e-6
        close(gradient["head"]["linear"]["kernel"][index], expected, rtol=1e-5)


def test_without_confidence_fixmatch_is_the_empirical_risk():
    task = make(FixMatch(tau=1.0, shares=SHARES))
    params, collections = start(task)
    batch, _ = batch_and_views(minibatch())
    value, (_, found) = task.loss(params, collections, batch, jax.random.key(1), 0.5)
    close(value, found["class_loss"])
    assert found["confident"] == 0


def test_three_updates_agree_more_with_the_weak_views():
    task = make(FixMatch(weight=1.0, tau=0.0, shares=SHARES))
    params, collections = start(task)
    streams = minibatch(8)
    streams[TRAIN] |= {"label": np.full(4, -1)}  # nothing else to learn
    batch, _ = batch_and_views(streams)
    loss = jax.jit(jax.value_and_grad(lambda p: task.loss(p, collections, batch, jax.random.key(1), 0.5)[0]))
    values = []
    for _ in range(4):
        value, gradient = loss(params)
        values.append(float(value))
        params = jax.tree.map(lambda p, g: p - 0.05 * g, params, gradient)
    assert values[0] > values[1] > values[2] > values[3] > 0


def test_all_views_are_one_minibatch_for_batch_norm():
    method = FixMatch(shares=SHARES)
    task = make(method, ConvNet((3,)))
    streams = {name: part | {"image": draw(len(part["label"]), side=4)["image"]} for name, part in minibatch().items()}
    batch, other = batch_and_views(streams)
    seen = []
    encode = lambda images: seen.append(images) or task._apply(*start_convnet(task), images, None, train=True)  # noqa: E731
    found, extra = method.forward(encode, batch.images, batch)
    (images,) = seen
    assert (
        len(images) == 16 and len(found.features) == len(found.logits) == 10 and extra["strong"].shape == (6, CLASSES)
    )
    close(images[:10], batch.images)
    close(images[10:], strong_views(batch.key, other[4:], 0.5))
    again = task._apply(*start_convnet(task), images, None, train=True)
    jax.tree.map(close, found.batch_stats, again.batch_stats)
    close(extra["strong"], again.logits[10:])


def start_convnet(task):
    variables = task.init(jax.random.key(0), jnp.zeros((1, 4, 4, 2)))
    return variables["params"], variables["batch_stats"]


def test_strong_views_are_brighter_or_darker_with_a_square_of_the_mean():
    views = jnp.asarray(np.random.default_rng(0).normal(size=(40, 8, 8, 2)))
    found = np.asarray(strong_views(jax.random.key(5), views, 0.5))
    hole = (found == 0).all(-1)
    sizes = hole.sum((1, 2))
    assert sizes.max() == 16 and (sizes >= 4).all()  # half the side, cut at the border
    gains = []
    for i in range(40):
        for c in range(2):
            gain, offset = np.polyfit(np.asarray(views)[i, ~hole[i], c], found[i, ~hole[i], c], 1)
            close(found[i, ~hole[i], c], gain * views[i][~hole[i]][:, c] + offset)
            gains.append((gain - 1, offset))
    assert 0.4 < np.abs(gains).max() <= 0.5 and len(np.unique(np.round(gains, 6))) == 160
