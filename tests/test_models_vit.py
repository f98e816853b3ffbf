"""The vision transformer: positions and patches against formulas, linear layers, rematerialisation, bfloat16.
Its numbers against PyTorch are in test_models_mae.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from parameters import random_variables

from rxrx_jax.errors import UserError
from rxrx_jax.models.vit import (
    SIZES,
    Encoder,
    Size,
    dense,
    dot_over_rows,
    parse_variant,
    patchify,
    sincos_positions,
    unpatchify,
)

TINY = Size(16, 2, 32, 2)


def test_positions_against_a_formula_in_float64():
    height, width, dim = 5, 3, 16
    table = sincos_positions(height, width, dim)
    assert table.shape == (15, 16) and table.dtype == np.float32
    for row in range(height):
        for column in range(width):
            rates = [10_000.0 ** -(i / 4) for i in range(4)]
            expected = [f(place * r) for place in (row, column) for f in (np.sin, np.cos) for r in rates]
            np.testing.assert_allclose(table[row * width + column], expected, rtol=0, atol=1e-7)


def test_positions_are_all_different_and_refuse_odd_widths():
    assert len(np.unique(sincos_positions(16, 16, 96), axis=0)) == 256
    with pytest.raises(UserError, match="width 18"):
        sincos_positions(2, 2, 18)


def test_order_of_patches_and_pixels_by_hand():
    y, x, c = np.meshgrid(np.arange(4), np.arange(6), np.arange(2), indexing="ij")
    image = (100 * y + 10 * x + c)[None]  # the value names its own row, column and channel
    patches = patchify(image, 2)
    assert patches.shape == (1, 6, 8)
    np.testing.assert_array_equal(patches[0, 0], [0, 1, 10, 11, 100, 101, 110, 111])
    np.testing.assert_array_equal(patches[0, 1], [20, 21, 30, 31, 120, 121, 130, 131])  # next column
    np.testing.assert_array_equal(patches[0, 3], [200, 201, 210, 211, 300, 301, 310, 311])  # next row


@pytest.mark.parametrize("shape, patch", [((2, 8, 12, 3), 4), ((1, 6, 6, 1), 6), ((3, 4, 2, 5), 1)])
def test_unpatchify_undoes_patchify(shape, patch):
    images = np.random.default_rng(0).normal(size=shape)
    np.testing.assert_array_equal(unpatchify(patchify(images, patch), patch, *shape[1:3]), images)


def test_an_image_that_is_no_multiple_of_the_patch_is_an_error():
    with pytest.raises(UserError, match="10x8.*patch side 4.*augment.crop"):
        patchify(np.zeros((1, 10, 8, 1)), 4)


def test_variants():
    assert parse_variant("S/16") == (SIZES["S"], 16)
    assert parse_variant("B/8")[0] == Size(768, 12, 3072, 12)
    for size in SIZES.values():
        assert size.width % size.heads == 0 and size.width % 4 == 0
    for wrong in ("S", "S/", "S/0", "S/x", "XL/16", "", "S/-8"):
        with pytest.raises(UserError, match="model.variant"):
            parse_variant(wrong)


def test_parameter_counts_are_the_published_ones():
    # ViT-B/16 at 224: 85.8 M without class token, learnt positions and classifier; ViT-S 21.7 M.
    for name, millions in (("B", 85.6), ("S", 21.6), ("Ti", 5.5)):
        shapes = jax.eval_shape(
            Encoder(*parse_variant(f"{name}/16")).init, jax.random.key(0), jnp.zeros((1, 32, 32, 3))
        )
        assert sum(x.size for x in jax.tree.leaves(shapes)) / 1e6 == pytest.approx(millions, abs=0.1)


def test_dot_over_rows_is_a_plain_dense_with_the_same_gradients():
    x = np.random.default_rng(0).normal(size=(3, 5, 8)).astype(np.float32)
    ours = dense(6, "layer")
    plain = ours.clone(dot_general=None)
    params = random_variables(ours.init, x)
    assert ours.dot_general is dot_over_rows and plain.dot_general is None

    def run(module):
        loss = lambda p, x: (module.apply(p, x) ** 3).sum()  # noqa: E731
        return module.apply(params, x), jax.grad(loss, argnums=(0, 1))(params, x)

    found, expected = jax.jit(run, static_argnums=0)(ours), jax.jit(run, static_argnums=0)(plain)
    assert found[0].shape == (3, 5, 6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4), found, expected)
    two_dimensional = ours.apply(params, x[0])
    np.testing.assert_allclose(two_dimensional, found[0][0], rtol=1e-6, atol=1e-6)


def equations(jaxpr, *primitives):
    """All equations of some primitives, also inside of scans and calls."""
    for equation in jaxpr.eqns:
        if equation.primitive.name in primitives:
            yield equation
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from equations(inner, *primitives)


def encoder_and_gradient(encoder, params, images):
    def loss(params):
        tokens, found = encoder.apply(params, images)
        return jnp.square(found["embedding"]).sum(), (tokens, found)

    (_, out), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    return out, gradient


@pytest.fixture(scope="module")
def plain():
    images = np.random.default_rng(1).normal(size=(2, 8, 12, 2)).astype(np.float32)
    encoder = Encoder(TINY, 4)
    params = random_variables(encoder.init, images)
    return params, images, *encoder_and_gradient(encoder, params, images)


def test_every_intermediate_is_named(plain):
    params, _, (tokens, found), _ = plain
    assert set(found) == {"blocks", "embedding"}
    assert tokens.shape == (2, 6, 16) and found["blocks"].shape == (2, 2, 6, 16)
    np.testing.assert_allclose(found["embedding"], np.mean(tokens, axis=1), rtol=1e-5, atol=1e-6)
    last, norm = np.asarray(found["blocks"][-1], np.float64), params["params"]["blocks"]["norm"]
    normed = (last - last.mean(-1, keepdims=True)) / np.sqrt(last.var(-1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(tokens, normed * norm["scale"] + norm["bias"], rtol=1e-4, atol=1e-5)


def test_keep_selects_tokens_before_the_blocks(plain):
    params, images, (tokens, _), _ = plain
    apply = jax.jit(lambda keep: Encoder(TINY, 4).apply(params, images, keep=keep)[0])
    order = np.array([[5, 3, 1, 0, 2, 4], [0, 1, 2, 3, 4, 5]])
    shuffled = apply(order)  # attention and mlp do not mind the order, positions travel with their tokens
    np.testing.assert_allclose(shuffled, np.take_along_axis(np.asarray(tokens), order[:, :, None], axis=1), atol=1e-5)
    assert apply(order[:, :2]).shape == (2, 2, 16)


def test_remat_changes_nothing(plain):
    params, images, out, gradient = plain
    again, gradient_again = encoder_and_gradient(Encoder(TINY, 4, remat=True), params, images)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
        (out, gradient),
        (again, gradient_again),
    )


def test_remat_is_there_when_it_is_asked_for(plain):
    params, images, _, _ = plain
    for remat in (False, True):
        encoder = Encoder(TINY, 4, remat=remat)
        loss = lambda p, encoder=encoder: encoder.apply(p, images)[1]["embedding"].sum()  # noqa: E731
        traced = jax.make_jaxpr(jax.grad(loss))(params)
        assert any(equations(traced.jaxpr, "remat2", "checkpoint")) == remat


def test_bfloat16_stays_near_float32(plain):
    params, images, (tokens, found), gradient = plain
    encoder = Encoder(TINY, 4, dtype=jnp.bfloat16)
    (low, low_found), low_gradient = encoder_and_gradient(encoder, params, images)
    assert low.dtype == jnp.bfloat16 and low_found["embedding"].dtype == jnp.float32
    assert {x.dtype for x in jax.tree.leaves(low_gradient)} == {jnp.dtype("float32")}
    np.testing.assert_allclose(low.astype(jnp.float32), tokens, atol=0.1)
    np.testing.assert_allclose(low_found["embedding"], found["embedding"], atol=0.03)
    traced = jax.make_jaxpr(encoder.apply)(params, images)  # every product takes bfloat16
    products = [{x.aval.dtype.name for x in e.invars} for e in equations(traced.jaxpr, "dot_general")]
    assert len(products) == 1 + 6 and all(dtypes == {"bfloat16"} for dtypes in products)  # embed and one scanned block
    kernel, low_kernel = (g["params"]["embed"]["kernel"].ravel() for g in (gradient, low_gradient))
    assert kernel @ low_kernel / np.sqrt((kernel @ kernel) * (low_kernel @ low_kernel)) > 0.99
