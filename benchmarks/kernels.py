"""Ratios behind choices in the train step, and where its processor time goes: `python benchmarks/kernels.py` prints one
JSON object. With PyTorch (`pip install torch==2.13.0`) the parts of a ViT's block are timed there, too; --parts times
nothing else.

flat_weight_gradient: time of the gradient of nn.Dense on [B, N, D] tokens over the same with `vit.product`.
attention: time of the gradient of jax.nn.dot_product_attention over that of `attention.attention`, 256 tokens.
gelu: time of the gradient of jax.nn.gelu(approximate=False) over that of `vit.gelu`.
split: time of the gradient of three slices of queries, keys and values over that of `attention.split`.
uniform_jitter: time of normal over uniform intensity jitter fused into an image's normalisation.
milliseconds: of each part of a block, forward and backward, [ours, PyTorch's]: of S and 256 tokens, and the optimiser's
    update of all matrices of 12 such blocks.
Minimum over repeats, alternating, in one process; on a CPU processor time, in which other programs do not count.
"""

import argparse
import functools
import importlib.util
import json
import time

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from rxrx_jax.base import sharding
from rxrx_jax.models.attention import attention, split
from rxrx_jax.models.vit import SIZES, Block, Dense, gelu, product

TOKENS, DEPTH, RATE = 256, 12, 1e-4


def least(*functions, repeats: int) -> list[float]:
    """Seconds of each function, which waits for its end."""
    clock = time.process_time if jax.default_backend() == "cpu" else time.perf_counter
    best = [float("inf")] * len(functions)
    for repeat in range(repeats + 1):
        for i, function in enumerate(functions):
            begin = clock()
            function()
            if repeat:  # the first compiles
                best[i] = min(best[i], clock() - begin)
    return best


def waiting(function, *arguments):
    return lambda: jax.block_until_ready(function(*arguments))


def ratio(slow, fast, *arguments, repeats=30):
    first, second = least(*(waiting(jax.jit(f), *arguments) for f in (slow, fast)), repeats=repeats)
    return first / second


def weight_gradient(dense):
    def run(kernel, x, y):
        return jax.grad(lambda k: (dense.apply({"params": {"kernel": k}}, x) * y).sum())(kernel)

    return run


def gradients(attend):
    return jax.grad(lambda q, k, v, w: (attend(q, k, v) * w).sum(), argnums=(0, 1, 2))


def gradient(function):
    """Of one array, weighted by a second."""
    return jax.grad(lambda x, w: (function(x) * w).sum())


def jitter(draw):
    def run(images, key):
        noise = draw(key, (images.shape[0], 2, 1, 1, images.shape[-1]))
        x = images.astype(jnp.float32) / 255
        return x * (1 + noise[:, 0]) + noise[:, 1]

    return run


def ratios() -> dict:
    key = jax.random.key(0)
    x, y = jax.random.normal(key, (64, 64, 96)), jax.random.normal(key, (64, 64, 384))
    kernel = jax.random.normal(key, (96, 384))
    plain = nn.Dense(384, use_bias=False)
    flat = Dense(384, use_bias=False)
    q, k, v, w = jax.random.normal(key, (4, 8, 256, 6, 64))
    qkv = jnp.stack([q, k, v], 3)
    images = jax.random.randint(key, (64, 64, 64, 6), 0, 255).astype(jnp.uint8)
    sliced = lambda x: attention(*jnp.moveaxis(x, 3, 0))  # noqa: E731
    return {
        "flat_weight_gradient": ratio(weight_gradient(plain), weight_gradient(flat), kernel, x, y),
        "attention": ratio(gradients(jax.nn.dot_product_attention), gradients(attention), q, k, v, w),
        "gelu": ratio(gradient(functools.partial(nn.gelu, approximate=False)), gradient(gelu), y, y),
        "split": ratio(gradient(sliced), gradient(lambda x: attention(*split(x))), qkv, w),
        "uniform_jitter": ratio(jitter(jax.random.normal), jitter(jax.random.uniform), images, key),
    }


