"""FLOPs counted in a jaxpr: by hand, against the compiler's own count, and the table of what chips can do."""

import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rxrx_jax.models import attention
from rxrx_jax.models.resnet import ResNet
from rxrx_jax.models.vit import Encoder, Size
from rxrx_jax.training.speed import flops


def array(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def compilers(function, *arguments):
    """XLA's count, which has the elementwise operations too and what a loop runs once only."""
    return jax.jit(function).lower(*arguments).cost_analysis()["flops"]


def test_a_matrix_product_and_its_gradient():
    x, w = array(5, 7), array(7, 3)
    assert flops.count(jnp.dot, x, w) == 2 * 5 * 7 * 3
    gradient = jax.value_and_grad(lambda x, w: (x @ w).sum(), (0, 1))
    assert flops.count(gradient, x, w) == 3 * 2 * 5 * 7 * 3
    assert (
        flops.count(lambda a, b: jnp.einsum("bij,bkj->bik", a, b), array(4, 5, 7), array(4, 3, 7)) == 4 * 2 * 5 * 7 * 3
    )
    assert flops.count(lambda x: jnp.exp(x) + x, x) == 0
    alone = jax.grad(lambda x, w: (x @ w).sum())  # neither the result nor the other gradient is needed
    assert flops.count(alone, x, w) == 2 * 5 * 7 * 3


def test_what_is_inside_other_functions_counts():
    x, one = array(6, 6), 2 * 6**3
    product = lambda x: x @ x  # noqa: E731
    assert flops.count(jax.jit(product), x) == one
    assert flops.count(jax.checkpoint(product), x) == one
    assert flops.count(jax.vmap(product), array(3, 6, 6)) == 3 * one

    @jax.custom_vjp
    def custom(x):
        return x @ x

    custom.defvjp(lambda x: (x @ x, x), lambda x, g: (g @ x @ x,))
    assert flops.count(custom, x) == one
    assert flops.count(jax.value_and_grad(lambda x: custom(x).sum()), x) == 3 * one


def test_a_scanned_body_counts_as_often_as_it_runs():
    x, one = array(6, 6), 2 * 6**3
    run = lambda x: jax.lax.scan(lambda c, _: (c @ c, None), x, length=5)[0]  # noqa: E731
    assert flops.count(run, x) == 5 * one
    nested = lambda x: jax.lax.scan(lambda c, _: (run(c), None), x, length=3)[0]  # noqa: E731
    assert flops.count(nested, x) == 15 * one
    assert compilers(run, x) < 2 * one  # what XLA says


def test_of_two_branches_the_dearer_counts():
    x, one = array(6, 6), 2 * 6**3
    choose = lambda x: jax.lax.cond(x[0, 0] > 0, lambda x: x @ x, lambda x: x @ x @ x, x)  # noqa: E731
    assert flops.count(choose, x) == 2 * one


@pytest.mark.parametrize("stride, groups, side", [(1, 1, 3), (2, 1, 3), (2, 1, 1), (3, 1, 5), (1, 4, 3), (2, 4, 3)])
def test_convolutions_and_their_gradients(stride, groups, side):
    """Each of the three, result, gradient of the input and of the kernel, multiplies the same pairs of numbers."""
    size, channels, features = 24, 8, 12
    x, kernel = array(2, size, size, channels), array(side, side, channels // groups, features)
    pad = [(side // 2, side // 2)] * 2

    def convolve(x, kernel):
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            x, kernel, (stride, stride), pad, dimension_numbers=numbers, feature_group_count=groups
        )

    out = size // stride
    one = 2 * 2 * out**2 * side**2 * (channels // groups) * features
    assert flops.count(convolve, x, kernel) == one
    for argument in (0, 1):
        gradient = jax.grad(lambda x, kernel: (convolve(x, kernel) ** 2).sum(), argument)
        assert flops.count(gradient, x, kernel) == pytest.approx(2 * one, rel=0.01)


def gradient_of(module, **kwargs):
    """The gradient of a mean of the module's features with respect to its parameters, with its arguments' shapes."""
    images = array(2, 64, 64, 6)
    variables = jax.eval_shape(lambda: module.init(jax.random.key(0), jnp.zeros(images.shape), **kwargs))

    def loss(params, rest, images):
        features, _ = module.apply({"params": params} | rest, images, mutable=["batch_stats"], **kwargs)[0]
        return (features.astype(jnp.float32) ** 2).mean()

    rest = {key: value for key, value in variables.items() if key != "params"}
    return jax.grad(loss), variables["params"], rest, images


def test_a_vision_transformer_as_the_compiler_counts_it():
    """One block, so that nothing is scanned more than once. Norms, softmax and GELU are the few per cent more."""
    with attention.unfused():
        arguments = gradient_of(Encoder(Size(256, 1, 1024, 4), 8))
        ours, theirs = flops.count(*arguments), compilers(*arguments)
        assert 0.9 < ours / theirs < 1.03
        deep = [flops.count(*gradient_of(Encoder(Size(256, depth, 1024, 4), 8))) for depth in (2, 3, 12)]
    assert deep[1] - deep[0] == deep[0] - ours and deep[2] - ours == 11 * (deep[0] - ours) > 0


def test_a_convolutional_network_as_the_compiler_counts_it():
    """With strided convolutions of 7, 3 and 1, whose gradients are dilated. The compiler leaves out what multiplies
    the padding."""
    arguments = gradient_of(ResNet((1, 1, 1), 64), train=True)
    ours, theirs = flops.count(*arguments), compilers(*arguments)
    assert 0.95 < ours / theirs < 1.1


def test_a_linear_layer_in_bfloat16_counts_the_same():
    module = nn.Dense(8, dtype=jnp.bfloat16)
    apply = lambda x: module.apply({"params": {"kernel": np.zeros((7, 8)), "bias": np.zeros(8)}}, x)  # noqa: E731
    assert flops.count(apply, array(5, 7)) == 2 * 5 * 7 * 8


def test_the_peak_is_that_of_this_machines_kind_of_chip(monkeypatch):
    assert flops.peak() is None or jax.devices()[0].platform != "cpu"
    monkeypatch.setattr(jax, "devices", lambda: [types.SimpleNamespace(device_kind="TPU v5 lite")])
    assert flops.peak() == 197e12
    assert all(1e14 < value < 1e16 for value in flops.PEAK.values())
