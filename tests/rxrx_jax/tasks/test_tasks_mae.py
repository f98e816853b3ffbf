"""The task of masked-autoencoder pretraining: its config, randomness by example, losses, and training in bfloat16."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from parameters import random_variables
from step_tools import batch, collections

from rxrx_jax import models
from rxrx_jax.adapt.method import Method
from rxrx_jax.base.config import Config
from rxrx_jax.base.errors import UserError
from rxrx_jax.models.convnet import ConvNet
from rxrx_jax.models.heads import Head
from rxrx_jax.models.losses import normalise_patches
from rxrx_jax.models.vit import Encoder, Size, Style
from rxrx_jax.tasks.classify import Classify
from rxrx_jax.tasks.mae import Mae

AGNOSTIC = dict(channel_agnostic=True, block="parallel", qk_norm=True, class_token=True, final_norm=False)


def make(model=None, **task):
    task = dict(mask_ratio=0.5, normalise_target=False, decoder=(16, 1, 2)) | task
    model = dict(name="vit", variant="XXS/4") | (model or {})
    return Mae.from_config(Config({"task": task, "model": model}), None, Method())


def small(task):
    """The task with an encoder of two narrow blocks."""
    module = task.module.clone(size=Size(16, 2, 32, 2))
    return dataclasses.replace(task, module=module, encoder=task.encoder.clone(size=module.size))


def loss_of(task, params, images, keys):
    return task.loss(params, {}, batch(images, keys), keys[0], 0.0)


def structured(n, seed=0, channels=2):
    """Images [n, 16, 16, channels]: waves of random direction, length and phase, to reconstruct from a part."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:16, :16] / 16
    a, b, phase = random.uniform(-3, 3, (3, n, 1, 1, channels))
    return np.sin(a * y[..., None] + b * x[..., None] + phase).astype(np.float32)


def test_the_config_makes_the_module():
    task = make(dict(AGNOSTIC, drop_path=0.2, remat="dots", dtype="bfloat16"), fourier_weight=0.01)
    module = task.module
    assert module.style == Style(drop_path=0.2, **AGNOSTIC) and module.remat == "dots" and module.dtype == jnp.bfloat16
    assert module.decoder == Size(16, 1, 64, 2) and (module.patch, module.mask_ratio) == (4, 0.5)
    assert task.encoder == Encoder(module.size, 4, module.style, "dots", jnp.bfloat16)
    assert (task.fourier_weight, task.normalise_target) == (0.01, False)
    assert make().fourier_weight == 0 and make().module.style == Style()


@pytest.mark.parametrize(
    "model, task, message",
    [
        ({}, dict(mask_ratio=0.0), "^task.mask_ratio=0.0: expected a number between 0 and 1$"),
        ({}, dict(fourier_weight=1.5), "^task.fourier_weight=1.5: expected a number from 0 to 1$"),
        ({}, dict(decoder=(16, 1, 3)), r"^task.decoder=\(16, 1, 3\): the width 16 must be a multiple of 12$"),
        (AGNOSTIC, dict(decoder=(12, 1, 2)), r"^task.decoder=\(12, 1, 2\): the width 12 must be a multiple of 8$"),
        (dict(name="handcrafted"), {}, "^model.name='handcrafted': task.name=mae needs vit$"),
        (dict(block="paralel"), {}, "^model.block='paralel': expected serial or parallel$"),
        (dict(pool="max"), {}, "^model.pool='max': expected mean or class$"),
        (dict(pool="class"), {}, "^model.pool='class' needs model.class_token=True$"),
        (dict(positions="rotary"), {}, "^model.positions='rotary': expected sincos or learned$"),
        (dict(qk_norm="yes"), {}, "^model.qk_norm='yes': expected True or False$"),
        (dict(qk_norm=1), {}, "^model.qk_norm=1: expected True or False$"),
        (dict(drop_path=1.0), {}, "^model.drop_path=1.0: expected a number from 0 to 0.9$"),
        (dict(layer_scale=True), {}, "^model.layer_scale=True: expected a number from 0 to 1$"),
        (dict(epsilon="1e-6"), {}, "^model.epsilon='1e-6': expected a number from 1e-12 to 0.01$"),
        (dict(remat=True), {}, "^model.remat=True: expected none, dots or full$"),
        (dict(dtype="float16"), {}, "^model.dtype='float16': expected float32 or bfloat16$"),
    ],
)
def test_bad_values_are_named(model, task, message):
    with pytest.raises(UserError, match=message):
        make(model, **task)


def test_every_field_of_a_style_is_a_key_of_the_config():
    values = dict(block="parallel", qkv_bias=False, qk_norm=True, layer_scale=1e-4, drop_path=0.1, class_token=True)
    values |= dict(pool="class", positions="learned", final_norm=False, channel_agnostic=True, epsilon=1e-5)
    assert values.keys() == {field.name for field in dataclasses.fields(Style)}
    config = Config({"name": "vit", "variant": "S/16"} | values)
    assert models.make_encoder(config).style == Style(**values)
    assert not config.unread()


@pytest.fixture(scope="module", params=[{}, AGNOSTIC], ids=["plain", "channel agnostic"])
def ready(request):
    """(task, params, images, jitted loss of params, images, keys)."""
    task = small(make(request.param, fourier_weight=0.25))
    images = structured(4)
    params = random_variables(task.init, images[:1])["params"]
    return task, params, images, jax.jit(functools.partial(loss_of, task))


