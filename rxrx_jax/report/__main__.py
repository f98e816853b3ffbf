"""`python -m rxrx_jax.report RUN [--out=FILE]`: the page of one run, RUN/report.html unless --out says otherwise."""

import argparse
import pathlib
import sys

from rxrx_jax.base import command
from rxrx_jax.base.errors import UserError
from rxrx_jax.data import ROLES
from rxrx_jax.report import columns, records
from rxrx_jax.report import table as tables
from rxrx_jax.report.columns import Found
from rxrx_jax.report.page import write_report
from rxrx_jax.report.table import Line
from rxrx_jax.tables import Column, Row, Run, Table

COLUMNS = (
    Column("marks", summary=columns.marks),
    Column("in-batch", "in_batch/site_accuracy", columns.mean, strip="in"),
    Column("in-batch wells", "in_batch_wells/site_accuracy", columns.mean),
    Column("validation", "validation/site_accuracy", columns.mean),
    Column("cross-batch", "cross_batch/site_accuracy", columns.mean, strip="cross"),
    Column("95 % interval", "cross_batch/site_accuracy", columns.interval, strip="interval"),
    Column("cross-batch, by well", "cross_batch/well_accuracy", columns.mean),
    Column("public leaderboard", "public/site_accuracy", columns.mean),
    Column("private leaderboard", "private/site_accuracy", columns.mean),
    Column("training", "accuracy", columns.training_accuracy, ".2f"),
    Column("leakage, experiment", "leakage/experiment_accuracy", columns.above("leakage/experiment_floor"), ".2f"),
    Column("leakage, plate", "leakage/plate_accuracy", columns.above("leakage/plate_floor"), ".2f"),
)


def write(workdir: pathlib.Path, path: pathlib.Path) -> None:
    """Writes the page of one run to `path`; a row for each way in which its network was read."""
    workdir, seed = pathlib.Path(workdir), records.read_seed(pathlib.Path(workdir))
    name = workdir.resolve().name
    endings = [f"{role}/site_accuracy" for role in ROLES]
    prefixes = [key.removesuffix(end) for key in seed.final for end in endings if key.endswith(end)]
    lines = []
    for n, prefix in enumerate(dict.fromkeys(["", *prefixes] if seed.final else []), 1):
        row = Row((prefix.rstrip("/") or "as it was trained",), name, prefix)
        found = Found(row, [[seed.final | seed.done]], [seed.training], [], simulated=False)
        cells = [columns.with_marks(column.summary(found, column), found, column) for column in COLUMNS]
        ended = columns.trained_to(found), columns.fits(found)
        lines.append(Line(n, row, 1, columns.seen(found), cells, *ended, left_out=tuple(tables.left_out(found))))
    used = [i for i in range(len(COLUMNS)) if any(line.cells[i].text for line in lines)]
    for line in lines:
        line.cells[:] = [line.cells[i] for i in used]
    rows = [line.row for line in lines]
    simulated = seed.config.get("data", {}).get("name") == "rxrx_sim"
    notes = ["SIMULATED data (rxrx_sim). No number here is a claim about real RxRx images."] * simulated
    table = Table(title=f"Run {name}", labels=("read",), columns=[COLUMNS[i] for i in used], rows=rows,
                  runs=[Run(name, "")])  # fmt: skip
    notes += tables.notes(table, lines, [])
    write_report(path, table, notes, lines, {name: [workdir]}, "python -m rxrx_jax.report RUN")


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m rxrx_jax.report", description=__doc__)
    parser.add_argument("run", type=pathlib.Path, help="workdir of a run")
    parser.add_argument("--out", type=pathlib.Path, help="file to write; RUN/report.html by default")
    arguments = parser.parse_args(argv)
    if not (arguments.run / "config.json").exists():
        raise UserError(f"{arguments.run} is not the workdir of a run: it has no config.json")
    out = arguments.out or arguments.run / "report.html"
    write(arguments.run, out)
    print(f"wrote {out}")


if __name__ == "__main__":
    sys.exit(command.run(main))
