"""What rxrx_jax makes of the stored inputs of make_mae.py, and its comparison with what PyTorch made of them."""

import functools
import json
import pathlib

import jax
import numpy as np
from reference import mae_cases

from rxrx_jax.models.losses import masked_fourier_loss, masked_pixel_loss, normalise_patches
from rxrx_jax.models.vit import Encoder


def stored(case: str) -> dict:
    """The inputs and results, with weight/NAME and gradient/NAME apart."""
    with np.load(pathlib.Path(__file__).parent / "stored" / f"mae_{case}.npz") as arrays:
        found = dict(arrays)
    shapes = json.loads(str(found.pop("shapes")))
    for kind in ("weight", "gradient"):
        flat, at = found.pop(kind), 0
        for name, shape in shapes.items():
            found[f"{kind}/{name}"] = flat[at : at + np.prod(shape, dtype=int)].reshape(shape)
            at += found[f"{kind}/{name}"].size
    return found


def under(arrays, prefix):
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}


def parameters(case: str, arrays: dict) -> dict:
    weights = {name: value.astype(np.float32) for name, value in under(arrays, "weight/").items()}
    return mae_cases.to_jax(weights, case)


def evaluate(case: str, arrays: dict) -> dict:
    """What `make_mae.forward` computes, under the same names; gradients as a tree."""
    return evaluator(case)(parameters(case, arrays), arrays["images"], arrays["noise"])


@functools.cache
def evaluator(case: str):
    module = mae_cases.module(case)
    encoder = Encoder(module.size, module.patch, module.style)

    @jax.jit
    def run(params, images, noise):
        target = module.patches(images)

        def losses(params):
            prediction, found = module.apply({"params": params}, images, noise)
            mask = found["mask"]
            each = {
                "loss/pixel": masked_pixel_loss(prediction, target, mask),
                "loss/pixel_normalised": masked_pixel_loss(prediction, normalise_patches(target), mask),
                "loss/fourier": masked_fourier_loss(prediction, target, mask, module.patch),
            }
            visible = found["embedding"]
            return sum(each.values()).mean(), each | dict(prediction=prediction, mask=mask, visible_embedding=visible)

        gradient, found = jax.grad(losses, has_aux=True)(params)
        tokens, whole = encoder.apply({"params": params["encoder"]}, images)
        return found | whole | dict(tokens=tokens, gradient=gradient)

    return run


def assert_same(case: str, ours: dict, theirs: dict):
    """Within 1e-5, gradients of the largest of their array; within 1e-6 where that is 0, as of the keys' bias, which
    softmax does not see."""
    names = [
        name for name in theirs if not name.startswith(("weight/", "gradient/")) and name not in ("images", "noise")
    ]
    assert len(names) == 10
    for name in names:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-5, atol=1e-5, err_msg=name)
    expected = mae_cases.to_jax(under(theirs, "gradient/"), case)
    assert jax.tree.structure(ours["gradient"]) == jax.tree.structure(expected)
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(ours["gradient"]), jax.tree.leaves(expected)):
        name = jax.tree_util.keystr(path)
        largest = np.abs(b).max()
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * largest if largest > 1e-12 else 1e-6, err_msg=name)
