"""Domain adaptation: gradient reversal and its objective, statistics of a domain."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from method_tools import discriminate, finite_differences, windows
from parameters import random_variables
from step_tools import batch, collections

from rxrx_jax.adapt.invariance.dann import Dann, ramp, reverse_gradient
from rxrx_jax.adapt.method import Method, Outputs
from rxrx_jax.evaluate.predict import average_statistics
from rxrx_jax.models.convnet import ConvNet
from rxrx_jax.models.heads import Head
from rxrx_jax.tasks.classify import Classify

DOMAINS = np.array([0, 2, 1, 1, 0, 2, 1], np.int32)
KEYS = jax.random.split(jax.random.key(0), 7)  # one per image


# Gradient reversal.


@pytest.mark.parametrize("scale", [0.0, 0.3, 2.0])
def test_reversal_is_the_identity_with_a_gradient_turned_round(scale):
    random = np.random.default_rng(0)
    x, incoming = random.normal(size=(2, 4, 3)).astype(np.float32)
    y, backward = jax.vjp(reverse_gradient, x, jnp.float32(scale))
    np.testing.assert_array_equal(y, x)
    gradient, of_scale = backward(incoming)
    np.testing.assert_array_equal(gradient, -np.float32(scale) * incoming)
    assert of_scale == 0


def test_reversal_against_a_gradient_written_by_hand():
    # loss = mean((g(x) w)^2) with g the reversal:
    # d loss / d x = -scale * 2/n * (x w) w^T and d loss / d w = 2/n * x^T (x w)
    random = np.random.default_rng(1)
    x, w, scale = random.normal(size=(5, 3)), random.normal(size=3), 0.7
    loss = lambda x, w: jnp.square(reverse_gradient(x, scale) @ w).mean()  # noqa: E731
    with jax.enable_x64(True):
        of_x, of_w = jax.grad(loss, argnums=(0, 1))(jnp.asarray(x), jnp.asarray(w))
    np.testing.assert_allclose(of_x, -scale * 2 / 5 * np.outer(x @ w, w), rtol=1e-12)
    np.testing.assert_allclose(of_w, 2 / 5 * x.T @ (x @ w), rtol=1e-12)


def test_ramp():
    assert ramp(jnp.float32(0)) == 0
    assert ramp(jnp.float32(1)) == pytest.approx(0.9999092, abs=1e-6)
    np.testing.assert_allclose(ramp(jnp.array([0.1, 0.5])), np.tanh([0.5, 2.5]), rtol=1e-6)  # the same curve


# The whole objective.


def discriminator_loss(params, features):
    """Mean cross-entropy of the discriminator, in numpy."""
    y = discriminate(params, features)
    return (np.log(np.exp(y).sum(-1)) - y[np.arange(len(y)), DOMAINS]).mean()


def outputs(features, losses=0.0):
    """What a method's loss gets, of images in DOMAINS: their losses are given."""
    n = len(DOMAINS)
    losses, labels = jnp.full(n, losses), jnp.zeros(n, int)
    minibatch = batch(jnp.zeros(n), KEYS, label=labels)
    return Outputs(features, None, losses, labels, labels >= 0, DOMAINS, minibatch, {}, None)


def test_dann_teaches_a_linear_encoder_the_reversed_gradient():
    dann = Dann("experiment", (1 / 3,) * 3, grl_weight=0.8, hidden=6)
    random = np.random.default_rng(2)
    x, encoder = random.normal(size=(7, 5)), random.normal(size=(5, 4))
    params, carry = random_variables(dann.init, jnp.zeros((7, 4)), seed=3)
    assert carry == {}
    params = jax.tree.map(lambda p: np.asarray(p, np.float64), params)
    progress = 0.25
    scale = 0.8 * np.tanh(5 * progress)

    def loss(encoder, params):
        value, carry, metrics = dann.loss(params, {}, outputs(x @ encoder), progress, KEYS[0])
        assert carry == {}
        return value, metrics

    with jax.enable_x64(True):
        (value, metrics), (of_encoder, of_params) = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(
            jnp.asarray(encoder), jax.tree.map(jnp.asarray, params)
        )
    np.testing.assert_allclose(value, discriminator_loss(params, x @ encoder), rtol=1e-10)
    np.testing.assert_allclose([metrics["domain_loss"], metrics["reversal"]], [value, scale], rtol=1e-10)

    down_hill = finite_differences(lambda w: discriminator_loss(params, x @ w), encoder)
    np.testing.assert_allclose(of_encoder, -scale * down_hill, rtol=1e-5, atol=1e-8)
    for layer, name in (
        ("hidden0", "kernel"),
        ("norm1", "bias"),
        ("domains", "kernel"),
    ):  # not reversed, not scaled

        def changed(value, layer=layer, name=name):
            return discriminator_loss(params | {layer: params[layer] | {name: value}}, x @ encoder)

        expected = finite_differences(changed, params[layer][name])
        np.testing.assert_allclose(of_params[layer][name], expected, rtol=1e-5, atol=1e-8, err_msg=layer)


