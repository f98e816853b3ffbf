"""The densely connected network: numbers against PyTorch (reference/peers/torch_convnets.py), size and memory."""

import convnet_tools
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rxrx_jax.models.densenet import DenseNet

MODULE = DenseNet(depths=(2, 3), growth=3, width=5)  # as in reference/make_convnets.py


def test_same_numbers_as_the_stored_ones_of_pytorch():
    convnet_tools.assert_like_stored(MODULE, "densenet")


def test_same_numbers_as_pytorch_with_our_weights():
    pytest.importorskip("torch", reason="PyTorch is not installed; the stored values are compared in any case")
    convnet_tools.assert_like_pytorch(MODULE, "densenet")


def test_masked_images_do_not_exist_for_batch_normalisation():
    convnet_tools.assert_mask_leaves_out(MODULE, "densenet")


def test_bfloat16_is_for_activations_only():
    convnet_tools.assert_runs_in_bfloat16(MODULE, "densenet")


def test_densenet161_has_the_parameters_of_torchvision_without_its_classifier():
    published = 28_681_000 - 1000 * (2208 + 1)
    assert convnet_tools.number_of_parameters(DenseNet(), channels=3) == published
    assert convnet_tools.number_of_parameters(DenseNet(), channels=6) == published + 7 * 7 * 3 * 96


def test_densenet161_strides_by_32_and_names_its_stages():
    images = jax.ShapeDtypeStruct((2, 256, 256, 6), jnp.float32)
    (x, found), _ = jax.eval_shape(
        lambda key, x: DenseNet().init_with_output(key, x, train=False), jax.random.key(0), images
    )
    assert x.shape == (2, 8, 8, 2208)
    shapes = {name: value.shape[1:] for name, value in found.items()}
    assert shapes == {
        "stem": (64, 64, 96),
        "stage1": (64, 64, 384),
        "stage2": (32, 32, 768),
        "stage3": (16, 16, 2112),
        "stage4": (8, 8, 2208),
        "embedding": (2208,),
    }


def test_kernels_start_as_in_torchvision():
    module = DenseNet(depths=(1, 1), growth=32)
    init = jax.jit(module.init, static_argnames="train")
    params = init(jax.random.key(0), jnp.zeros((1, 16, 16, 6)), train=False)["params"]
    kernels = {name: params[name]["kernel"] for name in ("stem_conv", "stage1_layer1_conv", "transition1_conv")}
    kernels["squeeze"] = params["stage1_layer1_squeeze"]["conv"]["kernel"]
    for name, kernel in kernels.items():
        assert kernel.std() == pytest.approx(np.sqrt(2 / np.prod(kernel.shape[:3])), rel=0.03), name
        assert np.abs(kernel).max() > 3 * kernel.std()  # normal, not truncated at two deviations


def test_what_the_backward_pass_keeps_grows_with_the_layers_and_not_with_their_square():
    def kept(layers):
        module, images = DenseNet(depths=(layers,), growth=4, width=8), jnp.zeros((4, 32, 32, 2))
        variables = jax.eval_shape(lambda key: module.init(key, images, train=False), jax.random.key(0))

        def residuals(params, stats):
            def embed(params):
                state = {"params": params, "batch_stats": stats}
                (_, found), _ = module.apply(state, images, train=True, mutable=["batch_stats"])
                return found["embedding"]

            return jax.vjp(embed, params)[1]

        return sum(x.size for x in jax.tree.leaves(jax.eval_shape(residuals, *map(variables.get, STATE))))

    assert kept(32) < 2.1 * kept(16)  # 3.0 with every concatenation kept


STATE = ("params", "batch_stats")