def test_the_noise_of_an_image_is_of_its_key_alone(ready):
    task, params, images, loss = ready
    keys = jax.random.split(jax.random.key(3), 4)
    noise = task.noise(keys, images)
    assert noise.shape == (4, 16 * (2 if task.module.style.channel_agnostic else 1))
    assert len(np.unique(noise)) == noise.size
    np.testing.assert_array_equal(task.noise(keys[2:], images[2:]), noise[2:])
    whole, (_, metrics) = loss(params, images, keys)
    parts = [loss(params, images[i : i + 2], keys[i : i + 2])[0] for i in (0, 2)]
    np.testing.assert_allclose(np.mean(parts), whole, rtol=1e-5)  # as gradient accumulation needs it
    assert not np.allclose(loss(params, images, keys[::-1])[0], whole, rtol=1e-4)
    np.testing.assert_allclose(whole, 0.75 * metrics["pixel_loss"] + 0.25 * metrics["fourier_loss"], rtol=1e-6)


def test_a_loss_of_one_kind_is_not_said_twice(ready):
    task, params, images, loss = ready
    keys = jax.random.split(jax.random.key(3), 4)
    both = loss(params, images, keys)[1][1]
    for weight, name in ((0.0, "pixel_loss"), (1.0, "fourier_loss")):
        one = dataclasses.replace(task, fourier_weight=weight)
        value, (_, metrics) = loss_of(one, params, images, keys)
        assert metrics == {}
        np.testing.assert_allclose(value, both[name], rtol=1e-5)


def test_targets_are_normalised_when_asked_for(ready):
    task, _, images, _ = ready
    target = task.module.patches(images)
    mask = jnp.ones(target.shape[:2])
    for normalise in (False, True):
        one = dataclasses.replace(task, normalise_target=normalise, fourier_weight=0.0)
        loss = one.score(normalise_patches(target) if normalise else target, images, mask)[0]
        np.testing.assert_allclose(loss, 0, atol=1e-10)


def test_training_drops_blocks_and_evaluation_does_not():
    task = small(make(dict(drop_path=0.9)))
    images, plain = structured(4), small(make())
    params = random_variables(task.init, images[:1])["params"]
    keys = jax.random.split(jax.random.key(3), 4)
    run = lambda task: jax.jit(functools.partial(loss_of, task))(params, images, keys)[0]  # noqa: E731
    assert not np.allclose(run(task), run(plain))
    found = [t.predict(params, {}, images, None)["embedding"] for t in (task, plain)]
    np.testing.assert_array_equal(*found)


def classify(task, variables, images, keys):
    columns = {"label": jnp.array([0, 1, 2, 0]), "experiment": jnp.zeros(4, int)}
    return task.loss(variables["params"], collections(variables), batch(images, keys, **columns), keys[0], 0.0)[0]


def test_fine_tuning_drops_blocks_by_the_first_key_and_a_frozen_encoder_does_not():
    encoder = Encoder(Size(16, 2, 32, 2), 4, Style(drop_path=0.9))
    images = structured(4)
    for frozen in (None, "encoder/"):
        task = Classify(encoder, Head(3), Method(), 0.0, frozen)
        variables = random_variables(task.init, images[:1])
        run = jax.jit(functools.partial(classify, task, variables, images))
        found = [float(run(jax.random.split(jax.random.key(i), 4))) for i in range(4)]
        assert (len(set(found)) == 1) == bool(frozen)


@pytest.mark.full
@pytest.mark.parametrize("model", [{}, AGNOSTIC], ids=["plain", "channel agnostic"])
def test_bfloat16_learns_as_float32_does(model):
    """Thirty steps of Adam on smooth images: the losses stay within 1 % of each other, and end below 0.8 of what the
    best constant would get."""
    images, curves = structured(16), {}
    keys = jax.random.split(jax.random.key(7), 16)
    for dtype in ("float32", "bfloat16"):
        task = small(make(dict(model, dtype=dtype), fourier_weight=0.01))
        optimiser = optax.adam(4e-3)

        def start(task=task, optimiser=optimiser):
            params = task.init(jax.random.key(0), images[:1])["params"]
            return params, optimiser.init(params)

        def update(state, _, task=task, optimiser=optimiser):
            (value, _), gradient = jax.value_and_grad(lambda params: loss_of(task, params, images, keys), has_aux=True)(
                state[0]
            )
            updates, moments = optimiser.update(gradient, state[1])
            return (optax.apply_updates(state[0], updates), moments), value

        quick = {"xla_backend_optimization_level": 0}  # compiling is most of the time
        run = jax.jit(lambda: jax.lax.scan(update, start(), length=30), compiler_options=quick)  # noqa: B023
        state, curves[dtype] = run()
        assert {x.dtype.name for x in jax.tree.leaves(state[0])} == {"float32"} and curves[dtype].dtype == jnp.float32
    np.testing.assert_allclose(curves["bfloat16"], curves["float32"], rtol=0.01)
    assert curves["float32"][-3:].mean() < 0.8 * images.var()


def test_a_network_without_stochastic_depth_takes_the_keys_too():
    task = Classify(ConvNet((4,)), Head(3), Method(), 0.0)
    images = structured(4)
    variables = random_variables(task.init, images[:1])
    keys = jax.random.split(jax.random.key(0), 4)
    assert np.isfinite(classify(task, variables, images, keys))
