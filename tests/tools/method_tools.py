"""A classifier of one linear layer, its minibatches and its state, for tests of methods in float64."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from rxrx_jax.adapt.method import Outputs
from rxrx_jax.data.batch import TRAIN, Batch, join, label_count
from rxrx_jax.models.heads import Head
from rxrx_jax.tasks.classify import Classify

CLASSES, SHARES = 3, (0.25, 0.5, 0.0, 0.25)
SMALL = {"evaluators": {}, "augment.crop": 16, "data.minibatch": 4, "model.widths": (4,)}  # changes for `tiny.values`


class Pixels(nn.Module):
    """An encoder that changes nothing: [B, S, S, C] -> [B, S*S*C]; its stem does nothing either."""

    @nn.compact
    def __call__(self, images, train=False, mask=None, after_stem=None):
        images = after_stem(images) if after_stem else images
        x = images.reshape(len(images), -1)
        return x, {"embedding": x}


def windows(images):
    """What the ConvNet's first convolution sees of images: [B, S, S, C] -> [B, S/2 * S/2, 9 C]."""
    padded = np.pad(images, ((0, 0), (0, 1), (0, 1), (0, 0)))
    found = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (1, 2))[:, ::2, ::2]  # [B, s, s, C, 3, 3]
    return found.transpose(0, 1, 2, 4, 5, 3).reshape(len(images), -1, 9 * images.shape[3])


def draw(size, seed=0, side=2, domains=(0, 1, 3)):
    random = np.random.default_rng(seed)
    return {
        "image": random.normal(size=(size, side, side, 2)),
        "label": random.integers(0, CLASSES, size),
        "experiment": np.array([domains[i % len(domains)] for i in range(size)]),
    }


def batch_of(minibatch, views=None):
    columns, streams = join(minibatch)
    images = columns["image"]
    keys = jax.random.split(jax.random.key(0), len(images))
    return Batch(views or (images,), columns, keys, streams, label_count(minibatch))


def close(found, expected, rtol=1e-6):
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=1e-9)


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def make(method, encoder=None, smoothing=0.0):
    return Classify(encoder or Pixels(), Head(CLASSES), method, smoothing)


def start(task, seed=1):
    """Random parameters and collections, float64."""
    view = np.zeros((1, 2, 2, 2))
    variables = task.init(jax.random.key(0), view)
    random = np.random.default_rng(seed)
    params = jax.tree.map(lambda x: jnp.asarray(random.normal(size=x.shape)), variables["params"])
    collections = {key: variables.get(key, {}) for key in ("batch_stats", "carry", "averages")}
    collections["carry"] = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), collections["carry"])
    return params, collections


def finite_differences(function, x, step=1e-6):
    """The gradient of a function of numpy arrays."""
    gradient = np.empty_like(x)
    for i in np.ndindex(x.shape):
        up, down = x.copy(), x.copy()
        up[i] += step
        down[i] -= step
        gradient[i] = (function(up) - function(down)) / (2 * step)
    return gradient


def outputs(features, logits, labels, domains, held_out=0, smoothing=0.0):
    """What a method's loss gets, of a network that gave these features and logits; the last `held_out` images are the
    second stream."""
    labels, domains, n = np.asarray(labels), np.asarray(domains), len(labels)
    targets = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[1]), smoothing)
    losses = jnp.where(labels >= 0, optax.softmax_cross_entropy(logits, targets), 0)
    streams = {TRAIN: slice(0, n - held_out)} | ({"held_out": slice(n - held_out, n)} if held_out else {})
    batch = Batch((np.zeros(n),), {"label": labels}, None, streams, max((labels >= 0).sum(), 1))
    return Outputs(features, logits, losses, labels, labels >= 0, domains, batch, {}, targets)


def discriminate(params, y):
    """The logits of models.heads.Discriminator, in numpy."""
    for i in range(2):
        y = y @ params[f"hidden{i}"]["kernel"] + params[f"hidden{i}"]["bias"]
        y = (y - y.mean(-1, keepdims=True)) / np.sqrt(y.var(-1, keepdims=True) + 1e-6)
        y = np.maximum(y * params[f"norm{i}"]["scale"] + params[f"norm{i}"]["bias"], 0)
    return y @ params["domains"]["kernel"] + params["domains"]["bias"]
