"""The parts of device_check.py that time train steps, ours and PyTorch's of the same shapes, as benchmarks/step.py.

The minibatch is the largest that fits: the compiler's figures for two small ones lie on a line.
"""

import dataclasses
import functools
import gc
import statistics
import time
from collections.abc import Callable

from device.lines import Setting
from step import SIDE

SHARE = 0.8  # of the device's memory that a step may take according to the compiler
SECONDS, TOGETHER = 4.0, 4  # of timing; steps that are sent before the host waits for their end


@dataclasses.dataclass(frozen=True)
class Case:
    """most: the largest minibatch to use, where more memory would fit more; probes: the two that are compiled first."""

    kind: str
    model: str
    side: int
    most: int
    probes: tuple[int, int]


CASES = {
    "mae-S16": Case("mae", "S/16", SIDE, 2048, (64, 128)),
    "mae-L16": Case("mae", "L/16", SIDE, 1024, (32, 64)),
    "supervised-S16": Case("supervised", "S/16", SIDE, 1024, (32, 64)),
    "resnet50": Case("supervised", "resnet50", 512, 256, (8, 16)),
    "densenet161": Case("supervised", "densenet161", 512, 128, (4, 8)),
}
SMALL = dict(depths=(1,), width=8)  # of both networks in a rehearsal
REHEARSED_MEMORY = 2**31  # a CPU has no limit of its own


def case(setting: Setting, name: str) -> Case:
    """The case of a part; in a rehearsal a tiny one, with the same kinds of layers."""
    found = CASES[name.removeprefix("torch-")]
    if not setting.rehearse:
        return found
    model = found.model if "/" not in found.model else "XXS/16"
    return dataclasses.replace(found, model=model, side=32, most=4, probes=(2, 4))


def ours(setting: Setting, name: str):
    """One line: our step's speed, and its memory against the compiler's word."""
    import jax
    from device.correct import about, backend
    from step import build, here, running

    from rxrx_jax.training.speed import flops
    from rxrx_jax.training.step import memory_per_chip

    backend(setting)
    of, device = case(setting, name), jax.devices()[0]
    limit = (device.memory_stats() or {}).get("bytes_limit", REHEARSED_MEMORY)
    # The probes do not need the fastest kernels, and autotuning takes long.
    quick = {} if device.platform == "cpu" else {"xla_gpu_autotune_level": 0}
    with jax.set_mesh(here()):
        memory, made = {}, {}
        for size in of.probes:
            made[size] = build(of.kind, of.model, size, "bfloat16", of.side)
            step = made[size][0]
            probe = step.update.lower(*step.arguments).compile(quick)
            memory[size] = memory_per_chip(probe)
        minibatch, predicted = largest_minibatch(memory, SHARE * limit, of.most)
        made, source = made.get(minibatch) or build(of.kind, of.model, minibatch, "bfloat16", of.side)
        begin = time.perf_counter()
        compiled = probe if minibatch == of.probes[1] and not quick else made.compile()
        compile_seconds = time.perf_counter() - begin
        one, state = running(made, source), made.initialise(made.keys["init"])

        def step():
            nonlocal state
            state, found = one(compiled, state)
            return found["loss"]

        figures = timed(step, minibatch, setting)
    needed, stats = memory_per_chip(compiled), device.memory_stats() or {}
    found = shape_of(of, minibatch) | figures | {"flops_per_image": made.flops_per_image, "peak_flops": flops.peak()}
    found |= {"compiler_bytes": needed, "predicted_bytes": round(predicted), "limit_bytes": limit}
    found |= {"peak_bytes": stats.get("peak_bytes_in_use"), "compile_seconds": compile_seconds}
    if found["peak_bytes"]:
        found["peak_over_compiler"] = found["peak_bytes"] / needed
    yield found | rates(found) | about()


