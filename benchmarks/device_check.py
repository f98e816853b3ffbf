"""Checks and times this project on one NVIDIA GPU, without network, and ends within eight minutes whatever happens:

    benchmarks/device/bundle.sh .bundle                                             # before, on a machine with network
    python benchmarks/device_check.py --bundle=.bundle --json=device.json           # on the GPU
    python benchmarks/device_check.py --rehearse                                    # these parts, tiny, on a CPU

Every part is a process with a time limit of its own, and is killed with all that it started when that is over; it
appends what it finds to --json at once, one JSON object a line. A part that fails leaves a line with "error", and the
others run. Parts are ordered by value: those for which no time is left say so. The last line sums up. Exits with 0 if
all parts gave results and all correctness checks passed, else 1. docs/device/README.md says how to read the lines.
"""

import argparse
import contextlib
import dataclasses
import gc
import importlib
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import signal
import subprocess
import sys
import tarfile
import tempfile
import time

from device.lines import Setting, one_line, read, write

ROOT = pathlib.Path(__file__).resolve().parent.parent
SECONDS = 465.0  # of the eight minutes; the rest is for the processes' ends
LEAST = 10.0  # a part is not started with less
PATIENCE = 3  # a rehearsal may share its machine with other work: all limits are that many times longer
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "torch", "numpy")
DETERMINISTIC = "--xla_gpu_deterministic_ops=true"


@dataclasses.dataclass(frozen=True)
class Part:
    """function: "module:name" of a generator of lines, called with (Setting, the part's name); seconds: its limit."""

    name: str
    function: str
    seconds: float
    xla_flags: str = ""  # on a GPU


# Most valuable first. Limits are about twice what is expected, so that one part that hangs costs little more.
SETUP = Part("setup", "", 60)
PARTS = (
    Part("attention", "device.correct:attention_errors", 60),
    Part("gradients", "device.correct:gradients", 90),
    Part("repeat", "device.correct:repeat", 90, DETERMINISTIC),
    Part("restore", "device.correct:restore", 60, DETERMINISTIC),
    Part("mae-S16", "device.speed:ours", 90),
    Part("mae-L16", "device.speed:ours", 120),
    Part("main", "device.data:main_command", 120),
    Part("loader", "device.data:loader", 60),
    Part("torch-mae-L16", "device.speed:theirs", 120),
    Part("supervised-S16", "device.speed:ours", 90),
    Part("torch-mae-S16", "device.speed:theirs", 90),
    Part("resnet50", "device.speed:ours", 120),
    Part("torch-supervised-S16", "device.speed:theirs", 90),
    Part("torch-resnet50", "device.speed:theirs", 120),
    Part("densenet161", "device.speed:ours", 180),
    Part("torch-densenet161", "device.speed:theirs", 180),
)
TINY_TWICE = ("mae-L16", "torch-mae-L16")  # a rehearsal's tiny model is that of S16
STEPS = tuple(part.name for part in PARTS if part.function == "device.speed:ours")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=pathlib.Path, help="a folder that device/bundle.sh filled")
    parser.add_argument("--json", type=pathlib.Path, default=pathlib.Path("device.json"), help="overwritten")
    parser.add_argument("--rehearse", action="store_true", help="tiny models and images on the CPU")
    parser.add_argument("--parts", help="only these, such as attention,mae-S16")
    parser.add_argument("--seconds", type=float, help=f"for everything (default {SECONDS:.0f}; longer in a rehearsal)")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=pathlib.Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        return work(options)
    begin = time.monotonic()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # ends the part that runs, too
    parts = chosen(options)
    with contextlib.suppress(FileNotFoundError):
        options.json.unlink()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        options.folder = pathlib.Path(folder)
        planned = [(part, command(options, part), environment(options, part)) for part in parts]
        seconds = options.seconds or SECONDS * (PATIENCE if options.rehearse else 1)
        good = run_all(planned, options.json, begin + seconds)
    sys.exit(0 if good else 1)


def chosen(options) -> list[Part]:
    """The parts to run; mistakes in the options end with one line. A rehearsal takes no part twice, and does without
    PyTorch where it is not installed; on a GPU its parts are there to be compared with, and fail."""
    if options.bundle and not (options.bundle / "wheels").is_dir():
        sys.exit(f"error: --bundle={options.bundle} holds no wheels; make it with benchmarks/device/bundle.sh")
    names = [part.name for part in PARTS]
    wanted = options.parts.split(",") if options.parts else names
    if unknown := [name for name in wanted if name not in names]:
        sys.exit(f"error: --parts={unknown[0]}: expected {', '.join(names)}")
    parts = [part for part in PARTS if part.name in wanted]
    if options.rehearse and not options.parts:
        parts = [part for part in parts if part.name not in TINY_TWICE]
    if options.rehearse and not importlib.util.find_spec("torch"):
        parts = [part for part in parts if not part.name.startswith("torch-")]
        print("no PyTorch here: the rehearsal leaves its parts out", file=sys.stderr)
    patience = PATIENCE if options.rehearse else 1
    return [dataclasses.replace(part, seconds=part.seconds * patience) for part in (SETUP, *parts)]


def command(options, part: Part) -> list[str]:
    """What runs one part in a process of its own."""
    flags = [f"--part={part.name}", f"--folder={options.folder}", f"--json={options.json.absolute()}"]
    flags += [f"--bundle={options.bundle.absolute()}"] if options.bundle else []
    return [sys.executable, str(pathlib.Path(__file__).resolve()), *flags, *(["--rehearse"] * options.rehearse)]


