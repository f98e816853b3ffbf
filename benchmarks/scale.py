"""What training on RxRx3 needs on TPU slices and on H200s: compiled and computed, not run. For docs/scale.md.

    pip install -e '.[tpu]' && python benchmarks/scale.py steps       # compiles every ROW that docs/aot.json lacks
    pip install -e '.[gpu]' && python benchmarks/scale.py steps       # those on H200s; neither chip is needed
    python benchmarks/scale.py records --source=DIR                   # measures reading, DIR a tree of RxRx1
    python benchmarks/scale.py plan                                   # computes hours from both, in seconds

Each writes a file in docs/ and prints its tables of docs/scale.md. A row takes minutes for a TPU, seconds for a GPU; to
recompile one delete it from docs/aot.json.
"""

import argparse
import ast
import contextlib
import json
import math
import pathlib
import tempfile

from common import roofline

from rxrx_jax import aot, data
from rxrx_jax.base import config
from rxrx_jax.base.errors import UserError
from rxrx_jax.models import attention, vit
from rxrx_jax.training.train import run_length

DOCS = pathlib.Path(__file__).resolve().parent.parent / "docs"
S16 = "--topology=v5e:16x16 --config=mae_vit.py:rxrx1,variant=S/16 --config.mesh.fsdp=16"
L8 = "--config=mae_vit.py:rxrx3,variant=L/8"
SPLIT = "--config.mesh.fsdp=16 --config.model.remat=full"
PLANNED = [  # arguments of rxrx_jax.aot: the published recipe and a small model, each on 256 v5e and on 64 H200
    f"--topology=v5e:16x16 {L8} --config.accumulate=2 --config.mesh.fsdp=16",
    f"--topology=h200:8x8 {L8}",
    "--topology=v5e:16x16 --config=mae_vit.py:rxrx3,variant=S/16",
    "--topology=h200:8x8 --config=mae_vit.py:rxrx3,variant=S/16",
]
ROWS = [  # the same, and what is taken away
    ("--topology=v5e:4x4 --config=mae_vit.py:rxrx1,variant=S/16 --config.accumulate=4", ""),
    (S16, ""),
    (S16, "constraint"),
    ("--topology=v5e:16x16 --config=mae_vit.py:rxrx1,variant=B/8", ""),
    (f"--topology=v6e:16x16 {L8} {SPLIT}", ""),
    (f"--topology=v5e:16x16 {L8} {SPLIT}", ""),
    *((arguments, "") for arguments in PLANNED),
    *((arguments.replace("=v5e:", "=2xv5e:"), "") for arguments in (PLANNED[2], PLANNED[0])),  # on two slices
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("steps", "records", "plan"))
    parser.add_argument("--source", type=pathlib.Path, help="an RxRx1 tree with images/, for records")
    flags = parser.parse_args()
    if flags.part == "steps":
        print("\n".join(table(steps())))
    elif flags.part == "records":
        from common import rxrx3_records

        with tempfile.TemporaryDirectory() as folder:
            write("scale_records", rxrx3_records.measure(pathlib.Path(folder), flags.source))
        print("\n".join(table_of_records(read("scale_records"))))
    else:
        write("scale", plans(read("aot"), read("scale_records")))
        print("\n".join([*table_of_steps(read("scale")), "", *table_of_runs(read("scale"))]))


def read(name: str):
    return json.loads((DOCS / f"{name}.json").read_text())


