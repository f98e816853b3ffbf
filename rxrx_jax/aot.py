"""Will the train step of a config fit a TPU slice or a GPU cluster, and what will it send? Compiled here, ahead of
time, without one:

    python -m rxrx_jax.aot --topology=v5e:16x16 --config=mae_vit.py:rxrx1,variant=L/16 --config.mesh.fsdp=16
    python -m rxrx_jax.aot --topology=2xv5e:16x16 --config=mae_vit.py:rxrx3,variant=S/16   # two slices
    python -m rxrx_jax.aot --topology=h200:8x8 --config=mae_vit.py:rxrx3,variant=L/8

It is the step that `rxrx_jax.main` runs, for the dataset's published shape; no image is read and nothing is run, so
that it says nothing about time. Needs `pip install -e '.[tpu]'`, or '.[gpu]' for `h200:HOSTSxGPUS`, and neither for
`--topology=cpu:8`, this machine's processor as 8 devices. The last line printed is one JSON object with everything in
the table. The compiler's own FLOPs, which GPUs' does not tell, count the body of a loop once: with the blocks scanned
they are far below ours and serve to compare one config's variants.
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

from rxrx_jax.base import command, config_flag, sharding
from rxrx_jax.base.config import Config
from rxrx_jax.base.errors import UserError
from rxrx_jax.data.source import make_source, minibatch_size
from rxrx_jax.training.speed import hlo

# Memory per chip in GiB, by jax's device_kind.
HBM = {"TPU v4": 32, "TPU v5 lite": 16, "TPU v5": 95, "TPU v6 lite": 32, "NVIDIA H200": 131}  # 131 GiB are 141 GB
KNOWN = "v5e:4x4, v5p:4x4x4, v6e:16x16, ..., 2xv5e:16x16 (slices), h200:8x8 (hosts, GPUs of each) or cpu:8"
TOPOLOGY = flags.DEFINE_string("topology", None, f"KIND:SHAPE of what to compile for: {KNOWN}.")

# An H200 as XLA describes GPUs (GpuTargetConfigProto): compute capability 9.0, NVIDIA's data sheet and tuning guide.
H200 = """
platform_name: "CUDA" device_description_str: "NVIDIA H200"
dnn_version_info { major: 9 minor: 8 } runtime_version { major: 13 }
gpu_device_info {
  cuda_compute_capability { major: 9 } clock_rate_ghz: 1.98
  core_count: 132 fpus_per_core: 128 threads_per_core_limit: 2048
  threads_per_block_limit: 1024 threads_per_warp: 32
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  shared_memory_per_block: 49152 shared_memory_per_block_optin: 232448 shared_memory_per_core: 233472
  l2_cache_size: 52428800 device_memory_size: 141000000000 memory_bandwidth: 4800000000000
}
"""
# Which of its own matrix products is fastest XLA tries out on the GPU: without one, cuBLAS's are taken.
COMPILER_OPTIONS = {"gpu": {"xla_gpu_enable_triton_gemm": False}}


def main(arguments: list[str], values: dict) -> None:
    result = compile_step(values, devices(TOPOLOGY.value))
    result = {"topology": TOPOLOGY.value, "arguments": arguments} | result
    print("\n".join(table(result)))
    print(json.dumps(result))


def devices(topology: str | None) -> list:
    """The devices of a slice or cluster, which need not exist. Call it before anything else asks jax for devices."""
    kind, _, shape = (topology or "").partition(":")
    slices, kind = re.fullmatch(r"(?:(\d+)x)?(.*)", kind).groups()
    sides = {"cpu": "", "h200": r"x\d+"}.get(kind, r"(x\d+)*")
    of_tpus = kind not in ("cpu", "h200")
    if not re.fullmatch(rf"\w+:\d+{sides}", f"{kind}:{shape}") or slices and not (of_tpus and int(slices)):
        raise UserError(f"--topology={topology}: expected {KNOWN}")
    jax.config.update("jax_platforms", "cpu")  # what little runs, runs here
    if kind == "cpu":
        jax.config.update("jax_num_cpu_devices", int(shape))
        return jax.devices()
    if kind == "h200":
        return _gpus(shape)
    # Neither ask the cloud which machine this is, nor take the lock of a chip, nor say on stderr that both are missing.
    quiet = {"TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1", "TPU_WORKER_HOSTNAMES": "localhost"}
    os.environ |= quiet | {"TPU_ACCELERATOR_TYPE": "v5e-8"}  # has no effect: --topology decides
    from jax.experimental import topologies

    try:
        importlib.metadata.version("libtpu")
        more = {"num_slices": int(slices)} if slices else {}
        return topologies.get_topology_desc(platform="tpu", topology_name=f"{kind}:{shape}", **more).devices
    except importlib.metadata.PackageNotFoundError:
        raise UserError("libtpu, the TPU's compiler, is missing: pip install -e '.[tpu]'") from None
    except (jax.errors.JaxRuntimeError, NotImplementedError, ValueError) as e:
        raise UserError(f"--topology={topology}: {first_line(e)}") from None


def _gpus(shape: str) -> list:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # no warning about a missing GPU on stderr
    from jax.experimental import topologies

    try:
        return topologies.get_topology_desc(platform="cuda", topology=f"1x{shape}", target_config=H200).devices
    except NotImplementedError:
        raise UserError("XLA's compiler for GPUs is missing: pip install -e '.[gpu]'") from None


def compile_step(values: dict, chips: list) -> dict:
    """The figures of a config's train step on these devices. Raises UserError where it does not fit."""
    from rxrx_jax.training.step import make_step, memory_per_chip, parameter_count
    from rxrx_jax.training.train import lengths_of, run_length

    config = Config(values | {"measure": "synthetic"})
    source = make_source(config, None)
    mesh = sharding.make_mesh(config.mesh.fsdp, config.mesh.tensor, chips)
    with jax.set_mesh(mesh):
        step = make_step(config, source, mesh, run_length(config, **lengths_of(source)))
        begin = time.perf_counter()
        try:
            compiled = step.update.lower(*step.arguments).compile(COMPILER_OPTIONS.get(chips[0].platform))
        except jax.errors.JaxRuntimeError as e:
            if "RESOURCE_EXHAUSTED" not in str(e):
                raise
            sizes = re.findall(r"\d+\.\d+[KMG]", str(e))  # what it needs and what there is, in one of several sentences
            how = f"it needs {sizes[0]} of {sizes[1]}" if len(sizes) > 1 else first_line(e)
            raise UserError(f"the step does not fit the chip's memory: {how}") from None
        seconds = time.perf_counter() - begin
    memory, hbm, text = compiled.memory_analysis(), HBM.get(chips[0].device_kind), compiled.as_text()
    slices = len(sharding.by_slice(chips))
    between = {"slices": slices, "between_slices": hlo.between_slices(text)} if slices > 1 else {}
    return {
        "device_kind": chips[0].device_kind,
        "chips": len(chips),
        "mesh": dict(mesh.shape),
        "minibatch": minibatch_size(source),
        "minibatch_per_chip": minibatch_size(source) / sharding.minibatch_devices(mesh),
        "parameters": parameter_count(step.arguments[0].params),
        "argument_bytes": memory.argument_size_in_bytes,
        "temporary_bytes": memory.temp_size_in_bytes,
        "total_bytes": memory_per_chip(compiled),
        "hbm_bytes": hbm and hbm * 2**30,
        "fits": hbm and memory_per_chip(compiled) <= hbm * 2**30,
        "flops_per_image": step.flops_per_image,
        "compiler_flops_per_chip": (compiled.cost_analysis() or {}).get("flops"),
        "collectives": hlo.collectives(text),
        **between,
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
        "minibatch": f"{result['minibatch']} images, {result['minibatch_per_chip']:g} per chip",
        "parameters": f"{result['parameters'] / 1e6:.2f} M",
        "arguments": f"{gib('argument_bytes')} per chip: parameters, optimiser, images",
        "temporaries": f"{gib('temporary_bytes')} per chip",
        "memory": f"{gib('total_bytes')} per chip{of}",
        "FLOPs": f"{result['flops_per_image'] / 1e9:.2f} G per image, {per_chip / 1e12:.3f} T per chip and step",
    }
    if found := result["compiler_flops_per_chip"]:
        rows["compiler's FLOPs"] = f"{found / 1e12:.3f} T per chip and step, loop bodies once"
    for kind, found in result["collectives"].items():
        rows[kind] = f"{found['count']} per step, {found['bytes'] / 2**20:.1f} MiB"
    for kind, found in result.get("between_slices", {}).items():
        rows["between slices"] = f"{kind} {found['count']} per step, {found['bytes'] / 2**20:.1f} MiB per chip"
    rows["compiled in"] = f"{result['compile_seconds']} s, not run"
    return [f"{name:18} {value}" for name, value in rows.items()]


def first_line(error: Exception) -> str:
    return str(error).splitlines()[0]


if __name__ == "__main__":
    sys.exit(command.run(config_flag.with_config(functools.partial(main, sys.argv[1:]))))
