"""What grows how: `python benchmarks/scaling.py [--quick] [--axes=records,devices]`; about twelve minutes on two cores.

Every axis doubles one thing and measures what that costs; the exponent is the slope of log(cost) over log(size) across
the last doublings (0: it does not grow, 1: in proportion), and LIMITS says what it may be at most.
records      a table of up to RxRx3's 2.2 million sites: opening it, an epoch's plan, a minibatch; memory they hold
models       a masked autoencoder's step by its FLOPs, its memory by its parameters
devices      the compiled step on 1 to 64 emulated devices, images a device fixed: memory of a device, what it sends
experiments  the same sites in 1 to 512 experiments: the sampler, accuracies by experiment
workers      processes that build, threads that read
Times are minima over repeats on this machine. The last line is one JSON object; exit status 1 when a limit is passed.
"""

import argparse
import concurrent.futures
import dataclasses
import json
import pathlib
import subprocess
import sys
import tempfile
import time
import tracemalloc
import types

import numpy as np
import pyarrow as pa
from common.sites import make_tree
from pyarrow import csv

from rxrx_jax import data
from rxrx_jax.base.command import cores
from rxrx_jax.data import minibatches
from rxrx_jax.data.sampler import Sampler
from rxrx_jax.data.sites import read_sites
from rxrx_jax.evaluate import accuracy
from tfds_builders import prepare

SCREEN = dict(image_size=32, train=("SIMA-01",), val=(), test=(), treatments=4, replicates=2, untreated_wells=1)
MINIBATCH = 4  # images a device
SPLIT = 32  # devices that share the parameters, at most: the width of the smallest model is a multiple of it
LIMITS = {  # axis and cost: the largest exponent that is right, with room for noise
    "records": {"open_seconds": 1.15, "epoch_seconds": 1.35, "minibatch_seconds": 0.15, "held_MB": 1.1},
    "models": {"step_seconds": 1.1, "memory_MB": 1.1},
    "devices": {"sent_MB": 0.1, "collectives": 0.1, "memory_MB": 0.1, "split_state_MB": -0.6, "split_sent_MB": 0.1},
    "experiments": {"sampler_seconds": 0.5, "accuracy_seconds": 0.5},
    "workers": {"build_seconds": -0.5, "read_seconds": -0.6},
}


def records(quick: bool) -> dict:
    base, size = (2_000, 32) if quick else (34_375, 2_048)
    found = {"records": [base * 2**i for i in range(5 if quick else 7)]}
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        dataset = data.read_dataset(prepare.prepare("rxrx_sim", out=folder, workers=1, progress=False, **SCREEN))
        for count in found["records"]:
            write_table(folder, count)
            opened = shortest(lambda: read_sites(folder))
            tracemalloc.start()
            sites = read_sites(folder)[0]
            sampler = Sampler(np.arange(count), sites.experiment, size)
            sampler.rows(0)
            held = tracemalloc.get_traced_memory()[0] / 1e6
            tracemalloc.stop()
            # The table is long, and its rows are those of the few records that there are.
            wide = dataclasses.replace(sites, index=sites.index % len(dataset.sources["train"]))
            stream = data.training_minibatches(
                dataclasses.replace(dataset, sites=wide),
                {"train": Sampler(np.arange(count), sites.experiment, 32)},
                10**6,
                0,
                16,
                0,
            )
            next(stream)  # plans the epoch
            costs = {
                "open_seconds": opened,
                "epoch_seconds": shortest(lambda s=sampler: s._epoch.__wrapped__(0)),
                "minibatch_seconds": shortest(lambda s=stream: [next(s) for _ in range(30)]) / 30,
                "held_MB": held,
            }
            add(found, costs)
            del stream
    return found


def write_table(folder: pathlib.Path, count: int) -> None:
    """sites.csv of `count` wells in up to 180 experiments of 48 plates, as RxRx3's."""
    row = np.arange(count)
    plate, well = row // 1380, row % 1380  # wells of a plate
    experiment = plate // 48
    text = lambda pattern, *columns: pa.array([pattern % values for values in zip(*columns)])  # noqa: E731
    names = text("gene-%03d_%d_%04d", experiment.tolist(), (plate % 48).tolist(), well.tolist())
    of = lambda value: pa.array([value] * count)  # noqa: E731
    columns = {
        "split": of("train"),
        "site_id": names,
        "well_id": names,
        "site": of(1),
        "well_type": of("treatment"),
        "perturbation_id": pa.array(row % 18_737),
        "experiment": text("gene-%03d", experiment.tolist()),
        "plate": text("%d", (plate % 48).tolist()),
        "cell_type": of("HUVEC"),
    }
    csv.write_csv(pa.table(columns), folder / "sites.csv")