def parts(minibatch: int, repeats: int) -> dict[str, list[float]]:
    """{part: [our milliseconds, PyTorch's, where it is installed]}, forward and backward."""
    size, random = SIZES["S"], np.random.default_rng(0)
    draw = lambda *shape: random.normal(size=shape).astype(np.float32)  # noqa: E731
    x, hidden = draw(minibatch, TOKENS, size.width), draw(minibatch, TOKENS, size.mlp)
    shapes = {"qkv": (size.width, 3 * size.width), "out": (size.width, size.width), "mlp1": (size.width, size.mlp)}
    kernels = {name: draw(*shape) for name, shape in (shapes | {"mlp2": (size.mlp, size.width)}).items()}
    heads = draw(3, minibatch, TOKENS, size.heads, size.width // size.heads)
    mine, others = ours(size, x, hidden, kernels, heads), {}
    if importlib.util.find_spec("torch"):
        others = theirs(size, x, hidden, kernels, heads)
    found = {}
    for name, one in mine.items():
        seconds = least(one, *([others[name]] if others else []), repeats=repeats)
        found[name] = [round(1000 * value, 2) for value in seconds]
    return found


def ours(size, x, hidden, kernels, heads) -> dict:
    def both(function, *arguments):
        """Calls it, and its derivative with what it gives in place of a gradient."""

        @jax.jit
        def run(*arguments):
            y, back = jax.vjp(function, *arguments)
            return y, back(y)

        return waiting(run, *jax.device_put(arguments))

    norm = nn.LayerNorm(epsilon=1e-6)
    found = {name: both(product, hidden if name == "mlp2" else x, kernel) for name, kernel in kernels.items()}
    found |= {"attention": both(attention, *heads), "gelu": both(gelu, hidden)}
    found["norm"] = both(norm.apply, norm.init(jax.random.key(0), x), x)
    block = Block(size)
    with jax.set_mesh(sharding.make_mesh()):
        found["block"] = both(block.apply, block.init(jax.random.key(0), x), x)
    params = {name: jnp.stack([kernel] * DEPTH) for name, kernel in kernels.items()}
    optimiser = optax.adamw(RATE, weight_decay=0.05)
    gradient, state = jax.tree.map(jnp.ones_like, params), [params, optimiser.init(params)]

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def update(params, moments, gradient):
        updates, moments = optimiser.update(gradient, moments, params)
        return optax.apply_updates(params, updates), moments

    def step():
        state[:] = jax.block_until_ready(update(*state, gradient))

    return found | {"adamw": step}


def theirs(size, x, hidden, kernels, heads) -> dict:
    import os

    import torch
    import torch.nn.functional as F
    from common.torch_vit import Block

    torch.set_num_threads(len(os.sched_getaffinity(0)))

    def both(function, *arguments, module=()):
        given = [torch.tensor(value, requires_grad=True) for value in arguments]

        def run():
            y = function(*given)
            torch.autograd.grad(y, [*given, *module], y.detach())

        return run

    def attend(q, k, v):
        return F.scaled_dot_product_attention(*(part.transpose(1, 2) for part in (q, k, v))).transpose(1, 2)

    found = {name: both(F.linear, hidden if name == "mlp2" else x, kernel.T.copy()) for name, kernel in kernels.items()}
    found |= {"attention": both(attend, *heads), "gelu": both(F.gelu, hidden)}
    norm, block = torch.nn.LayerNorm(size.width, 1e-6), Block(size.width, size.heads, size.mlp)
    found |= {name: both(m, x, module=tuple(m.parameters())) for name, m in (("norm", norm), ("block", block))}
    params = [torch.nn.Parameter(torch.tensor(kernel)) for kernel in kernels.values() for _ in range(DEPTH)]
    for param in params:
        param.grad = torch.ones_like(param)
    return found | {"adamw": torch.optim.AdamW(params, RATE, weight_decay=0.05, fused=True).step}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", action="store_true", help="only milliseconds")
    parser.add_argument("--minibatch", type=int, default=8, help="of the parts")
    parser.add_argument("--repeats", type=int, default=8, help="of the parts")
    flags = parser.parse_args()
    found = {"device": jax.devices()[0].device_kind} | ({} if flags.parts else ratios())
    print(json.dumps(found | {"milliseconds": parts(flags.minibatch, flags.repeats)}))


if __name__ == "__main__":
    main()