def write(name: str, found) -> None:
    (DOCS / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")


# Compiled steps.


def steps() -> list[dict]:
    """The rows of docs/aot.json, with those that were missing and for which there is a compiler."""
    rows = read("aot")
    for arguments, what in ROWS:
        if any((row["arguments"], row["without"]) == (arguments.split(), what) for row in rows):
            continue
        try:
            chips = aot.devices(arguments.split()[0].partition("=")[2])
        except UserError as e:
            print(f"left out: {arguments}: {e}")
            continue
        rows.append(measure(arguments, what, chips))
        write("aot", rows)
    return rows


def values_of(arguments: str) -> dict:
    """The nested config that `arguments` of rxrx_jax.aot mean."""
    _, file, *changes = arguments.split()
    values = config.load(file.partition("=")[2])
    for name, _, value in (change.removeprefix("--config.").partition("=") for change in changes):
        *parents, last = name.split(".")
        node = values
        for parent in parents:
            node = node[parent]
        node[last] = value if isinstance(node[last], str) else ast.literal_eval(value)
    return values


def without(what: str):
    """The code as it is, less one thing: what is that good for?"""
    if what == "fused attention":
        return attention.unfused()
    stack = contextlib.ExitStack()
    if what == "constraint":
        stack.callback(setattr, vit, "constrain_tokens", vit.constrain_tokens)
        vit.constrain_tokens = lambda x: x
    return stack


def measure(arguments: str, what: str, chips: list) -> dict:
    try:
        with without(what):
            found = aot.compile_step(values_of(arguments), chips)
    except UserError as e:
        found = {"fits": False, "error": str(e)}
    return {"arguments": arguments.split(), "without": what} | found


def table(rows: list[dict]) -> list[str]:
    """The lines of the table of compiled steps in docs/scale.md."""
    lines = [
        "| slice | config | without | images per step (per chip) | arguments | temporaries | memory of the chip's "
        "| all-reduce | all-gather | reduce-scatter | sums between slices |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = [*setting(row["arguments"]), row["without"]]
        if "error" in row:
            cells += ["", "", "", f"**{row['error'].rpartition(': ')[2]}**", "", "", "", ""]
        else:
            sent = [row["collectives"].get(kind) for kind in ("all-reduce", "all-gather", "reduce-scatter")]
            cells += [
                f"{row['minibatch']} ({row['minibatch_per_chip']:g})",
                gib(row["argument_bytes"]),
                gib(row["temporary_bytes"]),
                f"{gib(row['total_bytes'])} of {row['hbm_bytes'] // 2**30}{'' if row['fits'] else ', **too much**'}",
                *(f"{found['count']}, {gib(found['bytes'])}" if found else "" for found in sent),
                between(row),
            ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def between(row: dict) -> str:
    """What a chip hands over for the other slices, in MB."""
    found = row.get("between_slices", {})
    return "; ".join(f"{kind['count']}, {kind['bytes'] / 1e6:.1f} MB" for kind in found.values())


def setting(arguments: list[str]) -> tuple[str, str]:
    """The topology and the config of arguments of rxrx_jax.aot, as the tables show them."""
    topology, file, *changes = arguments
    shown = " ".join([file.partition("=")[2], *(change.removeprefix("--config.") for change in changes)])
    return topology.partition("=")[2], f"`{shown}`"


def gib(size: float) -> str:
    return f"{size / 2**30:.2f}"


# Whole runs.


def ways(records: dict) -> list[roofline.Way]:
    """The ways to read RxRx3, from measured figures."""
    whole, count = records["encodings"]["delta"], records["crops"]
    way = lambda name, f: roofline.Way(name, f["kB_per_image"] * 1e3, f["images_per_second_per_core"])  # noqa: E731
    return [
        *(way(f"`{name}` records, a crop of each", f) for name, f in records["encodings"].items()),
        roofline.Way(
            f"`delta` records, {count} crops of each", whole["MB"] * 1e6 / count, whole["several_per_second_per_core"]
        ),
        *(way(f"`delta` tiles of {side}, a crop of each", f) for side, f in records["tiles"].items()),
    ]


def plans(rows: list[dict], records: dict) -> list[dict]:
    """A dict for each of PLANNED: the step's parts in seconds, and a whole run for each way of reading."""
    found = []
    for arguments in PLANNED:
        (row,) = (row for row in rows if row["arguments"] == arguments.split() and not row["without"])
        values = values_of(arguments)
        described = data.describe(values["data"]["name"])
        lengths = {"minibatch": row["minibatch"], "examples": described.train_images}
        steps, remat = run_length(config.Config(values), **lengths), values["model"]["remat"]
        system = roofline.SYSTEMS[arguments.partition("=")[2].partition(":")[0]]
        parts = roofline.step_seconds(row, remat, system)
        found.append(
            {
                "arguments": row["arguments"],
                "system": system.name,
                "hosts": system.hosts,
                "minibatch": row["minibatch"],
                "total_bytes": row["total_bytes"],
                "hbm_bytes": row["hbm_bytes"],
                "collectives": row["collectives"],
                "total_steps": steps,
                "seconds": parts,
                "at_best_seconds": max(parts.values()),
                "expected_seconds": math.fsum(parts.values()),
                "ways": [{"way": way.name} | roofline.plan(row, remat, steps, way, system) for way in ways(records)],
            }
        )
    return found


def table_of_records(records: dict) -> list[str]:
    lines = [
        "| 2048-pixel sites | MB per site (measured) | TB of 2.2 million (computed) | kB read per crop (computed) "
        "| crops/s per core (measured) | bytes, over `delta` | crops/s, over `delta` | ms to read a site (measured) |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    whole = records["encodings"]["delta"]
    several = whole | {
        "kB_per_image": whole["kB_per_image"] / records["crops"],
        "images_per_second_per_core": whole["several_per_second_per_core"],
    }
    rows = {f"`{name}`, a crop of each": f for name, f in records["encodings"].items()}
    rows |= {f"`delta`, {records['crops']} crops of each": several}
    rows |= {f"`delta`, tiles of {side}": f for side, f in records["tiles"].items()}
    for name, f in rows.items():
        terabytes = f["MB"] * data.describe("rxrx3").train_images / 1e6
        rate, size = f["images_per_second_per_core"], f["kB_per_image"]
        over = f"1/{whole['kB_per_image'] / size:.1f}", f"{rate / whole['images_per_second_per_core']:.1f}"
        lines.append(
            f"| {name} | {f['MB']:.2f} | {terabytes:.1f} | {size:,.0f} | {rate:.1f} | {over[0]} | {over[1]} "
            f"| {f['read_ms']:.1f} |"
        )
    return lines


def table_of_steps(plans: list[dict]) -> list[str]:
    lines = [
        "| | config | images per step (compiled) | memory of the chip's, GiB (compiled) | collectives per step "
        "(compiled) | GB they handle (compiled) | compute s (computed) | memory s (computed) | network s (computed) "
        "| step s if all overlaps (computed) | step s, expected (computed) |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for plan in plans:
        sent = plan["collectives"].values()
        seconds = [*plan["seconds"].values(), plan["at_best_seconds"], plan["expected_seconds"]]
        cells = [
            plan["system"],
            setting(plan["arguments"])[1],
            f"{plan['minibatch']}",
            f"{gib(plan['total_bytes'])} of {plan['hbm_bytes'] // 2**30}",
            f"{sum(kind['count'] for kind in sent)}",
            f"{sum(kind['bytes'] for kind in sent) / 1e9:.2f}",
            *(f"{value:.4f}" for value in seconds),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def table_of_runs(plans: list[dict]) -> list[str]:
    lines = [
        "| | model | records | images/s per host (computed) | GB/s per host (computed) of (assumed) "
        "| GB/s in all (computed) | cores per host (computed) of (assumed) | step s (computed) | hours (computed) "
        "| bottleneck (computed) |",
        "|---|---|---|---:|---:|---:|---:|---:|---:|---|",
    ]
    for plan in plans:
        system = next(system for system in roofline.SYSTEMS.values() if system.name == plan["system"])
        variant = plan["arguments"][1].partition("variant=")[2]
        for way in plan["ways"]:
            rate = way["bytes_per_second"] / 1e9
            cells = [
                plan["system"],
                variant,
                way["way"],
                f"{way['images_per_second']:.0f}",
                f"{rate:.2f} of {system.network / 1e9:g}",
                f"{rate * plan['hosts']:.1f}",
                f"{way['cores']:.1f} of {system.cores}",
                f"{way['step_seconds']:.3f}",
                f"{way['hours']:.1f}",
                way["bottleneck"],
            ]
            lines.append("| " + " | ".join(cells) + " |")
    return lines


if __name__ == "__main__":
    main()