def models(quick: bool) -> dict:
    import jax
    import jax.numpy as jnp

    from rxrx_jax.base import sharding
    from rxrx_jax.base.config import Config, load
    from rxrx_jax.data import noise
    from rxrx_jax.training.step import make_step, memory_per_chip, parameter_count

    variants = ("XXS/16", "XXS/8") if quick else ("XXS/8", "Ti/8", "S/8", "B/8")
    found = {"variant": list(variants), "flops": [], "parameters": []}
    for variant in variants:
        values = load(f"mae_vit.py:variant={variant}")  # 64-pixel images of the simulated screen
        values["data"]["minibatch"] = MINIBATCH
        config, mesh = Config(values), sharding.make_mesh()
        with jax.set_mesh(mesh):
            made = make_step(config, noise.make(config), mesh, 1000)
            compiled, state = made.compile(), made.initialise(made.keys["init"])
            rest = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype, device=x.sharding), made.arguments[1:3])
            keys = sharding.to_every_device(made.keys, mesh)

            def run(compiled=compiled, rest=rest, keys=keys):
                nonlocal state
                state, metrics = compiled(state, *rest, keys)
                return float(metrics["loss"])

            run()
            add(found, {"flops": made.flops_per_image, "parameters": parameter_count(state.params)})
            add(found, {"step_seconds": shortest(run), "memory_MB": memory_per_chip(compiled) / 1e6})
    return found


def devices(quick: bool) -> dict:
    """In a process of its own, as the number of devices is set once."""
    counts = [2**i for i in range(3 if quick else 7)]
    command = [sys.executable, __file__, f"--emulate={','.join(map(str, counts))}"]
    process = subprocess.run(command, capture_output=True, text=True)
    if process.returncode:
        sys.exit(process.stderr)
    return {"devices": counts} | json.loads(process.stdout.splitlines()[-1])


def emulate(counts: list[int]) -> dict:
    from rxrx_jax import aot
    from rxrx_jax.base.config import load

    found, chips = {}, aot.devices(f"cpu:{max(counts)}")
    sent = lambda compiled: sum(kind["bytes"] for kind in compiled["collectives"].values()) / 1e6  # noqa: E731
    for count in counts:
        values = load("mae_vit.py:variant=XXS/16")
        values["data"]["minibatch"] = MINIBATCH * count
        values["task"]["decoder"] = (64, 1, 4)
        whole = aot.compile_step(values, chips[:count])
        values["mesh"]["fsdp"] = min(count, SPLIT)
        split = aot.compile_step(values, chips[:count])
        costs = {
            "collectives": sum(kind["count"] for kind in whole["collectives"].values()),
            "sent_MB": sent(whole),
            "memory_MB": whole["total_bytes"] / 1e6,
            "split": split["mesh"]["fsdp"],
            "split_state_MB": split["argument_bytes"] / 1e6,
            "split_sent_MB": sent(split),
        }
        add(found, costs)
    return found


def experiments(quick: bool) -> dict:
    count, size, classes = (2**14, 64, 4) if quick else (2**18, 256, 16)
    found = {"experiments": [2**i for i in range(0, 10)]}
    random = np.random.default_rng(0)
    rows, label, logits = np.arange(count), random.integers(0, classes, count), random.random((count, classes))
    wells = np.array([f"{i // 2:07d}" for i in rows])
    for number in found["experiments"]:
        of = random.permutation(rows % number).astype(np.int32)
        sites = types.SimpleNamespace(label=label, well_id=wells, experiment=of, cell_type=np.zeros_like(of))
        dataset = types.SimpleNamespace(sites=sites, experiments=[str(i) for i in range(number)], cell_types=["HUVEC"])
        costs = {
            "sampler_seconds": shortest(lambda g=of: Sampler(rows, g, size, 1).rows(0)),
            "accuracy_seconds": shortest(lambda d=dataset: list(accuracy.summarise("all", logits, rows, d))),
        }
        add(found, costs)
    return found


