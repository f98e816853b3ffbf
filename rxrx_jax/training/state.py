"""The state of a run: a plain dataclass pytree."""

import dataclasses
import hashlib
from typing import Any

import jax

from rxrx_jax.base.sharding import named_leaves, whole


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class TrainState:
    """step: int32 scalar, the number of finished updates; the rest are pytrees of arrays. `ema` is the moving average
    of the parameters, or an empty dict where the config asks for none."""

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    ema: Any


def parameters_sha256(params) -> str:
    """SHA-256 over every parameter's path, dtype, shape and bytes, in path order: equal only for identical bits. All
    hosts must call it: parameters that are spread over hosts are gathered, one at a time."""
    leaves = sorted(named_leaves(params).items())
    digest = hashlib.sha256()
    for name, leaf in leaves:
        array = whole(leaf)
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
