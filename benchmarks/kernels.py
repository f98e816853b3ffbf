"""Ratios behind three choices in the train step: `python benchmarks/kernels.py` prints one JSON object.

flat_weight_gradient: time of the gradient of nn.Dense on [B, N, D] tokens over the same with `vit.product`.
attention: time of the gradient of jax.nn.dot_product_attention over that of `attention.attention`, 256 tokens.
uniform_jitter: time of normal over uniform intensity jitter fused into an image's normalisation.
Minimum over repeats, alternating, in one process.
"""

import json
import time

import flax.linen as nn
import jax
import jax.numpy as jnp

from rxrx_jax.models.attention import attention
from rxrx_jax.models.vit import Dense


def ratio(slow, fast, *arguments, repeats=30):
    functions = [jax.jit(slow), jax.jit(fast)]
    best = [float("inf")] * 2
    for repeat in range(repeats + 1):
        for i, function in enumerate(functions):
            begin = time.perf_counter()
            jax.block_until_ready(function(*arguments))
            if repeat:  # the first compiles
                best[i] = min(best[i], time.perf_counter() - begin)
    return best[0] / best[1]


def weight_gradient(dense):
    def run(kernel, x, y):
        return jax.grad(lambda k: (dense.apply({"params": {"kernel": k}}, x) * y).sum())(kernel)

    return run


def gradients(attend):
    return jax.grad(lambda q, k, v, w: (attend(q, k, v) * w).sum(), argnums=(0, 1, 2))


def jitter(draw):
    def run(images, key):
        noise = draw(key, (images.shape[0], 2, 1, 1, images.shape[-1]))
        x = images.astype(jnp.float32) / 255
        return x * (1 + noise[:, 0]) + noise[:, 1]

    return run


def main():
    key = jax.random.key(0)
    x, y = jax.random.normal(key, (64, 64, 96)), jax.random.normal(key, (64, 64, 384))
    kernel = jax.random.normal(key, (96, 384))
    plain = nn.Dense(384, use_bias=False)
    flat = Dense(384, use_bias=False)
    q, k, v, w = jax.random.normal(key, (4, 8, 256, 6, 64))
    images = jax.random.randint(key, (64, 64, 64, 6), 0, 255).astype(jnp.uint8)
    found = {
        "device": jax.devices()[0].device_kind,
        "flat_weight_gradient": ratio(weight_gradient(plain), weight_gradient(flat), kernel, x, y),
        "attention": ratio(gradients(jax.nn.dot_product_attention), gradients(attention), q, k, v, w),
        "uniform_jitter": ratio(jitter(jax.random.normal), jitter(jax.random.uniform), images, key),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
