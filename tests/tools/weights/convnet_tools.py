"""What the tests of the ResNet and of the DenseNet share."""

import jax
import jax.numpy as jnp
import numpy as np
from parameters import random_variables
from paths import REFERENCE
from reference import convert_convnets


def load(name):
    with np.load(REFERENCE / f"{name}.npz") as arrays:
        return dict(arrays)


def under(arrays, prefix):
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}


def evaluate(module, variables, images, modes=("train", "eval")):
    """What `reference.make_convnets.forward` computes: {mode: (outputs, gradients, running statistics)}."""

    def run(train, variables, images):
        def loss(params):
            state = variables | {"params": params}
            (x, found), new = module.apply(state, images, train=train, mutable=["batch_stats"])
            rows, columns = (jnp.arange(n) for n in found["embedding"].shape)
            value = (found["embedding"] * jnp.sin(rows[:, None] + columns)).sum()
            return value, (found | {"features": x}, new["batch_stats"])

        gradient, (found, statistics) = jax.grad(loss, has_aux=True)(variables["params"])
        return found, gradient, statistics

    run = jax.jit(run, static_argnums=0)
    return {mode: run(mode == "train", variables, images) for mode in modes}


def assert_same(ours, weights, theirs, each):
    """All within 1e-5 of the largest value of the same array; with `each` false gradients within 1e-5 of the largest
    gradient of the network: those before a normalisation are sums that nearly cancel, too nearly for float32."""

    def close(a, b, where, largest=None):
        largest = np.abs(b).max() if largest is None else largest
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * largest, err_msg=where)

    for mode, (found, gradient, statistics) in ours.items():
        expected = under(theirs, f"{mode}/out/")
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            close(found[name], value, f"{mode} {name}")
        expected = convert_convnets.to_jax(under(theirs, f"{mode}/gradient/"))["params"]
        assert jax.tree.structure(gradient) == jax.tree.structure(expected)
        of_all = max(np.abs(b).max() for b in jax.tree.leaves(expected))
        for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(gradient), jax.tree.leaves(expected)):
            largest = max(np.abs(b).max(), 1e-9 * of_all) if each else of_all  # some are 0, but for rounding
            close(a, b, f"{mode} {jax.tree_util.keystr(path)}", largest)
        moved = under(theirs, "train/statistics/") if mode == "train" else weights
        expected = convert_convnets.to_jax(moved)["batch_stats"]
        jax.tree.map(lambda a, b, mode=mode: close(a, b, f"{mode} statistics"), statistics, expected)


def assert_like_stored(module, name):
    """In float32, and training in float64 too, where rounding hides no mistake."""
    stored = load(name)
    weights, images = under(stored, "weight/"), stored["images"]
    variables = convert_convnets.to_jax(weights)
    assert_same(evaluate(module, variables, images), weights, stored, each=False)
    with jax.enable_x64(True):
        variables, images = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), (variables, images))
        ours = evaluate(module.clone(dtype=jnp.float64), variables, images, modes=("train",))
        assert_same(ours, weights, stored, each=True)


def assert_like_pytorch(module, name):
    """With weights made by us, which go the other way."""
    from reference import make_convnets

    images = np.random.default_rng(7).normal(0, 2, size=(5, 30, 19, 2)).astype(np.float32)
    variables = random_variables(module.init, images, train=False, seed=3, scale=0.5)
    weights = convert_convnets.from_jax(variables)
    theirs = make_convnets.forward(make_convnets.make(name), weights, images)
    assert_same(evaluate(module, variables, images), weights, theirs, each=False)


def assert_mask_leaves_out(module, name):
    """Masked-out images change nothing: as if they were not there."""
    stored = load(name)
    variables, images = convert_convnets.to_jax(under(stored, "weight/")), stored["images"].copy()
    mask = np.array([True, False, True])
    images[1] = 1e3
    run = jax.jit(lambda x, mask: module.apply(variables, x, train=True, mask=mask, mutable=["batch_stats"]))
    (_, found), new = run(images, mask)
    (_, alone), expected = run(images[mask], None)
    same = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)  # noqa: E731
    jax.tree.map(lambda a, b: same(a[mask], b), found, alone)
    jax.tree.map(same, new, expected)


def assert_runs_in_bfloat16(module, name):
    """Activations in bfloat16; parameters, statistics, gradients and the embedding stay float32."""
    stored = load(name)
    variables = convert_convnets.to_jax(under(stored, "weight/"))
    ours = evaluate(module.clone(dtype=jnp.bfloat16), variables, stored["images"], modes=("train",))
    found, gradient, statistics = ours["train"]
    assert found.pop("embedding").dtype == jnp.float32
    assert all(value.dtype == jnp.bfloat16 for value in found.values())
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves((gradient, statistics)))
    expected = stored["train/out/features"]
    assert 0 < np.abs(np.float32(found["features"]) - expected).max() < 0.1 * np.abs(expected).max()


def number_of_parameters(module, channels):
    init = lambda key: module.init(key, jnp.zeros((1, 32, 32, channels)), train=False)  # noqa: E731
    return sum(x.size for x in jax.tree.leaves(jax.eval_shape(init, jax.random.key(0))["params"]))