def workers(quick: bool) -> dict:
    found = {"workers": [2**i for i in range(len(cores()).bit_length())]}
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        make_tree(folder / "tree", None, 4, 4 if quick else 300)  # simulated sites of 512 pixels, as PNG files

        def build(number: int):
            out = tempfile.mkdtemp(dir=folder)
            return prepare.prepare("rxrx1", folder / "tree", out, workers=number, progress=False)

        for number in found["workers"]:
            made = []
            built = shortest(lambda n=number, m=made: m.append(build(n)))
            dataset = data.read_dataset(made[0])
            rows = np.arange(256) % len(dataset.sites)
            with concurrent.futures.ThreadPoolExecutor(number) as threads:
                whole, minibatches._threads = minibatches._threads, lambda pool=threads: pool
                try:
                    read = shortest(lambda d=dataset, r=rows: data.read_minibatch(d, d.sites, r, 256))
                finally:
                    minibatches._threads = whole
            add(found, {"build_seconds": built, "read_seconds": read})
    return found


AXES = {"records": records, "models": models, "devices": devices, "experiments": experiments, "workers": workers}
SIZE = {  # what a cost is held against; of the others, the first entry of their axis
    "models": {"step_seconds": "flops", "memory_MB": "parameters"},
    "devices": {"split_state_MB": "split"},
}


def shortest(function, repeats: int = 3) -> float:
    """Seconds of function(), the minimum over repeats."""
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        best = min(best, time.perf_counter() - start)
    return best


def add(found: dict, costs: dict) -> None:
    for name, value in costs.items():
        found.setdefault(name, []).append(value)


def exponents(axis: str, found: dict) -> dict[str, float]:
    """Of every cost with a limit, over the last four sizes at most, without those that cost nothing (one device sends
    nothing)."""
    first, slopes = next(iter(found)), {}
    for name in LIMITS[axis]:
        sizes = np.array(found[SIZE.get(axis, {}).get(name, first)], float)
        costs = np.array(found[name], float)
        keep = np.flatnonzero(costs > 0)[-4:]
        slopes[name] = float(np.polyfit(np.log(sizes[keep]), np.log(costs[keep]), 1)[0])
    return slopes


def passed(axis: str, slopes: dict[str, float]) -> list[str]:
    """The costs that grow faster than they may."""
    return [f"{axis}: {name} grows with exponent {slope:.2f}, limit {LIMITS[axis][name]}"
            for name, slope in slopes.items() if slope > LIMITS[axis][name]]  # fmt: skip


def table(result: dict) -> list[str]:
    """Returns the lines of a Markdown table: each cost at the smallest and the largest size, and its exponent."""
    lines = [
        "| axis | from, to | cost | how | at the smallest | at the largest | exponent | limit |",
        "|---|---|---|---|---:|---:|---:|---:|",
    ]
    for axis, found in result["axes"].items():
        sizes = next(iter(found["measured"].values()))
        for name, slope in found["exponents"].items():
            costs = found["measured"][name]
            how = "compiled" if axis == "devices" or name == "memory_MB" else "measured"
            shown = f"{axis} | {sizes[0]} to {sizes[-1]} | {name.replace('_', ' ')} | {how}"
            lines.append(f"| {shown} | {costs[0]:.3g} | {costs[-1]:.3g} | {slope:.2f} | {LIMITS[axis][name]:g} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes, where times say little: does it run?")
    parser.add_argument("--axes", default=",".join(AXES), help="some of " + ", ".join(AXES))
    parser.add_argument("--emulate", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.emulate:
        return print(json.dumps(emulate([int(count) for count in flags.emulate.split(",")])))
    result, faster = {"quick": flags.quick, "cores": len(cores()), "axes": {}}, []
    for axis in flags.axes.split(","):
        found = AXES[axis](flags.quick)
        slopes = exponents(axis, found)
        result["axes"][axis] = {"measured": found, "exponents": slopes}
        faster += passed(axis, slopes)
    print("\n".join([*table(result), *faster]))
    print(json.dumps(result))
    sys.exit(bool(faster))


if __name__ == "__main__":
    main()
