"""The vision transformer: positions and patches against formulas, linear layers, stochastic depth, rematerialisation,
memory, bfloat16. Its numbers against PyTorch are in test_models_mae.py."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from parameters import random_variables

from rxrx_jax.base.errors import UserError
from rxrx_jax.models.vit import (
    REMAT,
    SIZES,
    Block,
    Blocks,
    Encoder,
    LayerScale,
    Size,
    Style,
    dense,
    parse_variant,
    patchify,
    sincos_positions,
    unpatchify,
)

TINY = Size(16, 2, 32, 2)
PARALLEL = dict(block="parallel", qkv_bias=False, qk_norm=True, layer_scale=1e-4, class_token=True)
STYLES = {
    "plain": Style(),
    "serial": Style(qk_norm=True, layer_scale=0.1, class_token=True, pool="class", positions="learned"),
    "parallel": Style(**PARALLEL, final_norm=False),
    "channel agnostic": Style(**PARALLEL, channel_agnostic=True),
}


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
    by_channel = patchify(image, 2, by_channel=True)
    assert by_channel.shape == (1, 12, 4)
    np.testing.assert_array_equal(patches[0, 0], [0, 1, 10, 11, 100, 101, 110, 111])
    np.testing.assert_array_equal(patches[0, 1], [20, 21, 30, 31, 120, 121, 130, 131])  # next column
    np.testing.assert_array_equal(patches[0, 3], [200, 201, 210, 211, 300, 301, 310, 311])  # next row
    np.testing.assert_array_equal(by_channel[0, 1], [20, 30, 120, 130])
    np.testing.assert_array_equal(by_channel[0, 6 + 3], [201, 211, 301, 311])


@pytest.mark.parametrize("by_channel", [False, True])
@pytest.mark.parametrize("shape, patch", [((2, 8, 12, 3), 4), ((1, 6, 6, 1), 6), ((3, 4, 2, 5), 1)])
def test_unpatchify_undoes_patchify(shape, patch, by_channel):
    images = np.random.default_rng(0).normal(size=shape)
    patches = patchify(images, patch, by_channel)
    np.testing.assert_array_equal(unpatchify(patches, patch, *shape[1:3], by_channel), images)


def test_an_image_that_is_not_a_multiple_of_the_patch_is_an_error():
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


def count(module, *shapes):
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return sum(x.size for x in jax.tree.leaves(jax.eval_shape(module.init, jax.random.key(0), *arrays)))


@pytest.mark.parametrize(
    "variant, side, channels, style, positions, millions",
    [
        # Dosovitskiy et al. 2021, table 1, and Zhai et al. 2022 (arXiv 2106.04560), table 2: with a class token, learnt
        # positions and, but for g and G, without the classifier.
        ("Ti/16", 224, 3, Style(class_token=True, positions="learned"), 0, 5.5),
        ("B/16", 224, 3, Style(class_token=True, positions="learned"), 0, 86),
        ("L/16", 224, 3, Style(class_token=True, positions="learned"), 0, 303),
        ("H/14", 224, 3, Style(class_token=True, positions="learned"), 0, 631),
        ("g/14", 224, 3, Style(positions="learned"), 0, 1011),
        ("G/14", 224, 3, Style(positions="learned"), 0, 1843),
        # Parallel blocks on six channels (Kraus et al. 2024), which count the fixed positions too.
        ("S/16", 256, 6, Style(**PARALLEL), 257, 22.0),
        ("S/32", 512, 6, Style(**PARALLEL), 257, 23.7),
        ("B/8", 256, 6, Style(**PARALLEL), 1025, 86.1),
        ("B/16", 256, 6, Style(**PARALLEL), 257, 86.4),
        ("L/8", 256, 6, Style(**PARALLEL), 1025, 303.7),
        ("L/16", 256, 6, Style(**PARALLEL), 257, 304.1),
    ],
)
def test_parameter_counts_are_the_published_ones(variant, side, channels, style, positions, millions):
    size, patch = parse_variant(variant)
    found = count(Encoder(size, patch, style), (1, side, side, channels)) + positions * size.width
    assert found / 1e6 == pytest.approx(millions, rel=0.003 if positions == 0 else 0, abs=0.06)


def test_dense_is_flax_s_with_the_same_gradients():
    x = np.random.default_rng(0).normal(size=(3, 5, 8)).astype(np.float32)
    ours, plain = dense(6, "layer"), nn.Dense(6, kernel_init=nn.initializers.xavier_uniform(), name="layer")
    params = random_variables(ours.init, x)
    jax.tree.map(np.testing.assert_array_equal, ours.init(jax.random.key(0), x), plain.init(jax.random.key(0), x))

    def run(module):
        loss = lambda p, x: (module.apply(p, x) ** 3).sum()  # noqa: E731
        return module.apply(params, x), jax.grad(loss, argnums=(0, 1))(params, x)

    found, expected = jax.jit(run, static_argnums=0)(ours), jax.jit(run, static_argnums=0)(plain)
    assert found[0].shape == (3, 5, 6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4), found, expected)
    two_dimensional = ours.apply(params, x[0])
    np.testing.assert_allclose(two_dimensional, found[0][0], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("module", [dense(6, "layer", jnp.bfloat16), LayerScale(0.5)])
def test_gradients_of_parameters_are_summed_in_float32(module):
    """4,096 rows whose gradients are 1 + 1/256: bfloat16 sums, or a sum rounded to bfloat16, cannot hold the total."""
    x = jnp.full((4096, 1, 6), 1 + 1 / 128, jnp.bfloat16)
    params = random_variables(module.init, x)
    out, pull = jax.vjp(lambda p: module.apply(p, x), params)
    assert out.dtype == jnp.bfloat16
    (gradient,) = pull(jnp.ones_like(out))
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        expected = 4096 * (1 if "bias" in jax.tree_util.keystr(path) else 1 + 1 / 128)
        assert leaf.dtype == jnp.float32
        np.testing.assert_array_equal(leaf, expected)


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
    assert set(found) == {"blocks", "block_embeddings", "embedding", "patches"}
    assert tokens.shape == (2, 6, 16) and found["blocks"].shape == (2, 2, 6, 16)
    np.testing.assert_allclose(found["embedding"], np.mean(tokens, axis=1), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found["block_embeddings"], np.mean(found["blocks"], axis=2), rtol=1e-5, atol=1e-6)
    last, norm = np.asarray(found["blocks"][-1], np.float64), params["params"]["blocks"]["norm"]
    normed = (last - last.mean(-1, keepdims=True)) / np.sqrt(last.var(-1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(tokens, normed * norm["scale"] + norm["bias"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", STYLES)
def test_keep_selects_patches_before_the_blocks(name):
    style = STYLES[name]
    images = np.random.default_rng(1).normal(size=(2, 8, 12, 2)).astype(np.float32)
    encoder = Encoder(TINY, 4, style)
    params = random_variables(encoder.init, images)
    apply = jax.jit(lambda keep: encoder.apply(params, images, keep=keep)[0])
    tokens, first, n = np.asarray(encoder.apply(params, images)[0]), int(style.class_token), 6
    n *= 2 if style.channel_agnostic else 1
    order = np.stack([np.random.default_rng(i).permutation(n) for i in range(2)])
    shuffled = apply(order)  # attention and mlp do not mind the order, positions travel with their tokens
    patches = np.take_along_axis(tokens[:, first:], order[:, :, None], axis=1)
    np.testing.assert_allclose(shuffled, np.concatenate([tokens[:, :first], patches], 1), atol=1e-5)
    some = apply(order[:, :3])
    assert some.shape == (2, first + 3, 16) and not np.allclose(some, shuffled[:, : first + 3], atol=1e-2)


# Stochastic depth.


def block_and_branch(style, images=4000):
    """A block with its parameters, x [images, 2, 16], the same for all, and what the block makes of it undisturbed."""
    x = np.tile(np.random.default_rng(0).normal(size=(1, 2, 16)), (images, 1, 1)).astype(np.float32)
    block = Block(TINY, style)
    params = random_variables(block.init, x[:1])
    return block, params, x, block.apply(params, x[:1]) - x[0]


def test_a_dropped_branch_is_zero_and_a_kept_one_is_scaled():
    block, params, x, branch = block_and_branch(Style(block="parallel"))
    apply = lambda rate: block.apply(params, x, rate, rngs={"drop_path": jax.random.key(0)}) - x  # noqa: E731
    found = apply(jnp.float32(0.25))
    kept = np.abs(found).max((1, 2)) > 0
    np.testing.assert_allclose(kept.mean(), 0.75, atol=0.03)  # four standard deviations
    np.testing.assert_allclose(found[kept], np.tile(branch / 0.75, (kept.sum(), 1, 1)), atol=1e-5)
    np.testing.assert_allclose(apply(jnp.float32(0)), np.tile(branch, (len(x), 1, 1)), atol=1e-5)


def test_the_two_branches_of_a_serial_block_are_dropped_apart():
    block, params, x, _ = block_and_branch(Style())
    found = block.apply(params, x, jnp.float32(0.5), rngs={"drop_path": jax.random.key(0)})
    _, counts = np.unique(np.round(found[:, 0, 0], 3), return_counts=True)  # neither, one, the other, both
    assert len(counts) == 4
    np.testing.assert_allclose(counts / len(x), 0.25, atol=0.03)


def test_the_rate_rises_from_zero_at_the_first_block_to_its_value_at_the_last():
    size, images = Size(4, 5, 8, 1), 3000
    blocks = Blocks(size, Style(block="parallel", drop_path=0.4))
    x = np.tile(np.random.default_rng(0).normal(size=(1, 2, 4)), (images, 1, 1)).astype(np.float32)
    params = random_variables(blocks.init, x[:1])
    run = jax.jit(lambda key: blocks.apply(params, x, True, rngs={"drop_path": key})[1]["blocks"])
    outputs = np.concatenate([x[None], run(jax.random.key(0))])
    dropped = (np.abs(np.diff(outputs, axis=0)).max((2, 3)) == 0).mean(1)
    assert dropped[0] == 0
    np.testing.assert_allclose(dropped, [0, 0.1, 0.2, 0.3, 0.4], atol=0.035)
    together = (np.diff(outputs, axis=0)[3:] == 0).all((2, 3)).all(0).mean()
    np.testing.assert_allclose(together, 0.3 * 0.4, atol=0.03)  # blocks draw independently of each other
    other = run(jax.random.key(1))
    assert (other != outputs[1:]).any() and (run(jax.random.key(0)) == outputs[1:]).all()


def test_evaluation_drops_nothing_and_a_rate_of_zero_needs_no_key():
    images = np.random.default_rng(1).normal(size=(2, 8, 8, 2)).astype(np.float32)
    dropping, plain = Encoder(TINY, 4, Style(drop_path=0.5)), Encoder(TINY, 4)
    params = random_variables(plain.init, images)
    expected = plain.apply(params, images, train=True)[0]
    np.testing.assert_array_equal(dropping.apply(params, images)[0], expected)
    train = lambda key: dropping.apply(params, images, train=True, rngs={"drop_path": key})[0]  # noqa: E731
    assert any(not np.allclose(train(jax.random.key(i)), expected) for i in range(3))


# Rematerialisation and memory.


def test_remat_changes_nothing():
    images = np.random.default_rng(1).normal(size=(2, 8, 8, 2)).astype(np.float32)
    style = dataclasses.replace(STYLES["serial"], drop_path=0.3)
    params = random_variables(Encoder(TINY, 4, style).init, images)

    def run(remat):
        encoder = Encoder(TINY, 4, style, remat)

        def loss(params):
            tokens, found = encoder.apply(params, images, train=True, rngs={"drop_path": jax.random.key(1)})
            return jnp.square(found["embedding"]).sum(), (tokens, found)

        return jax.jit(jax.value_and_grad(loss, has_aux=True))(params)

    expected = run("none")
    for remat in REMAT:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), run(remat), expected)


def compiled_memory(encoder, read=lambda found: None):
    """Bytes of temporaries of a training step that also returns read(intermediates)."""

    def loss(params, images):
        tokens, found = encoder.apply(params, images, train=True, rngs={"drop_path": jax.random.key(0)})
        return jnp.square(tokens).sum(), read(found)

    shape = jax.ShapeDtypeStruct((4, 32, 32, 1), jnp.float32)
    params = jax.eval_shape(encoder.init, jax.random.key(0), shape)
    step = jax.jit(jax.value_and_grad(loss, has_aux=True))
    return step.lower(params, shape).compile().memory_analysis().temp_size_in_bytes


DEEP = Size(16, 16, 64, 2)
ACTIVATIONS = 16 * 4 * 64 * 16 * 4  # bytes of the outputs of all blocks: depth, images, tokens, width, float32


def test_remat_saves_memory():
    none, dots, full = (compiled_memory(Encoder(DEEP, 4, Style(), remat)) for remat in ("none", *REMAT))
    assert none > 1.5 * dots and dots > 1.5 * full > ACTIVATIONS
    assert dots - full > 6 * ACTIVATIONS  # the products with weights: qkv 3, out 1, mlp1 4 widths


def test_unused_intermediates_cost_no_memory():
    """Not even in training: as much as the same blocks scanned by hand without any intermediate."""
    style = Style(drop_path=0.1, final_norm=False)
    block = jax.checkpoint(
        lambda x, p, rate, key: Block(DEEP, style).apply({"params": p}, x, rate, rngs={"drop_path": key}),
        policy=REMAT["full"],
        prevent_cse=False,
    )

    def by_hand(params, images):
        x = patchify(images, 4) @ params["embed"]["kernel"] + params["embed"]["bias"]
        keys = jax.random.split(jax.random.key(0), 16)
        inputs = params["blocks"]["block"], jnp.linspace(0, style.drop_path, 16), keys
        x, _ = jax.lax.scan(lambda x, inputs: (block(x, *inputs), None), x, inputs)
        return jnp.square(x).sum()

    encoder = Encoder(DEEP, 4, style, "full")
    shape = jax.ShapeDtypeStruct((4, 32, 32, 1), jnp.float32)
    params = jax.eval_shape(encoder.init, jax.random.key(0), shape)["params"]
    hand = jax.jit(jax.value_and_grad(by_hand)).lower(params, shape).compile().memory_analysis().temp_size_in_bytes
    unread = compiled_memory(encoder)
    assert hand - ACTIVATIONS / 16 < unread < hand + ACTIVATIONS / 16
    assert compiled_memory(encoder, lambda found: found["block_embeddings"]) < unread + ACTIVATIONS / 16


def test_bfloat16_stays_near_float32(plain):
    params, images, (tokens, found), gradient = plain
    encoder = Encoder(TINY, 4, dtype=jnp.bfloat16)
    (low, low_found), low_gradient = encoder_and_gradient(encoder, params, images)
    assert low.dtype == jnp.bfloat16 and low_found["embedding"].dtype == jnp.float32
    assert {x.dtype for x in jax.tree.leaves(low_gradient)} == {jnp.dtype("float32")}
    np.testing.assert_allclose(low.astype(jnp.float32), tokens, atol=0.1)
    assert low_found["block_embeddings"].dtype == jnp.float32
    np.testing.assert_allclose(low_found["embedding"], found["embedding"], atol=0.03)
    traced = jax.make_jaxpr(encoder.apply)(params, images)  # every product takes bfloat16
    products = [{x.aval.dtype.name for x in e.invars} for e in equations(traced.jaxpr, "dot_general")]
    assert len(products) == 1 + 6 and all(dtypes == {"bfloat16"} for dtypes in products)  # embed and one scanned block
    kernel, low_kernel = (g["params"]["embed"]["kernel"].ravel() for g in (gradient, low_gradient))
    assert kernel @ low_kernel / np.sqrt((kernel @ kernel) * (low_kernel @ low_kernel)) > 0.99