def loss_of(task, params, variables, images, columns, progress):
    return task.loss(params, collections(variables), batch(images, KEYS, **columns), KEYS[0], progress)


@pytest.fixture(scope="module")
def classifier():
    """(task, variables, images, columns, gradient of the loss as a function of the method's grl_weight)."""
    dann = Dann("plate", (1 / 3,) * 3, grl_weight=0.5, hidden=6)
    task = Classify(ConvNet((4, 6)), Head(4), dann, label_smoothing=0.1)
    images = np.random.default_rng(0).normal(size=(7, 8, 8, 2)).astype(np.float32)
    variables = random_variables(task.init, images)
    minibatch = {"label": np.array([0, 3, -1, 2, -1, 1, 0]), "plate": DOMAINS, "experiment": 0 * DOMAINS}

    @jax.jit
    def gradient(weight, progress):
        weighted = dataclasses.replace(task, method=dataclasses.replace(task.method, grl_weight=weight))
        loss = lambda p: loss_of(weighted, p, variables, images, minibatch, progress)  # noqa: E731
        return jax.grad(loss, has_aux=True)(variables["params"])

    return task, variables, images, minibatch, gradient


def test_the_encoder_gets_class_gradient_minus_domain_gradient(classifier):
    task, variables, images, minibatch, gradient = classifier
    stats = variables["batch_stats"]

    @jax.jit
    def apart(params):
        def class_loss(params):
            alone = dataclasses.replace(task, method=Method("plate"))
            return loss_of(alone, params, variables, images, minibatch, 0.3)[0]

        def domain_loss(params):
            inputs = {"params": params["encoder"], "batch_stats": stats["encoder"]}
            (_, found), _ = task.encoder.apply(inputs, images, train=True, mutable=["batch_stats"])
            logits = task.method._discriminator.apply({"params": params["domain"]}, found["embedding"])
            return -jax.nn.log_softmax(logits)[np.arange(7), DOMAINS].mean()

        return jax.grad(class_loss)(params), jax.grad(domain_loss)(params)

    of_class, of_domain = apart(variables["params"])
    total, _ = gradient(0.5, 0.3)
    scale = 0.5 * np.tanh(5 * 0.3)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)  # noqa: E731
    jax.tree.map(lambda t, c, d: close(t, c - scale * d), total["encoder"], of_class["encoder"], of_domain["encoder"])
    jax.tree.map(close, total["head"], of_class["head"])
    jax.tree.map(close, total["domain"], of_domain["domain"])
    assert max(np.abs(d).max() for d in jax.tree.leaves(of_domain["encoder"])) > 1e-3  # there was something to reverse


def test_weight_zero_leaves_the_encoder_alone_and_still_trains_the_discriminator(classifier):
    task, variables, images, _, gradient = classifier
    encoder, domain = variables["params"]["encoder"], variables["params"]["domain"]

    @jax.jit
    def of_domain_loss(encoder, domain):
        def loss(encoder, domain):
            inputs = {"params": encoder, "batch_stats": variables["batch_stats"]["encoder"]}
            (_, found), _ = task.encoder.apply(inputs, images, train=True, mutable=["batch_stats"])
            control = dataclasses.replace(task.method, grl_weight=0.0)
            return control.loss(domain, {}, outputs(found["embedding"]), 1.0, KEYS[0])[0]

        return jax.grad(loss, argnums=(0, 1))(encoder, domain)

    of_encoder, of_discriminator = of_domain_loss(encoder, domain)
    assert all(not np.any(g) for g in jax.tree.leaves(of_encoder))
    assert all(np.any(g) for g in jax.tree.leaves(of_discriminator))
    control, _ = gradient(0.0, 1.0)
    start, _ = gradient(0.5, 0.0)  # the ramp starts at zero
    jax.tree.map(np.testing.assert_array_equal, start, control)


