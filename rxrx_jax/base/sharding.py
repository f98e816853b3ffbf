"""Devices: one mesh, rules from parameter path to sharding, one constraint. Only this module knows about them."""

import contextlib
import hashlib
import math
import os
import re

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import mesh_utils, multihost_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P

from rxrx_jax.base.errors import UserError

MINIBATCH = ("data", "fsdp")  # the minibatch is split over both axes; parameters over the second one only


def make_mesh(fsdp: int = 1, tensor: int = 1, devices=None) -> Mesh:
    """All devices, or those given, as a (data, fsdp, tensor) mesh. Of several TPU slices each is a part of the data
    axis, so that between them, where the network is slow, gradients alone are sent. Raises UserError if fsdp*tensor
    does not divide the number of devices, or of a slice's."""
    devices = jax.devices() if devices is None else devices
    slices = by_slice(devices)
    count = len(slices[0])
    if fsdp < 1 or tensor < 1 or count % (fsdp * tensor):
        of = f" of each of the {len(slices)} slices" * (len(slices) > 1)
        raise UserError(f"mesh.fsdp={fsdp} times mesh.tensor={tensor} does not divide the {count} devices{of}")
    shape = (count // (fsdp * tensor), fsdp, tensor)
    # As mesh_utils.create_hybrid_device_mesh does, which knows of no emulated slices.
    array = np.concatenate([mesh_utils.create_device_mesh(shape, part) for part in slices])
    # Auto axes: Explicit, the default of jax.make_mesh, refuses Linen convolutions over sharded parameters.
    return Mesh(array, ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)


def make_local_mesh() -> Mesh:
    """This host's devices alone, as `make_mesh` arranges them, for what each host does by itself."""
    return make_mesh(devices=jax.local_devices())


def by_slice(devices) -> list[list]:
    """The devices of each TPU slice, in order; of other devices, which all reach each other alike, one list.
    MEGASCALE_NUM_SLICES, which says on TPUs how many slices a run has, parts emulated hosts too. Raises UserError where
    the slices are not of one size."""
    emulated = int(os.environ.get("MEGASCALE_NUM_SLICES") or 1)
    parts: dict[int, list] = {}
    for device in devices:
        index = 0
        if device.platform == "tpu":
            index = getattr(device, "slice_index", 0)
        elif device.platform == "cpu":
            index = device.process_index * emulated // jax.process_count()
        parts.setdefault(index, []).append(device)
    found = [parts[index] for index in sorted(parts)]
    if len({len(part) for part in found}) > 1:
        raise UserError(f"slices of {', '.join(str(len(part)) for part in found)} devices: a run's are of one size")
    return found


def platform() -> str:
    """The platform that the traced computation is for: cpu, gpu or tpu. It is the current mesh's, which need not be
    that of this machine (rxrx_jax.aot), else of the default device."""
    device = getattr(jax.sharding.get_abstract_mesh(), "abstract_device", None)
    return device.platform if device else jax.default_backend()


def minibatch_devices(mesh: Mesh) -> int:
    """The number of devices that share a minibatch."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def check_minibatch(mesh: Mesh, size: int, key: str, parts: int = 1, unit: int = 1) -> None:
    """Raises UserError naming `key` when `size` images do not divide over the devices that share a minibatch, in
    `parts` of gradient accumulation and whole units of images that belong together."""
    devices = minibatch_devices(mesh)
    ways = devices * max(parts, 1) * unit
    if parts < 1:
        raise UserError(f"accumulate={parts}: expected the number of parts of a minibatch, 1 or more")
    if size < 1 or size % ways:
        how = f" in {parts} parts (accumulate)" * (parts > 1) + f" in units of {unit}" * (unit > 1)
        raise UserError(f"{key}={size} does not divide over {devices} devices{how}; use a multiple of {ways}")


def split_parts(x: jax.Array, count: int, unit: int) -> jax.Array:
    """[B, ...] -> [count, B/count, ...] for gradient accumulation: part j holds units (`unit` neighbours) j, j+count,
    j+2*count, ..., so that every part is spread over all devices and no image moves."""
    rest = x.shape[1:]
    x = jnp.moveaxis(x.reshape(-1, count, unit, *rest), 1, 0).reshape(count, -1, *rest)
    mesh = jax.sharding.get_abstract_mesh()
    return jax.lax.with_sharding_constraint(x, P(None, MINIBATCH)) if mesh.axis_names else x


def over_heads(function, *arrays: jax.Array) -> jax.Array:
    """function(*arrays), each [B, N, heads, hd] as the result is, on every device's images and heads by itself: for
    kernels that the partitioner cannot look into. An axis that does not divide its dimension is not used."""
    mesh = jax.sharding.get_abstract_mesh()
    if not mesh.axis_names:
        return function(*arrays)
    batch, _, heads, _ = arrays[0].shape
    images = MINIBATCH if batch % minibatch_devices(mesh) == 0 else None
    spec = P(images, None, "tensor" if heads % mesh.shape["tensor"] == 0 else None)
    return jax.shard_map(function, in_specs=(spec,) * len(arrays), out_specs=spec, check_vma=False)(*arrays)


def constrain_tokens(x: jax.Array) -> jax.Array:
    """Keeps [B, ...] activations split over the minibatch axes; without it FSDP on a pod gathers them everywhere."""
    mesh = jax.sharding.get_abstract_mesh()
    if not {*MINIBATCH} <= {*mesh.axis_names}:
        return x  # outside `jax.set_mesh`, in a notebook or a unit test, or on one device
    return jax.lax.with_sharding_constraint(x, P(MINIBATCH))


# First match wins; a path that nothing matches is an error, so that no new layer is sharded by accident.
# Specs are of the last dimensions: scanned blocks have one more in front.
RULES = (
    (r"(qkv|cross_q|cross_kv|mlp1)/kernel$", ("fsdp", "tensor")),
    (r"(out|mlp2)/kernel$", ("tensor", "fsdp")),  # cross_out too
    (r"(qkv|mlp1)/bias$", ("tensor",)),
    (r"kernel$", (None, "fsdp")),
    (r"(bias|scale|tokens?|positions)$", ()),
)


def path_name(path) -> str:
    """`params/encoder/embed/kernel` from a jax key path."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def named_leaves(tree) -> dict:
    """`path_name` -> leaf, in the tree's order."""
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def parameter_spec(name: str, shape: tuple[int, ...], mesh: Mesh | AbstractMesh) -> P:
    """The first matching rule's spec for one array of a train state; an axis that does not divide its dimension is left
    whole. Collections are replicated, but for averages of parameters, which follow these."""
    if name.startswith("collections/") and not name.startswith("collections/averages/params/"):
        return P()
    matches = [spec for pattern, spec in RULES if re.search(pattern, name)]
    if not matches:
        raise UserError(f"no sharding rule matches parameter {name}; add one to RULES in sharding.py")
    spec = (None,) * (len(shape) - len(matches[0])) + matches[0]
    fits = lambda axis, n: axis and mesh.shape[axis] > 1 and n % mesh.shape[axis] == 0  # noqa: E731
    return P(*(axis if fits(axis, n) else None for axis, n in zip(spec, shape)))


def state_shardings(state, mesh: Mesh | AbstractMesh):
    """A NamedSharding for every array of a train state (arrays or ShapeDtypeStructs): optimiser moments follow
    their parameter's rule because their path ends in the same names; scalars are replicated."""

    def one(path, x):
        return NamedSharding(mesh, parameter_spec(path_name(path), x.shape, mesh) if x.ndim else P())

    return jax.tree_util.tree_map_with_path(one, state)


def bytes_per_device(state, fsdp: int, tensor: int) -> int:
    """What a train state (arrays or ShapeDtypeStructs) takes on one device of a mesh, which need not exist here."""
    mesh = AbstractMesh((1, fsdp, tensor), ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)
    parts = jax.tree.map(lambda x, s: math.prod(s.shard_shape(x.shape)) * x.dtype.itemsize, state,
                         state_shardings(state, mesh))  # fmt: skip
    return sum(jax.tree.leaves(parts))


def minibatch_sharding(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, P(MINIBATCH))


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, P())


