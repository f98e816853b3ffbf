"""Each method against its formula, in float64 numpy, on a network of one linear layer."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from method_tools import CLASSES, SHARES, batch_of, close, draw, make, softmax, start

from rxrx_jax.adapt.invariance.fish import Fish
from rxrx_jax.adapt.invariance.groupdro import GroupDRO
from rxrx_jax.adapt.method import Method
from rxrx_jax.adapt.semi.mean_teacher import MeanTeacher
from rxrx_jax.data.batch import HELD_OUT, TRAIN, join
from rxrx_jax.training.state import TrainState

pytestmark = pytest.mark.usefixtures("double")


def linear(params, images):
    head = jax.tree.map(np.asarray, params["head"]["linear"])
    return np.asarray(images).reshape(len(images), -1) @ head["kernel"] + head["bias"]


def errors(params, columns):
    return -np.log(softmax(linear(params, columns["image"]))[np.arange(len(columns["label"])), columns["label"]])


def gradient(params, columns, weights):
    """Of the sum of weights [B] times the cross-entropy of each image: (kernel, bias)."""
    x = columns["image"].reshape(len(columns["label"]), -1)
    d = (softmax(linear(params, columns["image"])) - np.eye(CLASSES)[columns["label"]]) * weights[:, None]
    return x.T @ d, d.sum(0)


def value_and_gradient(task, params, collections, batch, progress=0.5):
    loss = lambda p: task.loss(p, collections, batch, jax.random.key(1), progress)  # noqa: E731
    (value, (new, found)), gradients = jax.value_and_grad(loss, has_aux=True)(params)
    return value, new, found, gradients["head"]["linear"]


# Group DRO.


def test_groupdro_weighs_domains_by_their_losses():
    task = make(GroupDRO(rate=0.7, shares=SHARES))
    params, collections = start(task)
    close(collections["carry"]["q"], [1 / 3, 1 / 3, 0, 1 / 3])  # the third domain is held out
    columns = draw(9)
    columns["label"][4] = -1  # no label, no part in it
    value, new, _, found = value_and_gradient(task, params, collections, batch_of({TRAIN: columns}))

    known = columns["label"] >= 0
    losses = np.where(known, errors(params, columns | {"label": np.maximum(columns["label"], 0)}), 0)
    members = np.array([(columns["experiment"] == g) & known for g in range(4)])
    risks = members @ losses / np.maximum(members.sum(1), 1)
    q = np.array([1 / 3, 1 / 3, 0, 1 / 3]) * np.exp(0.7 * risks)
    q /= q.sum()
    close(value, q @ risks)
    close(new["carry"]["q"], q)
    weights = (q / np.maximum(members.sum(1), 1)) @ members
    kernel, bias = gradient(params, columns | {"label": np.maximum(columns["label"], 0)}, weights)
    close(found["kernel"], kernel)
    close(found["bias"], bias)


def test_groupdro_of_equal_domains_is_the_mean_and_a_harder_one_counts_more():
    task = make(GroupDRO(rate=0.5, shares=(0.5, 0.5)))
    params, collections = start(task)
    one = draw(4, domains=(0,))
    same = {k: np.concatenate([v, v]) for k, v in one.items()} | {"experiment": np.repeat([0, 1], 4)}
    value, new, _, _ = value_and_gradient(task, params, collections, batch_of({TRAIN: same}))
    close(value, errors(params, one).mean())
    close(new["carry"]["q"], [0.5, 0.5])
    harder = same | {"label": np.concatenate([one["label"], linear(params, one["image"]).argmin(1)])}
    _, new, _, _ = value_and_gradient(task, params, collections, batch_of({TRAIN: harder}))
    assert new["carry"]["q"][1] > 0.5


# Fish.


def fish_by_hand(params, parts, rate, meta):
    kernel, bias = (np.asarray(params["head"]["linear"][name]) for name in ("kernel", "bias"))
    inner = {"head": {"linear": {"kernel": kernel, "bias": bias}}}
    for part in parts:
        g = gradient(inner, part, np.full(len(part["label"]), 1 / len(part["label"])))
        old = inner["head"]["linear"]
        inner = {"head": {"linear": {"kernel": old["kernel"] - rate * g[0], "bias": old["bias"] - rate * g[1]}}}
    new = inner["head"]["linear"]
    return kernel + meta * (new["kernel"] - kernel), bias + meta * (new["bias"] - bias)


def one_update(task, params, collections, minibatch, optimiser):
    state = TrainState(jnp.int32(0), params, collections, optimiser.init(params))

    def differentiate(params, collections, part):
        loss = lambda p: task.loss(p, collections, batch_of(part), jax.random.key(1), 0.5)  # noqa: E731
        (value, (new, found)), gradients = jax.value_and_grad(loss, has_aux=True)(params)
        return gradients, new, found | {"loss": value}

    return task.method.update(differentiate, optimiser, state, minibatch)


def test_fish_steps_through_the_domains_and_moves_part_of_the_way():
    task = make(Fish(meta_rate=0.3, shares=SHARES, groups=3))
    params, collections = start(task)
    parts = [draw(4, seed, domains=(seed,)) for seed in (0, 1, 3)]
    minibatch = {TRAIN: {k: np.concatenate([p[k] for p in parts]) for k in parts[0]}}
    found, _, _, metrics = one_update(task, params, collections, minibatch, optax.sgd(0.2))
    kernel, bias = fish_by_hand(params, parts, rate=0.2, meta=0.3)
    close(found["head"]["linear"]["kernel"], kernel)
    close(found["head"]["linear"]["bias"], bias)
    assert np.isfinite(metrics["loss"]) and metrics["gradient_norm"] > 0
    # One domain and the whole way: plain gradient descent.
    alone = make(Fish(meta_rate=1.0, shares=SHARES, groups=1))
    plain = make(Method(shares=SHARES))
    first = one_update(alone, params, collections, {TRAIN: parts[0]}, optax.sgd(0.2))[0]
    second = one_update(plain, params, collections, {TRAIN: parts[0]}, optax.sgd(0.2))[0]
    jax.tree.map(close, first, second)


# Mean teacher.


def test_mean_teacher_pulls_the_held_out_predictions_to_those_of_the_average():
    task = make(MeanTeacher(weight=2.0, ramp_up=0.8, shares=SHARES))
    params, collections = start(task)
    teacher, _ = start(task, seed=5)
    collections = collections | {"averages": {"params": teacher, "batch_stats": {"encoder": {}, "head": {}}}}
    minibatch = {TRAIN: draw(4), HELD_OUT: draw(3, seed=2) | {"label": np.full(3, -1)}}
    images, _ = join(minibatch)
    other = images["image"] + 0.3  # the teacher's view
    batch = batch_of(minibatch, views=(images["image"], other))
    value, _, found, gradients = value_and_gradient(task, params, collections, batch, progress=0.2)

    def by_hand(params):
        student = softmax(linear(params, minibatch[HELD_OUT]["image"]))
        taught = softmax(linear(teacher, minibatch[HELD_OUT]["image"] + 0.3))
        weight = 2.0 * np.exp(-5 * (1 - 0.2 / 0.8) ** 2)
        return errors(params, minibatch[TRAIN]).mean() + weight * np.square(student - taught).mean()

    close(value, by_hand(params))
    close(found["consistency_weight"], 2.0 * np.exp(-5 * 0.75**2))
    for index in ((0, 0), (5, 2)):

        def moved(by, index=index):
            kernel = np.array(params["head"]["linear"]["kernel"])
            kernel[index] += by
            return by_hand(params | {"head": {"linear": params["head"]["linear"] | {"kernel": kernel}}})

        close(gradients["kernel"][index], (moved(1e-6) - moved(-1e-6)) / 2e-6, rtol=1e-5)
