"""Will the train step of a config fit a TPU slice, and what will it send? Compiled here, ahead of time, without one:

    python -m rxrx_jax.aot --topology=v5e:16x16 --config=mae_vit.py:rxrx1,variant=L/16 --config.mesh.fsdp=16

It is the step that `rxrx_jax.main` runs, for the dataset's published shape; no image is read and nothing is run, so
that it says nothing of time. Needs `pip install -e '.[tpu]'`, except for `--topology=cpu:8`, this machine's processor
as 8 devices. The last line printed is one JSON object with everything in the table. The compiler's own FLOPs count
the body of a loop once: with the blocks scanned they are far below ours and serve to compare one config's variants.
"""

import functools
import importlib.metadata
import json
import os
import re
import sys
import time

import jax
from absl import flags

from rxrx_jax import command, data, sharding
from rxrx_jax.config import Config
from rxrx_jax.errors import UserError
from rxrx_jax.speed import hlo

# Memory of a chip in GiB, by jax's device_kind.
HBM = {"TPU v4": 32, "TPU v5 lite": 16, "TPU v5": 95, "TPU v6 lite": 32}
TOPOLOGY = flags.DEFINE_string("topology", None, "KIND:SHAPE of a TPU slice, v5e:4x4, v5p:4x4x4, v6e:16x16; or cpu:8.")


def main(arguments: list[str], values: dict) -> None:
    result = compile_step(values, devices(TOPOLOGY.value))
    result = {"topology": TOPOLOGY.value, "arguments": arguments} | result
    print("\n".join(table(result)))
    print(json.dumps(result))


def devices(topology: str | None) -> list:
    """The devices of a slice that need not exist. Call it before anything else asks jax for devices."""
    kind, _, shape = (topology or "").partition(":")
    if not re.fullmatch(r"\w+:\d+(x\d+)*", topology or ""):
        raise UserError(f"--topology={topology}: expected v5e:4x4, v5p:4x4x4, v6e:16x16, ... or cpu:8")
    jax.config.update("jax_platforms", "cpu")  # what little runs, runs here
    if kind == "cpu":
        jax.config.update("jax_num_cpu_devices", int(shape))
        return jax.devices()
    # Neither ask the cloud which machine this is, nor take the lock of a chip, nor say on stderr that both are missing.
    quiet = {"TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1", "TPU_WORKER_HOSTNAMES": "localhost"}
    os.environ |= quiet | {"TPU_ACCELERATOR_TYPE": "v5e-8"}  # of no consequence: --topology says what is meant
    from jax.experimental import topologies

    try:
        importlib.metadata.version("libtpu")
        return topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
    except importlib.metadata.PackageNotFoundError:
        raise UserError("libtpu, the TPU's compiler, is missing: pip install -e '.[tpu]'") from None
    except (jax.errors.JaxRuntimeError, NotImplementedError, ValueError) as e:
        raise UserError(f"--topology={topology}: {first_line(e)}") from None


def compile_step(values: dict, chips: list) -> dict:
    """What there is to know of a config's train step on these devices. Raises UserError where it does not fit."""
    from rxrx_jax.step import make_step, memory_per_chip, parameter_count
    from rxrx_jax.train import run_length

    config = Config(values)
    dataset = data.describe(config.data.name, config.data.builder.as_kwargs())
    mesh = sharding.make_mesh(config.mesh.fsdp, config.mesh.tensor, chips)
    labelled, examples = config.data.minibatch, dataset.train_images
    minibatch = labelled + config.data.unlabelled_minibatch
    with jax.set_mesh(mesh):
        total_steps = run_length(config, minibatch=labelled, examples=examples)
        step = make_step(config, dataset, mesh, minibatch, total_steps, examples)
        begin = time.perf_counter()
        try:
            compiled = step.compile()
        except jax.errors.JaxRuntimeError as e:
            if "RESOURCE_EXHAUSTED" not in str(e):
                raise
            sizes = re.findall(r"\d+\.\d+[KMG]", str(e))  # what it needs and what there is, in one of several sentences
            how = f"it needs {sizes[0]} of {sizes[1]}" if len(sizes) > 1 else first_line(e)
            raise UserError(f"the step does not fit the chip's memory: {how}") from None
        seconds = time.perf_counter() - begin
    memory, hbm = compiled.memory_analysis(), HBM.get(chips[0].device_kind)
    return {
        "device_kind": chips[0].device_kind,
        "chips": len(chips),
        "mesh": dict(mesh.shape),
        "minibatch": minibatch,
        "minibatch_per_chip": minibatch / sharding.minibatch_devices(mesh),
        "parameters": parameter_count(step.arguments[0].params),
        "argument_bytes": memory.argument_size_in_bytes,
        "temporary_bytes": memory.temp_size_in_bytes,
        "total_bytes": memory_per_chip(compiled),
        "hbm_bytes": hbm and hbm * 2**30,
        "fits": hbm and memory_per_chip(compiled) <= hbm * 2**30,
        "flops_per_image": step.flops_per_image,
        "compiler_flops_per_chip": compiled.cost_analysis()["flops"],
        "collectives": hlo.collectives(compiled.as_text()),
        "compile_seconds": round(seconds, 1),
        "jax": jax.__version__,
    }


def table(result: dict) -> list[str]:
    """One line for each figure."""
    gib = lambda name: f"{result[name] / 2**30:.2f} GiB"  # noqa: E731
    of = f" of {gib('hbm_bytes')}: {'fits' if result['fits'] else 'DOES NOT FIT'}" if result["hbm_bytes"] else ""
    per_chip = result["flops_per_image"] * result["minibatch"] / result["chips"]
    rows = {
        "devices": f"{result['chips']} x {result['device_kind']}, mesh {result['mesh']}",
        "minibatch": f"{result['minibatch']} images, {result['minibatch_per_chip']:g} a chip",
        "parameters": f"{result['parameters'] / 1e6:.2f} M",
        "arguments": f"{gib('argument_bytes')} a chip: parameters, optimiser, images",
        "temporaries": f"{gib('temporary_bytes')} a chip",
        "memory": f"{gib('total_bytes')} a chip{of}",
        "FLOPs": f"{result['flops_per_image'] / 1e9:.2f} G an image, {per_chip / 1e12:.3f} T a chip and step",
        "compiler's FLOPs": f"{result['compiler_flops_per_chip'] / 1e12:.3f} T a chip and step, loop bodies once",
    }
    for kind, found in result["collectives"].items():
        rows[kind] = f"{found['count']} a step, {found['bytes'] / 2**20:.1f} MiB"
    rows["compiled in"] = f"{result['compile_seconds']} s, not run"
    return [f"{name:18} {value}" for name, value in rows.items()]


def first_line(error: Exception) -> str:
    return str(error).splitlines()[0]


if __name__ == "__main__":
    command.run(functools.partial(main, sys.argv[1:]))
