"""What the train step needs on TPU slices, as the TPU's compiler says (rxrx_jax/aot.py): compiled, not run.

    pip install -e '.[tpu]' && python benchmarks/scale.py

Compiles every ROW, a minute or more each, writes docs/aot.json, one object a row, and prints the table of
docs/scale.md. Rows that are there already are kept: delete the file to begin anew.
"""

import ast
import contextlib
import json
import pathlib

from rxrx_jax import aot, config
from rxrx_jax.errors import UserError
from rxrx_jax.models import attention, vit

OUT = pathlib.Path(__file__).resolve().parent.parent / "docs" / "aot.json"
S16 = "--topology=v5e:16x16 --config=mae_vit.py:rxrx1,variant=S/16 --config.mesh.fsdp=16"
L8 = "--topology=v6e:16x16 --config=mae_vit.py:rxrx3,variant=L/8 --config.mesh.fsdp=16 --config.model.remat=full"
ROWS = [  # arguments of rxrx_jax.aot, and what is taken away
    ("--topology=v5e:4x4 --config=mae_vit.py:rxrx1,variant=S/16 --config.accumulate=4", ""),
    (S16, ""),
    (S16, "constraint"),
    ("--topology=v5e:16x16 --config=mae_vit.py:rxrx1,variant=B/8", ""),
    (L8, ""),
]


def without(what: str):
    """The code as it is, less one thing: what is that good for?"""
    if what == "fused attention":
        return attention.unfused()
    stack = contextlib.ExitStack()
    if what == "constraint":
        stack.callback(setattr, vit, "constrain_tokens", vit.constrain_tokens)
        vit.constrain_tokens = lambda x: x
    return stack


def measure(arguments: str, what: str) -> dict:
    topology, file, *changes = (argument.partition("=")[2] for argument in arguments.split())
    values = config.load(file)
    for name, value in zip((argument.partition("=")[0] for argument in arguments.split()[2:]), changes):
        *parents, last = name.removeprefix("--config.").split(".")
        node = values
        for parent in parents:
            node = node[parent]
        node[last] = value if isinstance(node[last], str) else ast.literal_eval(value)
    try:
        with without(what):
            found = aot.compile_step(values, aot.devices(topology))
    except UserError as e:
        found = {"fits": False, "error": str(e)}
    return {"arguments": arguments.split(), "without": what} | found


def done(rows: list[dict], arguments: str, what: str) -> bool:
    return any((row["arguments"], row["without"]) == (arguments.split(), what) for row in rows)


def main() -> None:
    rows = json.loads(OUT.read_text()) if OUT.exists() else []
    for row in ROWS:
        if not done(rows, *row):
            rows.append(measure(*row))
            OUT.write_text(json.dumps(rows, indent=1) + "\n")
    print("\n".join(table(rows)))


def table(rows: list[dict]) -> list[str]:
    """The lines of the table in docs/scale.md."""
    lines = [
        "| slice | config | without | images a step (a chip) | arguments | temporaries | memory of the chip's "
        "| all-reduce | all-gather | reduce-scatter |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    gib = lambda size: f"{size / 2**30:.2f}"  # noqa: E731
    for row in rows:
        topology, file, *changes = row["arguments"]
        setting = " ".join([file.partition("=")[2], *(change.removeprefix("--config.") for change in changes)])
        cells = [topology.partition("=")[2], f"`{setting}`", row["without"]]
        if "error" in row:
            cells += ["", "", "", f"**{row['error'].rpartition(': ')[2]}**", "", "", ""]
        else:
            sent = [row["collectives"].get(kind) for kind in ("all-reduce", "all-gather", "reduce-scatter")]
            cells += [
                f"{row['minibatch']} ({row['minibatch_per_chip']:g})",
                gib(row["argument_bytes"]),
                gib(row["temporary_bytes"]),
                f"{gib(row['total_bytes'])} of {row['hbm_bytes'] // 2**30}{'' if row['fits'] else ', **too much**'}",
                *(f"{found['count']}, {gib(found['bytes'])}" if found else "" for found in sent),
            ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


if __name__ == "__main__":
    main()
