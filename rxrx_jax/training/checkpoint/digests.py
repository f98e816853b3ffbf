"""Digests of arrays: 64 bits each, independent of how an array is sharded over devices and hosts.

An array is taken as rows [R, N] of words, the bits of its elements; its digest is the sum of word[r, n] * a[r] * b[n]
modulo 2^64, where a and b are fixed pseudo-random odd numbers. A change of a single element always changes it, any
other change except once in 2^32 or less often. The digests of parts add up, so each host sums what it holds. They are
summed on the hosts, since XLA compiles again for every shape, which takes longer than the sum in numpy.
"""

import concurrent.futures
import math

import jax
import numpy as np
from jax.experimental import multihost_utils

from rxrx_jax.base.sharding import named_leaves

BITS = (1 << 64) - 1


def digests(tree) -> dict[str, int]:
    """name -> digest of every jax array in a tree. All hosts must call it."""
    return {name: total for name, (total, _) in _totals(tree, replicas=False).items()}


def differing(tree, expected: dict[str, int]) -> list[str]:
    """The names of the arrays in a tree of which any copy on any device has not the `expected` digest. All hosts must
    call it."""
    totals = _totals(tree, replicas=True)
    return [name for name, (total, copies) in totals.items() if total != copies * expected[name] & BITS]


def _totals(tree, replicas: bool) -> dict[str, tuple[int, int]]:
    """name -> the sum of the digests of an array's copies, and their number: all `replicas`, or one."""
    arrays = named_leaves(tree)
    with concurrent.futures.ThreadPoolExecutor() as threads:
        sums = dict(zip(arrays, threads.map(lambda x: _local(x, replicas), arrays.values())))
    if spread := [name for name, x in arrays.items() if not x.is_fully_addressable]:
        words = np.array([sums[name] for name in spread], np.uint64).view(np.uint32)  # jax has no uint64
        everyone = multihost_utils.process_allgather(words).reshape(-1, len(words)).view(np.uint64)
        sums |= zip(spread, everyone.sum(axis=0, dtype=np.uint64).tolist())
    return {name: (sums[name], _copies(x) if replicas else 1) for name, x in arrays.items()}


def _copies(x: jax.Array) -> int:
    """The number of devices that hold each element."""
    part = math.prod(x.sharding.shard_shape(x.shape))
    return len(x.sharding.device_set) * part // x.size if x.size else 1


def _local(x: jax.Array, replicas: bool) -> int:
    """The sum of the digests of the parts that this host holds: of all copies, or of the first of each."""
    shards = [shard for shard in x.addressable_shards if replicas or shard.replica_id == 0]
    starts = [tuple(s.start or 0 for s in shard.index) for shard in shards]
    return sum(_part(np.asarray(shard.data), start, x.shape) for shard, start in zip(shards, starts)) & BITS


def _part(part: np.ndarray, start: tuple[int, ...], shape: tuple[int, ...]) -> int:
    """The digest of a part that begins at `start` in an array of `shape`."""
    if not shape:
        return _part(part[None], (0,), (1,))
    words = part.view(f"u{part.dtype.itemsize}").reshape(-1, part.shape[-1])
    row = np.zeros(part.shape[:-1], np.uint64)  # its number in the whole array
    for axis, (first, size, whole) in enumerate(zip(start, part.shape[:-1], shape)):
        there = np.arange(first, first + size, dtype=np.uint64)
        row = row * np.uint64(whole) + there.reshape(-1, *[1] * (row.ndim - axis - 1))
    column = np.arange(start[-1], start[-1] + part.shape[-1], dtype=np.uint64)
    by_row = np.einsum("rn,n->r", words, _odd(column))  # without a copy of `words` as uint64
    return int(_odd(~row.ravel()) @ by_row)


def _odd(n: np.ndarray) -> np.ndarray:
    """An odd number for each of n (uint64), by SplitMix64 (Steele et al. 2014, doi 10.1145/2660193.2660195)."""
    n = (n + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    n = (n ^ (n >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    n = (n ^ (n >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (n ^ (n >> np.uint64(31))) | np.uint64(1)
