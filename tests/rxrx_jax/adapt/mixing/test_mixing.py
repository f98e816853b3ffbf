"""Methods that mix images or their styles, against their formulas in float64 numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from method_tools import CLASSES, SHARES, batch_of, close, draw, make, start

from rxrx_jax.adapt.method import Method
from rxrx_jax.adapt.mixing.cutmix import CutMix, rectangle
from rxrx_jax.adapt.mixing.dsu import DSU, drawn_styles
from rxrx_jax.adapt.mixing.lisa import Lisa
from rxrx_jax.adapt.mixing.mixstyle import MixStyle, mixed_styles, moments
from rxrx_jax.adapt.mixing.mixup import Mixup, has_label, partners
from rxrx_jax.data.batch import HELD_OUT, TRAIN
from rxrx_jax.models.convnet import ConvNet
from rxrx_jax.models.densenet import DenseNet
from rxrx_jax.models.resnet import ResNet

pytestmark = pytest.mark.usefixtures("double")

KEY = jax.random.key(3)


def pictures(n=6, side=(16, 12), unlabelled=()):
    """Random images and smoothed one-hot targets, level for those without a label."""
    random = np.random.default_rng(0)
    targets = 0.9 * np.eye(CLASSES)[random.integers(0, CLASSES, n)] + 0.1 / CLASSES
    targets[list(unlabelled)] = 0.1 / CLASSES
    return jnp.asarray(random.normal(size=(n, *side, 2))), jnp.asarray(targets)


def mix(method, images, targets):
    return map(np.asarray, jax.jit(method.mix, static_argnums=3)(KEY, images, targets, None))


def test_partners_are_a_permutation_of_the_labelled():
    labelled = jnp.array([1, 1, 0, 1, 0, 1, 1, 0], bool)
    found = np.array([partners(jax.random.key(i), labelled) for i in range(200)])
    for one in found:
        assert sorted(one) == list(range(8))
        assert (one[~labelled] == np.flatnonzero(~labelled)).all() and labelled[one[np.asarray(labelled)]].all()
    counts = (found[:, 0, None] == np.arange(8)).sum(0)  # of the first image, each labelled one about as often
    assert (counts[np.asarray(labelled)] > 20).all() and counts.sum() == 200


# Mixup and CutMix.


def test_mixup_is_the_convex_combination():
    images, targets = pictures(unlabelled=[4])
    mixed, found = mix(Mixup(alpha=0.7), images, targets)
    of_lambda, of_other = jax.random.split(KEY)
    lam = np.asarray(jax.random.beta(of_lambda, 0.7, 0.7, (6,)))
    other = np.asarray(partners(of_other, has_label(targets)))
    np.testing.assert_array_equal(has_label(targets), np.arange(6) != 4)
    for i in range(6):
        close(mixed[i], lam[i] * images[i] + (1 - lam[i]) * images[other[i]])
        close(found[i], lam[i] * targets[i] + (1 - lam[i]) * targets[other[i]])
    close(mixed[4], images[4])
    assert (other != np.arange(6)).sum() >= 3


def test_the_loss_of_a_mixture_is_the_mixture_of_losses():
    """lambda CE(y) + (1 - lambda) CE(y'), and the gradient of that, for Mixup; unlabelled images give none."""
    task = make(Mixup(alpha=1.0, shares=SHARES))
    params, collections = start(task)
    minibatch = {TRAIN: draw(5), HELD_OUT: draw(2, seed=1) | {"label": np.full(2, -1)}}
    batch = batch_of(minibatch)

    def loss(params):
        return task.loss(params, collections, batch, KEY, 0.5)[0]

    targets = jnp.eye(CLASSES)[jnp.maximum(batch.columns["label"], 0)] * (batch.columns["label"] >= 0)[:, None]
    of_lambda, of_other = jax.random.split(jax.random.split(batch.keys[0])[0])
    lam, other = jax.random.beta(of_lambda, 1.0, 1.0, (7,)), np.asarray(partners(of_other, has_label(targets)))
    images, label = batch.images, batch.columns["label"]

    def by_hand(params):
        head, total = params["head"]["linear"], 0
        for i in range(5):
            x = lam[i] * images[i] + (1 - lam[i]) * images[other[i]]
            logs = jax.nn.log_softmax(x.reshape(-1) @ head["kernel"] + head["bias"])
            total -= lam[i] * logs[label[i]] + (1 - lam[i]) * logs[label[other[i]]]
        return total / 5

    (value, gradient), (expected, of_hand) = (jax.value_and_grad(f)(params) for f in (loss, by_hand))
    close(value, expected)
    jax.tree.map(close, gradient, of_hand)


def test_cutmix_cuts_a_rectangle_and_its_share_of_the_label():
    images, targets = pictures(unlabelled=[1])
    mixed, found = mix(CutMix(alpha=1.0), images, targets)
    of_lambda, of_place, of_other = jax.random.split(KEY, 3)
    lam = np.asarray(jax.random.beta(of_lambda, 1.0, 1.0, (6,)))
    middle = np.asarray(jax.random.uniform(of_place, (2, 6)))
    other = np.asarray(partners(of_other, has_label(targets)))
    for i in range(6):
        h, w = int(16 * np.sqrt(1 - lam[i])), int(12 * np.sqrt(1 - lam[i]))
        top, left = int(middle[0, i] * 16) - h // 2, int(middle[1, i] * 12) - w // 2
        inside = np.zeros((16, 12), bool)
        inside[max(top, 0) : max(top + h, 0), max(left, 0) : max(left + w, 0)] = True
        close(mixed[i], np.where(inside[..., None], images[other[i]], images[i]))
        close(found[i], (1 - inside.mean()) * targets[i] + inside.mean() * targets[other[i]])
    close(mixed[1], images[1])
    assert (mixed != images).any((1, 2, 3)).sum() >= 3


def test_rectangles_have_the_area_that_lambda_says():
    lam = jnp.array([0.0, 0.75, 1.0])
    found = rectangle(lam, jnp.full((2, 3), 0.5), 40, 20)
    np.testing.assert_array_equal(found.sum((1, 2)), [800, 200, 0])


# LISA.


def test_lisa_cuts_a_rectangle_of_the_pairs_other_image():
    images, targets = pictures(8, unlabelled=[6, 7])
    mixed, same = mix(Lisa(alpha=2.0), images, targets)
    close(same, targets)
    of_lambda, of_place = jax.random.split(KEY)
    lam = jax.random.beta(of_lambda, 2.0, 2.0, (4,))
    middle = jax.random.uniform(of_place, (2, 4))
    changed = 0
    for i in range(6):
        share = float(lam[i // 2])
        h, w = int(16 * np.sqrt(1 - share)), int(12 * np.sqrt(1 - share))
        top = int(float(middle[0, i // 2]) * 16) - h // 2
        left = int(float(middle[1, i // 2]) * 12) - w // 2
        expected = np.array(images[i])
        rows, columns = slice(max(top, 0), max(top + h, 0)), slice(max(left, 0), max(left + w, 0))
        expected[rows, columns] = images[i ^ 1][rows, columns]  # its pair's other one
        np.testing.assert_array_equal(mixed[i], expected)
        changed += (expected != images[i]).any()
    assert changed >= 4
    np.testing.assert_array_equal(mixed[6:], images[6:])  # unlabelled: of another perturbation, perhaps


# MixStyle and DSU.


def style(x):
    """Mean and standard deviation over positions of x [B, h, w, D], [B, 1, 1, D] each."""
    x = np.asarray(x)
    return x.mean((1, 2), keepdims=True), np.sqrt(
        ((x - x.mean((1, 2), keepdims=True)) ** 2).mean((1, 2), keepdims=True) + 1e-6
    )


def feature_maps(n=5):
    return jnp.asarray(
        np.random.default_rng(4).gamma(1.0, size=(n, 3, 4, 2)) * np.arange(1, n + 1).reshape(-1, 1, 1, 1)
    )


def test_mixstyle_gives_an_image_the_mixed_moments():
    x = feature_maps()
    found = mixed_styles(x, KEY, alpha=0.5)
    of_lambda, of_other = jax.random.split(KEY)
    lam = np.asarray(jax.random.beta(of_lambda, 0.5, 0.5, (5, 1, 1, 1)))
    other = np.asarray(jax.random.permutation(of_other, 5))
    mean, std = style(x)
    new_mean, new_std = (lam * m + (1 - lam) * m[other] for m in (mean, std))
    expected = (x - mean) / std * new_std + new_mean
    close(found, expected)
    assert np.abs(found - x).max() > 0.1
    close(found.mean((1, 2)), new_mean[:, 0, 0])
    # No gradient flows through the moments: that of the sum of w * found is w * new_std / std.
    w = np.random.default_rng(5).normal(size=x.shape)
    gradient = jax.grad(lambda x: (w * mixed_styles(x, KEY, 0.5)).sum())(x)
    close(gradient, w * new_std / std)


def test_dsu_draws_moments_with_the_minibatchs_spread():
    x = feature_maps()
    of_mean, of_std = (np.asarray(jax.random.normal(k, (5, 1, 1, 2))) for k in jax.random.split(KEY))

    def by_hand(x):
        mean, std = style(x)
        spread = lambda m: np.sqrt(((m - m.mean(0)) ** 2).mean(0) + 1e-6)  # noqa: E731
        return (x - mean) / std * (std + spread(std) * of_std) + mean + spread(mean) * of_mean

    close(drawn_styles(x, KEY), by_hand(np.asarray(x)))
    w = np.random.default_rng(5).normal(size=x.shape)
    gradient = jax.grad(lambda x: (w * drawn_styles(x, KEY)).sum())(x)
    for index in ((0, 1, 2, 0), (4, 0, 0, 1)):  # through the moments too
        step = np.zeros(x.shape)
        step[index] = 1e-6
        up, down = ((w * by_hand(np.asarray(x) + s)).sum() for s in (step, -step))
        close(gradient[index], (up - down) / 2e-6, rtol=1e-5)


@pytest.mark.parametrize("method", [MixStyle, DSU])
def test_styles_change_in_half_of_the_minibatches_and_only_in_training(method):
    plain, every = make(Method(shares=SHARES)), {p: make(method(shares=SHARES, p=p)) for p in (0.0, 0.5, 1.0)}
    params, collections = start(plain)
    columns = draw(6)

    def loss(task, seed):
        batch = batch_of({TRAIN: columns})
        batch = batch.__class__(batch.views, batch.columns, jax.random.split(jax.random.key(seed), 6), batch.streams, 6)
        return float(task.loss(params, collections, batch, KEY, 0.5)[0])

    same = loss(plain, 0)
    assert loss(every[0.0], 0) == same and abs(loss(every[1.0], 0) - same) > 1e-3
    changed = [loss(every[0.5], seed) != same for seed in range(30)]
    assert 7 < sum(changed) < 23
    images = jnp.asarray(columns["image"])
    read = [t.predict(params, collections["batch_stats"], images, jnp.ones(6, bool)) for t in (plain, every[1.0])]
    jax.tree.map(np.testing.assert_array_equal, *read)


@pytest.mark.parametrize("method", [mixed_styles, drawn_styles])
def test_equal_images_keep_their_style(method):
    x = jnp.repeat(feature_maps(1), 4, axis=0)
    extra = (0.5,) if method is mixed_styles else ()
    np.testing.assert_allclose(method(x, KEY, *extra), x, atol=0.02)  # DSU's epsilon is a spread of .001


@pytest.mark.parametrize(
    "encoder, side",
    [(ConvNet((4, 6)), 16), (ResNet((1, 1), 4), 8), (DenseNet((1, 1), 4, 4), 8)],
    ids=["convnet", "resnet", "densenet"],
)
def test_after_stem_changes_what_the_rest_of_the_network_sees(encoder, side):
    images = jax.random.normal(KEY, (2, 32, 32, 3), jnp.float32)
    variables = encoder.init(KEY, images, train=False)
    seen = []

    def run(after_stem):
        note = lambda x: seen.append(x.shape) or after_stem(x)  # noqa: E731
        return encoder.apply(variables, images, train=False, after_stem=note)[1]["embedding"]

    plain = encoder.apply(variables, images, train=False)[1]["embedding"]
    np.testing.assert_array_equal(run(lambda x: x), plain)
    assert np.abs(plain - plain[::-1]).max() > 1e-3
    np.testing.assert_array_equal(run(lambda x: x[::-1]), plain[::-1])
    assert seen == [(2, side, side, 4)] * 2


def test_moments_are_the_biased_ones():
    x = feature_maps()
    for found, expected in zip(moments(x), style(x)):
        close(found, expected)