def test_unlabelled_images_count_for_the_domain_only(classifier):
    task, variables, images, minibatch, gradient = classifier
    _, (_, metrics) = gradient(0.5, 0.3)
    hidden = minibatch["label"] < 0
    # By hand, from the network in training mode.
    inputs = {"params": variables["params"]["encoder"], "batch_stats": variables["batch_stats"]["encoder"]}
    (_, found), _ = task.encoder.apply(inputs, images, train=True, mutable=["batch_stats"])
    head = variables["params"]["head"]["linear"]
    logits = np.asarray(found["embedding"] @ head["kernel"] + head["bias"], np.float64)[~hidden]
    labels = minibatch["label"][~hidden]
    log_probabilities = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    smooth = 0.9 * np.eye(4)[labels] + 0.1 / 4
    np.testing.assert_allclose(metrics["class_loss"], -(smooth * log_probabilities).sum(-1).mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["accuracy"], (logits.argmax(-1) == labels).mean(), rtol=1e-6)
    domain = discriminator_loss(
        jax.tree.map(lambda p: np.asarray(p, np.float64), variables["params"]["domain"]),
        np.asarray(found["embedding"], np.float64),
    )
    np.testing.assert_allclose(metrics["domain_loss"], domain, rtol=1e-4)  # of all seven images


def test_a_minibatch_without_any_label_has_no_class_loss(classifier):
    task, variables, images, minibatch, _ = classifier
    alone = dataclasses.replace(task, method=Method("plate"))
    minibatch = minibatch | {"label": np.full(7, -1)}
    loss = lambda p: loss_of(alone, p, variables, images, minibatch, 0.0)[0]  # noqa: E731
    value, gradient = jax.jit(jax.value_and_grad(loss))(variables["params"])
    assert value == 0 and all(not np.any(g) for g in jax.tree.leaves(gradient))


# AdaBN.


def test_pooled_statistics_are_those_of_all_images_together():
    random = np.random.default_rng(0)
    data = [random.normal(2, 3, (n, 5)) * random.uniform(0.5, 2) for n in (8, 8, 3)]  # the last minibatch is short
    of = lambda x: {"mean": x.mean(0), "var": x.var(0)}  # noqa: E731
    parts = [(len(x), {"encoder": {"norm0": of(x), "norm1": of(x[:, :2] ** 2)}, "head": {}}) for x in data]
    together = np.concatenate(data)
    pooled = average_statistics(parts)
    expected = {"encoder": {"norm0": of(together), "norm1": of(together[:, :2] ** 2)}, "head": {}}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), pooled, expected)
    single = average_statistics(parts[:1])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), single, parts[0][1])


def test_statistics_of_minibatches_leave_padding_out_and_old_statistics_behind(classifier):
    task, variables, images, _, _ = classifier
    run = jax.jit(task.minibatch_statistics)
    mask = np.array([1, 1, 1, 1, 1, 0, 0], bool)
    found = run(variables["params"], variables["batch_stats"], images, mask)
    assert jax.tree.structure(found) == jax.tree.structure(variables["batch_stats"])

    dirty = images.copy()
    dirty[~mask] = 1e3
    other_running = jax.tree.map(lambda x: x * 5 + 1, variables["batch_stats"])
    again = run(variables["params"], other_running, dirty, mask)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), again, found)

    # The first layer's statistics by hand.
    kernel = np.asarray(variables["params"]["encoder"]["conv0"]["kernel"], np.float64)
    y = windows(images[mask].astype(np.float64)).reshape(-1, 18) @ kernel.reshape(-1, 4)
    np.testing.assert_allclose(found["encoder"]["norm0"]["mean"], y.mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found["encoder"]["norm0"]["var"], y.var(0), rtol=1e-4, atol=1e-5)
