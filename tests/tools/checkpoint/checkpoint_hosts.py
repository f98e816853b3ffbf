"""One of two hosts of two devices that save and restore together, for test_checkpoint_hosts.py:

python tests/tools/checkpoint/checkpoint_hosts.py ADDRESS INDEX FOLDER
"""

import pathlib
import sys

import jax
import numpy as np
from jax.sharding import PartitionSpec as P

from rxrx_jax.training.checkpoint import manifest

STEPS = (1, 2, 3, 4, 5)


def make_state(step, mesh):
    """Arrays that are whole on all devices, split over both hosts, and whole on every host; the same for any mesh."""
    from rxrx_jax.training.state import TrainState

    random = np.random.default_rng(step)
    place = lambda value, *spec: jax.device_put(value, jax.sharding.NamedSharding(mesh, P(*spec)))  # noqa: E731
    values = lambda *shape: random.normal(size=shape).astype(np.float32)  # noqa: E731
    params = {
        "encoder": {
            "whole": place(values(3, 5)),
            "split": place(values(3, 8), None, ("data", "fsdp")),
            "rows": place(values(4, 3, 2), "fsdp"),
            "across": place(values(2, 2, 2), "data"),
        }
    }
    return TrainState(place(np.int32(step)), params, {"batch_stats": {}, "carry": {}, "averages": {}}, {})


def main(address: str, index: str, folder: str) -> None:
    jax.config.update("jax_num_cpu_devices", 2)
    jax.distributed.initialize(address, 2, int(index))
    from rxrx_jax.base.errors import UserError
    from rxrx_jax.base.sharding import make_mesh, whole
    from rxrx_jax.training.checkpoint import Checkpoints, load_parameters
    from rxrx_jax.training.checkpoint.digests import digests

    def say(*what):
        print(*what, flush=True)

    checkpoints, mesh = pathlib.Path(folder) / "checkpoints", make_mesh(fsdp=2)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), make_state(0, mesh))
    with Checkpoints(checkpoints, len(STEPS)) as open_checkpoints:
        assert open_checkpoints.restore(shapes) is None
        for step in STEPS:
            open_checkpoints.save(make_state(step, mesh), {"train_seconds": float(step)})
    say("digests", digests(make_state(1, mesh).params))

    def restore():
        with Checkpoints(checkpoints, len(STEPS)) as open_checkpoints:
            state, clock = open_checkpoints.restore(shapes)
        expected = make_state(int(clock["train_seconds"]), mesh)
        same = jax.tree.map(lambda a, b: whole(a).tobytes() == whole(b).tobytes(), state, expected)
        say("restored", int(state.step), all(jax.tree.leaves(same)))

    restore()
    if index == "0":
        damage(checkpoints / "5" / "state" / "manifest.ocdbt")
    jax.experimental.multihost_utils.sync_global_devices("damaged")
    restore()  # 4: both find it

    original = manifest._load

    def unreadable_here(where, like):
        if where.name == "4":
            raise manifest.Damaged("cannot be read")
        return original(where, like)

    def wrong_here(where, like):
        found = original(where, like)
        if where.name == "3" and manifest.STATE in found:
            encoder = found[manifest.STATE]["params"]["encoder"]
            encoder["whole"] = other_bit(encoder["whole"])
        return found

    if index == "1":
        manifest._load = unreadable_here
    restore()  # 3: only the second host finds that 4 is
    if index == "1":
        manifest._load = wrong_here
    restore()  # 2: only the second host has other values
    try:
        if index == "1":
            manifest._load = lambda where, like: unreadable_here(where.with_name("4"), like)
        load_parameters(folder, "encoder", shapes.params["encoder"])
    except UserError as error:
        say("error", error)


def damage(path: pathlib.Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def other_bit(x: jax.Array) -> jax.Array:
    """x with one bit changed in the copy of this host's last device."""
    copies = [np.array(shard.data) for shard in x.addressable_shards]
    copies[-1].view(np.uint32)[0, 0] ^= 1
    devices = [shard.device for shard in x.addressable_shards]
    return jax.make_array_from_single_device_arrays(x.shape, x.sharding, list(map(jax.device_put, copies, devices)))


if __name__ == "__main__":
    main(*sys.argv[1:])