def theirs(setting: Setting, name: str):
    """One line: PyTorch's step, of the minibatch of ours or, where that does not fit, of half or a quarter of it."""
    import torch
    from step import pytorch

    if torch.cuda.is_available() == setting.rehearse:
        raise RuntimeError("PyTorch finds no GPU" if not setting.rehearse else "PyTorch finds a GPU in a rehearsal")
    if setting.rehearse:
        make_small_in_torch()
    of, before = case(setting, name), setting.earlier(name.removeprefix("torch-"))
    largest = before.get("minibatch", 2 * of.probes[1])
    # A rehearsal does without a C++ compiler: one step is traced and run as it was, the others are not even traced.
    backend = "inductor" if not setting.rehearse else "eager" if name == "torch-mae-S16" else None
    for minibatch in dict.fromkeys((largest, max(1, largest // 2), max(1, largest // 4))):
        try:
            figures = timed(pytorch(of.kind, of.model, minibatch, "bfloat16", backend, of.side), minibatch, setting)
            break
        except torch.OutOfMemoryError:
            gc.collect()
            torch.cuda.empty_cache()
    else:
        raise RuntimeError(f"out of memory with a minibatch of {minibatch}")
    device = "cpu" if setting.rehearse else torch.cuda.get_device_name()
    found = (
        shape_of(of, minibatch) | figures | {"device": device, "torch": torch.__version__, "compiled": backend or "no"}
    )
    found |= {key: before[key] for key in ("flops_per_image", "peak_flops") if key in before}
    found["peak_bytes"] = torch.cuda.max_memory_allocated() if not setting.rehearse else None
    yield found | rates(found)


def largest_minibatch(memory: dict[int, int], room: float, most: int) -> tuple[int, float]:
    """(the largest size that needs at most `room` bytes, the bytes that it will need), from those of two sizes.

    Sizes are powers of two and halfway between two of them, at most `most`. Raises RuntimeError where none fits.
    """
    (a, low), (b, high) = sorted(memory.items())
    each = (high - low) / (b - a)
    needs = lambda size: low + (size - a) * each  # noqa: E731
    sizes = sorted({base * 2**i for base in (2, 3) for i in range(16)} | {1})
    fitting = [size for size in sizes if size <= most and needs(size) <= room]
    if not fitting:
        raise RuntimeError(f"no minibatch fits {room / 2**30:.1f} GiB: {a} images need {low / 2**30:.1f} GiB")
    return fitting[-1], needs(fitting[-1])


def timed(step: Callable, minibatch: int, setting: Setting) -> dict:
    """Images per second of step() -> loss, which float() waits for: median of several rounds, after a warm-up."""
    for _ in range(1 if setting.rehearse else 5):
        float(step())
    together, rounds, least = (1, 2, 0) if setting.rehearse else (TOGETHER, 3, SECONDS)
    seconds, end = [], time.perf_counter() + least
    while len(seconds) < rounds or time.perf_counter() < end:
        begin = time.perf_counter()
        for _ in range(together):
            loss = step()
        loss = float(loss)
        seconds.append((time.perf_counter() - begin) / together)
    middle = statistics.median(seconds)
    found = {"images_per_second": minibatch / middle, "step_seconds": middle, "rounds": len(seconds), "loss": loss}
    return found | {"step_seconds_least": min(seconds), "step_seconds_most": max(seconds)}


def rates(found: dict) -> dict:
    """Model FLOPs per second, and of the chip's peak where that is known."""
    flops, peak = found.get("flops_per_image"), found.get("peak_flops")
    each = {"teraflops": flops * found["images_per_second"] / 1e12} if flops else {}
    return each | ({"mfu": flops * found["images_per_second"] / peak} if flops and peak else {})


def shape_of(of: Case, minibatch: int) -> dict:
    found = {"kind": of.kind, "model": of.model, "side": of.side, "dtype": "bfloat16", "minibatch": minibatch}
    return found | {"largest_allowed": of.most}


def make_small() -> None:
    """From now on the networks of this process are small, with the same kinds of layers: they compile sooner."""
    import step

    from rxrx_jax import models
    from rxrx_jax.models import vit

    vit.SIZES["XXS"], step.DECODER = vit.Size(16, 2, 32, 2), (16, 1, 2)
    models.ResNet = functools.partial(models.ResNet, **SMALL)
    models.DenseNet = functools.partial(models.DenseNet, **SMALL, growth=4)


def make_small_in_torch() -> None:
    """The same in PyTorch, whose transformers take these sizes from ours."""
    from common import torch_convnet

    make_small()
    extra = {"resnet50": {}, "densenet161": {"growth": 4}}
    for name, (made, _) in torch_convnet.MODELS.items():
        torch_convnet.MODELS[name] = (made, SMALL | extra[name])
