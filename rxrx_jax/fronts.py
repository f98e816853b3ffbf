"""The page of what a run of `mogfn.py`, or a search of the tables mogfn, has generated: its Pareto fronts, with sliders
over preferences, and molecules drawn.

    python -m rxrx_jax.fronts runs/mogfn [--out=page.html]
"""

import argparse
import pathlib
import sys

from rxrx_jax.base import command, files
from rxrx_jax.base.errors import UserError

NAME, AGAIN = "page.html", "run its evaluation again"
ON_SMILES = ("fragments", "map")


def make(workdir: pathlib.Path, out: pathlib.Path) -> None:
    """Args: out, the file to write. Raises UserError where the run is not one that generates, or not yet evaluated."""
    from rxrx_jax.evaluate.pareto import SAMPLES
    from rxrx_jax.generate.show import page
    from rxrx_jax.training import metrics

    if not (workdir / "config.json").exists():
        raise UserError(f"{workdir} is not the workdir of a run: it has no config.json")
    config = files.read_json(workdir / "config.json", "put back a copy of it")
    task = config.get("stage", config).get("task", {})
    if "objectives" not in task:
        raise UserError(f"{workdir} is of task.name={task.get('name', 'unknown')}, which generates nothing: give a run "
                        "of mogfn.py")  # fmt: skip
    if not (workdir / SAMPLES).exists():
        raise UserError(f"{workdir} has no {SAMPLES}: the run is not evaluated yet, or was by an older version")
    found = files.read_json(workdir / SAMPLES, AGAIN)
    lines = [line for line in metrics.read(workdir / metrics.NAME) if line.get("final")]
    last = {k: v for line in lines for k, v in line.items() if isinstance(v, float)}
    page.write(
        out,
        f"Generated: {workdir.resolve().name}",
        *(found[key] for key in ("objectives", "front", "preferences")),
        last,
        task["environment"] in ON_SMILES,
        f"python -m rxrx_jax.fronts {workdir.name}",
    )


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m rxrx_jax.fronts", description=__doc__.split("\n\n")[0])
    parser.add_argument("workdir", type=pathlib.Path, help="of a run of mogfn.py")
    parser.add_argument("--out", type=pathlib.Path, metavar="FILE", help=f"the page; default WORKDIR/{NAME}")
    flags = parser.parse_args(argv)
    out = flags.out or flags.workdir / NAME
    make(flags.workdir, out)
    print(f"wrote {out}")


if __name__ == "__main__":
    sys.exit(command.run(main))
