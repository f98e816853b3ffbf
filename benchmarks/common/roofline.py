"""How long a step of a compiled row (docs/aot.json) should take, and what limits it. Nothing here has been timed on the
machines that it speaks of: every number is a maker's figure, a compiler's, one measured on another machine, or assumed.
"""

import dataclasses
import math

from rxrx_jax.training.speed.flops import PEAK

UTILISATION = 0.4  # assumed: of the chip's peak while it computes. Nothing of ours was timed on these chips yet
RECOMPUTED = {
    "none": 1,
    "dots": 1,
    "full": 4 / 3,
}  # FLOPs done over FLOPs counted: a second forward pass, by config.remat


@dataclasses.dataclass(frozen=True)
class System:
    """A cluster as its maker describes it. Rates are bytes per second.

    hosts, and physical cores of each. memory: per chip. link: at which one array that every chip holds is reduced or
    gathered. network: into a host, from disks or an object store, beside what chips send each other.
    """

    name: str
    device_kind: str
    hosts: int
    cores: int
    memory: float
    link: float
    network: float

    @property
    def peak(self) -> float:
        return PEAK[self.device_kind]


SYSTEMS = {
    # cloud.google.com/tpu/docs/v5e: 819 GB/s; 1,600 Gb/s per chip between chips, of which a sum over one side of the
    # torus has half; 6.4 Tb/s into a pod. 64 hosts of 4 chips (GKE's ct5lp-hightpu-4t), 112 vCPU, which are 56 cores.
    "v5e": System(
        "v5e-256", "TPU v5 lite", hosts=64, cores=56, memory=819e9, link=1600e9 / 8 / 2, network=6.4e12 / 8 / 64
    ),
    # docs.nvidia.com, DGX BasePOD and H200: 4.8 TB/s; 8 adapters of 400 Gb/s per host between hosts, which is less than
    # NVLink's 450 GB/s each way; one of the two adapters for storage, 400 Gb/s; 2 x 56 cores.
    "h200": System("64 H200", "NVIDIA H200", hosts=8, cores=112, memory=4.8e12, link=8 * 400e9 / 8, network=400e9 / 8),
}


@dataclasses.dataclass(frozen=True)
class Way:
    """A way to read training images: bytes fetched per image by a host, and images per second decoded by a core."""

    name: str
    bytes_per_image: float
    images_per_core: float


def step_seconds(row: dict, remat: str, system: System) -> dict[str, float]:
    """Seconds of a step by part, each as if it were alone: their maximum is the step if all overlap, their sum if
    nothing does.

    compute: FLOPs at UTILISATION of the peak. memory: every byte of the step's memory written and read once, a lower
    bound. network: an array that is reduced leaves a chip twice, one that is gathered or scattered once.
    """
    flops = row["flops_per_image"] * row["minibatch"] / row["chips"] * RECOMPUTED[remat]
    sent = sum(found["bytes"] * (2 if kind == "all-reduce" else 1) for kind, found in row["collectives"].items())
    return {
        "compute": flops / (system.peak * UTILISATION),
        "memory": 2 * row["total_bytes"] / system.memory,
        "network": sent / system.link,
    }


def reading_seconds(row: dict, way: Way, system: System) -> dict[str, float]:
    """Seconds in which a host has its part of a minibatch: fetched, and decoded by all of its cores."""
    images = row["minibatch"] / system.hosts
    return {
        "fetching": images * way.bytes_per_image / system.network,
        "decoding": images / (way.images_per_core * system.cores),
    }


def plan(row: dict, remat: str, total_steps: int, way: Way, system: System) -> dict:
    """The whole run with one way of reading: the chips' parts follow each other, reading runs beside them.

    Returns step_seconds, hours, bottleneck (the longest part), and what a host must do to keep the chips busy:
    images_per_second, bytes_per_second, cores."""
    chips, reading = step_seconds(row, remat, system), reading_seconds(row, way, system)
    busy = math.fsum(chips.values())
    step = max(busy, *reading.values())
    needed = row["minibatch"] / system.hosts / busy
    limit = max(reading, key=reading.get) if step > busy else max(chips, key=chips.get)
    return {
        "step_seconds": step,
        "hours": step * total_steps / 3600,
        "bottleneck": limit,
        "images_per_second": needed,
        "bytes_per_second": needed * way.bytes_per_image,
        "cores": needed / way.images_per_core,
    }
