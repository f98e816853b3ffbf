"""The context token: what it is of in training and at test, and what it leaves alone."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from method_tools import SHARES, batch_of, draw, make
from parameters import random_variables

from rxrx_jax import adapt
from rxrx_jax.adapt.method import Group, Network
from rxrx_jax.adapt.statistics.context_token import ContextToken
from rxrx_jax.base.config import Config, load
from rxrx_jax.base.errors import UserError
from rxrx_jax.data.batch import TRAIN
from rxrx_jax.models.vit import Encoder, Size, Style, patchify, sincos_positions

SIZE = Size(8, 2, 16, 2)


@pytest.fixture(scope="module")
def network():
    """(task, variables, batch) of eight images of one experiment, of four patches each."""
    task = make(ContextToken(shares=SHARES, groups=1), Encoder(SIZE, 4))
    batch = batch_of({TRAIN: draw(8, side=8) | {"experiment": np.zeros(8, int)}})
    return task, random_variables(task.init, np.zeros((1, 8, 8, 2), np.float32)), batch


def patch_tokens(params, images):
    """[B, N, D], in numpy."""
    embed = {key: np.asarray(value, np.float64) for key, value in params["encoder"]["embed"].items()}
    return np.asarray(patchify(images, 4)) @ embed["kernel"] + embed["bias"] + sincos_positions(2, 2, 8)


def with_token(task, params, images, token):
    """Embeddings and logits with a given token [D] beside the patches."""
    given = lambda x: jnp.broadcast_to(token, (len(x), 1, len(token)))  # noqa: E731
    return task._apply(params, {"encoder": {}, "head": {}}, images, None, train=False, tokens=given)


def linear(params, mean):
    of = {key: np.asarray(value, np.float64) for key, value in params["domain"]["context"].items()}
    return (mean @ of["kernel"] + of["bias"]).astype(np.float32)


def encode_of(task, params, batch):
    """`encode` as the task makes it, by the way through its loss."""
    seen = []

    class Notes(ContextToken):
        def forward(self, encode, images, batch):
            found = super().forward(encode, images, batch)
            seen.append(found[0])
            return found

    noting = dataclasses.replace(task, method=Notes(shares=SHARES, groups=1))
    noting.loss(params, {"batch_stats": {"encoder": {}, "head": {}}, "carry": {}}, batch, jax.random.key(0), 0.5)
    return seen[0]


def test_in_training_it_is_of_all_images_of_the_minibatch(network):
    task, variables, batch = network
    params = variables["params"]
    found = encode_of(task, params, batch)
    expected = with_token(task, params, batch.images, linear(params, patch_tokens(params, batch.images).mean((0, 1))))
    np.testing.assert_allclose(found.features, expected.features, rtol=1e-5, atol=1e-6)
    other = with_token(task, params, batch.images, np.zeros(8, np.float32))
    assert np.abs(found.features - other.features).max() > 1e-3


def test_no_gradient_passes_through_the_mean_and_one_reaches_its_layer(network):
    task, variables, batch = network
    params = variables["params"]
    mean = patch_tokens(params, batch.images).mean((0, 1)).astype(np.float32)

    def loss(params, fixed):
        if not fixed:
            return encode_of(task, params, batch).logits.var()
        of = params["domain"]["context"]
        return with_token(task, params, batch.images, mean @ of["kernel"] + of["bias"]).logits.var()

    found, expected = (jax.grad(loss)(params, fixed) for fixed in (False, True))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), found, expected)
    assert np.abs(found["domain"]["context"]["kernel"]).max() > 1e-6


def test_at_test_it_is_of_all_images_of_the_experiment(network):
    task, variables, batch = network
    params, images = variables["params"], batch.images

    class Predict:
        def __call__(self, network, rows, tokens=None):
            found = task.predict(network.params, network.batch_stats, images[rows], None, tokens)
            return {"row": rows, "embedding": found["embedding"]}

        def patches(self, network, rows):
            return np.asarray(task.patches(network.params, images[rows])).mean(0)

    none, members = np.zeros(0, int), np.array([0, 2, 3, 5, 7])
    group = Group(np.array([2, 5]), members, 4, none)
    found = task.method.at_test(Predict(), Network(params, {"encoder": {}, "head": {}}), group)
    token = linear(params, patch_tokens(params, images[members]).mean((0, 1)))
    expected = with_token(task, params, images[group.rows], token)
    np.testing.assert_allclose(found["embedding"], expected.features, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("style", [Style(), Style(class_token=True, pool="class"), Style(channel_agnostic=True)])
def test_more_tokens_are_attended_to_and_not_pooled(style):
    encoder = Encoder(SIZE, 4, style)
    images = np.random.default_rng(0).normal(size=(3, 8, 8, 2)).astype(np.float32)
    variables = random_variables(encoder.init, images)
    tokens, found = encoder.apply(variables, images, tokens=lambda x: 0 * x[:, :2] + 5)
    plain, without = encoder.apply(variables, images)
    assert tokens.shape[1] == plain.shape[1] + 2
    patches = tokens[:, int(style.class_token) : -2]
    pooled = tokens[:, 0] if style.pool == "class" else patches.mean(1)
    np.testing.assert_allclose(found["embedding"], pooled, rtol=1e-5, atol=1e-6)
    assert np.abs(found["embedding"] - without["embedding"]).max() > 1e-3
    np.testing.assert_array_equal(found["patches"], without["patches"])  # of those that the images have
    if style.channel_agnostic:
        np.testing.assert_allclose(found["channel_embeddings"].mean(1), pooled, rtol=1e-5, atol=1e-6)
    assert found["block_embeddings"].shape == without["block_embeddings"].shape


def test_what_it_needs_is_one_line():
    found = load("dann_vit.py:method=context_token")
    assert found["data"]["groups_per_minibatch"] == 1 and found["adapt"] == {
        "name": "context_token",
        "domain": "experiment",
    }
    values = {"adapt": {"name": "context_token"}, "data": {"group": "experiment", "groups_per_minibatch": 1}}
    for model in ("convnet", "resnet50", "densenet161", "handcrafted"):
        config = Config(values | {"model": {"name": model}})
        with pytest.raises(UserError, match=f"adds a token to patches, and model.name={model} has none: use vit$"):
            adapt.check(ContextToken(), config, True, (TRAIN,))
    config = Config(values | {"model": {"name": "vit"}})
    adapt.check(ContextToken(), config, False, (TRAIN,), has_tokens=True)
    with pytest.raises(UserError, match="context_token has no use for the stream held_out: set data.unlabelled_minib"):
        adapt.check(ContextToken(), config, False, (TRAIN, "held_out"), has_tokens=True)
    with pytest.raises(UserError, match="^post_hoc.x: ContextToken has parameters of its own, which a run trains$"):
        adapt.check_post_hoc("x", ContextToken(), False)