def to_device(minibatch, mesh: Mesh):
    """This host's part of a global minibatch, a tree of arrays -> global arrays split over the mesh along their first
    dimension."""
    sharding = minibatch_sharding(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), minibatch)


def one_device() -> SingleDeviceSharding:
    """The first device of this machine, for arrays that are read and written rather than trained."""
    return SingleDeviceSharding(jax.local_devices()[0])


@contextlib.contextmanager
def on_one_device():
    """Within it arrays are made and functions run on the first device of this machine, whatever mesh is in force around
    it: for what each host computes by itself and needs once. Arrays must not leave it. It decorates functions too."""
    mesh = Mesh(np.array(jax.local_devices()[:1]), ("alone",), axis_types=(AxisType.Auto,))
    with jax.set_mesh(mesh):
        yield


def place_like(value: np.ndarray, like) -> jax.Array:
    """`value` with the dtype of `like` (an array or ShapeDtypeStruct) and its sharding, if it has one."""
    return jax.device_put(np.asarray(value, like.dtype), getattr(like, "sharding", None))


def to_every_device(tree, mesh: Mesh):
    """Arrays that every host has, whole on every device."""
    return jax.device_put(tree, replicated(mesh))


def whole(x) -> np.ndarray:
    """An array on this host, whatever hosts its parts lie on; all hosts must call it."""
    if isinstance(x, jax.Array) and not x.is_fully_addressable:
        return np.asarray(multihost_utils.process_allgather(x, tiled=True))
    return np.asarray(x)


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