def environment(options, part: Part) -> dict[str, str]:
    """Of a part's process: this tree and the bundle's packages before all others, and the GPU or, when rehearsing, the
    CPU alone, where XLA compiles quickly rather than well."""
    found = dict(os.environ) | {"PYTHONUNBUFFERED": "1", "TF_CPP_MIN_LOG_LEVEL": "2"}
    paths = [str(options.folder / "site"), str(ROOT), found.get("PYTHONPATH", "")]
    found["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    for name in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):  # compiled here, not found from an earlier run
        found[name] = str(options.folder / name.lower())
    if not options.rehearse:  # the CPU too, as a reference; without a GPU this is an error and not a run on the CPU
        found |= {"JAX_PLATFORMS": "cuda,cpu", "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.9"}
        flags = [found.get("XLA_FLAGS", ""), part.xla_flags]
        return found | {"XLA_FLAGS": " ".join(filter(None, flags))}
    found |= {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    found.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
    found.setdefault("JAX_COMPILATION_CACHE_DIR", str(options.folder / "compiled"))  # parts compile the same tiny steps
    return found | {
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1"
    }  # fmt: skip


def run_all(planned: list[tuple[Part, list[str], dict]], path: pathlib.Path, end: float) -> bool:
    """Runs the parts one after the other until `end` (of time.monotonic()), and writes the last line.

    Args: planned, (part, command, environment) of each; path, the file of lines. What the parts print goes to a file
    of the same name that ends in .log. Returns whether all gave results and passed.
    """
    begin, log = time.monotonic(), path.with_suffix(".log")
    log.write_bytes(b"")
    for part, arguments, variables in planned:
        left = end - time.monotonic()
        if left < LEAST:
            write(path, {"part": part.name, "error": f"no time left: {max(left, 0):.0f} s"})
            continue
        start, before = time.monotonic(), len(read(path))
        error = run_part(arguments, variables, min(part.seconds, left), log)
        lines = [line for line in read(path)[before:] if line["part"] == part.name]
        if not any("error" in line for line in lines) and (error or not lines):
            write(path, {"part": part.name, "error": error or "ended without a result"})
        state = "error" if error or any("error" in line for line in lines) or not lines else "done"
        print(f"{part.name}: {state} after {time.monotonic() - start:.1f} s", file=sys.stderr, flush=True)
    summary = summed_up([part.name for part, *_ in planned], read(path)) | {"seconds": time.monotonic() - begin}
    write(path, summary)
    print(json.dumps(summary))
    return summary["good"]


def run_part(arguments: list[str], variables: dict, seconds: float, log: pathlib.Path) -> str | None:
    """Runs a command for at most so many seconds; returns what was wrong. It and what it started are gone then."""
    with open(log, "ab") as file:
        printed = file.tell()
        process = subprocess.Popen(
            arguments, env=variables, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
        )
    try:
        code = process.wait(seconds)
    except subprocess.TimeoutExpired:
        return f"stopped at its limit of {seconds:.0f} s"
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):  # one that a driver holds is left behind
            process.wait(3)
    if code:
        said = log.read_bytes()[printed:].decode(errors="replace").strip().rpartition("\n")[2]
        return f"exit code {code}: {one_line(said)}"
    return None


def summed_up(names: list[str], lines: list[dict]) -> dict:
    """The last line: the state of every part, our speed over PyTorch's, and the loader's over each step's."""
    states, rates = {}, {}
    for name in names:
        found = [line for line in lines if line["part"] == name]
        failed = any(line.get("passed") is False for line in found)
        states[name] = (
            "error" if any("error" in line for line in found) or not found else "failed" if failed else "done"
        )
        if states[name] == "done" and name.removeprefix("torch-") in STEPS:
            rates[name] = found[-1]["images_per_second"]
    over = {name: rates[name] / rates[f"torch-{name}"] for name in STEPS if {name, f"torch-{name}"} <= set(rates)}
    read_rates = {line["encoding"]: line["images_per_second"] for line in lines if "encoding" in line}
    feeds = {e: {name: rate / rates[name] for name in STEPS if name in rates} for e, rate in read_rates.items()}
    good = all(state == "done" for state in states.values())
    return {"part": "summary", "good": good, "parts": states, "over_pytorch": over, "loader_over_step": feeds}


def work(options) -> None:
    """A part's own process: writes its lines, or the line of its error."""
    begin = time.monotonic()
    if options.rehearse:
        gc.set_threshold(200_000, 50, 100)  # most of it is tracing, whose many objects are all kept
    setting = Setting(options.rehearse, options.json, options.folder)
    part = next(part for part in (SETUP, *PARTS) if part.name == options.part)
    module, _, function = part.function.partition(":")
    try:
        if part is SETUP:
            found = setup(setting, options.bundle)
        else:
            found = getattr(importlib.import_module(module), function)(setting, part.name)
        for line in found:
            write(options.json, {"part": part.name} | line | {"seconds": time.monotonic() - begin})
    except Exception as error:
        write(options.json, {"part": part.name, "error": one_line(f"{type(error).__name__}: {error}")})
        raise


def setup(setting: Setting, bundle: pathlib.Path | None):
    """Installs the bundle's wheels beside what this Python has, unpacks its datasets, and reports what it found."""
    wheels = sorted(map(str, (bundle / "wheels").glob("*.whl"))) if bundle else []
    if wheels:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-compile"]
        subprocess.run([*pip, "--no-cache-dir", f"--target={setting.folder / 'site'}", *wheels], check=True)
        importlib.invalidate_caches()
        with tarfile.open(bundle / "data.tar.xz") as archive:
            archive.extractall(setting.data, filter="data")
    versions = {}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    cores, python = len(os.sched_getaffinity(0)), sys.version.partition(" ")[0]
    yield {"wheels": len(wheels), "python": python, "cores": cores, "versions": versions}


if __name__ == "__main__":
    main()
