"""States of random bits, and checkpoints of them."""

import jax
import jax.numpy as jnp
import numpy as np

from rxrx_jax.base.config import Config
from rxrx_jax.base.sharding import make_mesh, state_shardings
from rxrx_jax.training import optim
from rxrx_jax.training.checkpoint import Checkpoints
from rxrx_jax.training.state import TrainState

CLOCK = {"train_seconds": 12.0625}


def make_state(step, seed=0):
    """Random bits, so subnormal numbers, infinities and NaNs too; some are frozen, some bfloat16."""
    random = np.random.default_rng(seed)
    bits = lambda *shape: random.integers(0, 2**32, shape, dtype=np.uint32).view(np.float32)  # noqa: E731
    params = {
        "encoder": {"embed": {"kernel": bits(4, 6), "bias": bits(6)}},
        "head": {"linear": {"kernel": bits(6, 3), "bias": bits(3)}},
        "mask_token": bits(1, 1, 4),
        "low": {"kernel": random.integers(0, 2**16, (5, 2), dtype=np.uint16).view(jnp.bfloat16)},
    }
    config = Config(dict(name="adamw", betas=(0.9, 0.95), weight_decay=0.1, clip_norm=1.0))
    opt_state = optim.make_optimiser(config, lambda step: 0.1, params, "encoder/").init(params)
    opt_state = jax.tree.map(lambda x: bits(*x.shape).astype(x.dtype) if x.dtype == jnp.float32 else x, opt_state)
    stats = {"encoder": {"norm": {"mean": bits(6), "var": bits(6)}}, "head": {}}
    collections = {"batch_stats": stats, "carry": {"q": bits(3)}, "averages": {}}
    return jax.tree.map(jnp.asarray, TrainState(jnp.int32(step), params, collections, opt_state))


def shapes_of(state):
    placement = state_shardings(state, make_mesh())
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), state, placement)


def save(folder, *steps, keep=1):
    with Checkpoints(folder / "checkpoints", keep) as checkpoints:
        for step in steps:
            checkpoints.save(make_state(step, seed=step), CLOCK)
    return str(folder)


def names(folder):
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def assert_same_bits(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(expected)):
        assert a.dtype == b.dtype and np.asarray(a).tobytes() == np.asarray(b).tobytes(), jax.tree_util.keystr(path)
