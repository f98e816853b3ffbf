"""Devices: one mesh, rules from parameter path to sharding, one constraint. Only this module knows of them."""

import re

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from rxrx_jax.errors import UserError

MINIBATCH = ("data", "fsdp")  # the minibatch is split over both axes; parameters over the second one only


def make_mesh(fsdp: int = 1, tensor: int = 1) -> Mesh:
    """All devices as a (data, fsdp, tensor) mesh. Raises UserError if fsdp*tensor does not divide their number."""
    devices = jax.device_count()
    if fsdp < 1 or tensor < 1 or devices % (fsdp * tensor):
        raise UserError(f"mesh.fsdp={fsdp} times mesh.tensor={tensor} does not divide the {devices} devices")
    # Auto axes: Explicit, the default of make_mesh, refuses Linen convolutions over sharded parameters.
    shape = (devices // (fsdp * tensor), fsdp, tensor)
    return jax.make_mesh(shape, ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)


def check_minibatch(mesh: Mesh, size: int, key: str) -> None:
    """Raises UserError naming `key` when `size` images do not divide over the devices that share a minibatch."""
    ways = mesh.shape["data"] * mesh.shape["fsdp"]
    if size < 1 or size % ways:
        raise UserError(f"{key}={size} does not divide over {ways} devices; use a multiple of {ways}")


def constrain_tokens(x: jax.Array) -> jax.Array:
    """Keeps [B, ...] activations split over the minibatch axes; without it FSDP on a pod gathers them everywhere."""
    mesh = jax.sharding.get_abstract_mesh()
    if not mesh.axis_names:
        return x  # outside `jax.set_mesh`, in a notebook or a unit test
    return jax.lax.with_sharding_constraint(x, P(MINIBATCH))


# First match wins; a path that nothing matches is an error, so that no new layer is sharded by accident.
# Specs are of the last dimensions: scanned blocks have one more in front.
RULES = (
    (r"(qkv|mlp1)/kernel$", ("fsdp", "tensor")),
    (r"(out|mlp2)/kernel$", ("tensor", "fsdp")),
    (r"(qkv|mlp1)/bias$", ("tensor",)),
    (r"kernel$", (None, "fsdp")),
    (r"(bias|scale|mask_token|mean|var)$", ()),
)


def path_name(path) -> str:
    """`params/encoder/embed/kernel` from a jax key path."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def parameter_spec(name: str, shape: tuple[int, ...], mesh: Mesh) -> P:
    """The first matching rule's spec for one array; an axis that does not divide its dimension is left whole."""
    matches = [spec for pattern, spec in RULES if re.search(pattern, name)]
    if not matches:
        raise UserError(f"no sharding rule matches parameter {name}; add one to RULES in sharding.py")
    spec = (None,) * (len(shape) - len(matches[0])) + matches[0]
    fits = lambda axis, n: axis and mesh.shape[axis] > 1 and n % mesh.shape[axis] == 0  # noqa: E731
    return P(*(axis if fits(axis, n) else None for axis, n in zip(spec, shape)))


def state_shardings(state, mesh: Mesh):
    """A NamedSharding for every array of a train state (arrays or ShapeDtypeStructs): optimiser moments follow
    their parameter's rule because their path ends in the same names; scalars are replicated."""

    def one(path, x):
        return NamedSharding(mesh, parameter_spec(path_name(path), x.shape, mesh) if x.ndim else P())

    return jax.tree_util.tree_map_with_path(one, state)


def minibatch_sharding(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, P(MINIBATCH))


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, P())


def to_device(minibatch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """This host's part of a global minibatch -> global arrays split over the mesh along their first dimension."""
    sharding = minibatch_sharding(mesh)
    return {k: jax.make_array_from_process_local_data(sharding, v) for k, v in minibatch.items()}
