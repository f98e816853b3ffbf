"""`python -m rxrx_jax.reproduce TABLE --out=DIR [--data=DIR] [--seeds=N] [--fresh] [--partial]`: from runs to a table.

TABLE is a file of `rxrx_jax/tables/`, or the path of a .py file like one. Every run is `python -m rxrx_jax.main` in a
process of its own; runs that are done are skipped, so an interrupted table resumes. Runs of other code, data or another
config are listed as stale but still printed; `--fresh` runs them again. `--partial` accepts a dataset with other counts
than a protocol's; its rows are then named partial. Writes DIR/table.md, table.tex, table.csv and report.html.
"""

import argparse
import dataclasses
import importlib.util
import pathlib
import sys

from rxrx_jax import tables
from rxrx_jax.base import command
from rxrx_jax.base.config import load
from rxrx_jax.base.errors import missing_extra
from rxrx_jax.evaluate import protocols
from rxrx_jax.report import runs
from rxrx_jax.report import table as writers


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m rxrx_jax.reproduce", description=__doc__.split("\n")[0])
    parser.add_argument("table", help=f"{', '.join(tables.names())}, or the path of a .py file")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder for runs, table and report")
    parser.add_argument("--data", type=pathlib.Path, help="folder that the table is of, as real_cells needs one")
    parser.add_argument("--seeds", type=int, help="number of seeds, a world each where they are simulated")
    parser.add_argument("--fresh", action="store_true", help="run stale runs again")
    parser.add_argument("--partial", action="store_true", help="accept other counts than a protocol's")
    jobs = runs.default_jobs()
    parser.add_argument("--jobs", type=int, default=jobs, help="runs at a time (default %(default)s here)")
    arguments = parser.parse_args(argv)
    if (arguments.seeds is not None and arguments.seeds < 1) or arguments.jobs < 1:
        parser.error("--seeds and --jobs must be at least 1")
    given = arguments.seeds, arguments.jobs, arguments.fresh, arguments.partial, arguments.data
    reproduce(arguments.table, arguments.out, *given)


def reproduce(
    name: str,
    out: pathlib.Path,
    seeds: int | None = None,
    jobs: int = 1,
    fresh: bool = False,
    partial: bool = False,
    data: pathlib.Path | None = None,
) -> list[writers.Line]:
    """Runs what is missing of a table and writes its files into `out`.

    Args:
      name: of a file of rxrx_jax/tables/, or the path of one elsewhere.
      out: the folder of runs and files.
      seeds: how many; the table's own number if None.
      jobs: runs at a time.
      fresh: whether stale runs are removed and run again.
      partial: whether the counts of a run's dataset may differ from its protocol's.
      data: the folder that a table is of, where it is of one.

    Returns the rows. Raises UserError for a bad table and when a run fails.
    """
    if importlib.util.find_spec("matplotlib") is None:  # checked now, not hours later when it draws
        raise missing_extra("matplotlib", "report")
    table = tables.load(name, data)
    if partial:
        table = dataclasses.replace(table, runs=[_as_partial(run) for run in table.runs])
    seeds = seeds or max(table.worlds, table.seeds)
    out.mkdir(parents=True, exist_ok=True)
    table.prepare(range(seeds))
    todo = [(run, seed) for seed in range(seeds) for run in table.runs]
    if fresh:
        runs.remove_stale(todo, out)
    runs.run_missing(todo, out, jobs)
    stale = runs.list_stale(todo, out)
    for line in stale:
        print(f"stale: {line}; --fresh runs it again", file=sys.stderr)

    lines = writers.measure(table, out, seeds)
    notes = writers.notes(table, lines, stale)
    given = " --data=DIR" if data else ""
    line = f"python -m rxrx_jax.reproduce {name}{given} --out=DIR --seeds={seeds}{' --partial' * partial}"
    writers.write_csv(out / "table.csv", table, lines)
    (out / "table.md").write_text(writers.markdown(table, lines, notes, line), encoding="utf-8")
    (out / "table.tex").write_text(writers.latex(table, lines, notes, line), encoding="utf-8")

    from rxrx_jax.report.page import write_report  # matplotlib and scikit-learn, only now

    workdirs = {run.name: [runs.workdir(run.name, out, seed) for seed in range(seeds)] for run in table.runs}
    write_report(out / "report.html", table, notes, lines, workdirs, line)
    print(f"wrote {out / 'table.md'}, table.tex, table.csv and report.html")
    return lines


def _as_partial(run: tables.Run) -> tables.Run:
    """The run under its protocol with other counts allowed."""
    name = run.overrides.get("protocol.name") or load(run.seeded(0))["protocol"]["name"]
    return dataclasses.replace(run, overrides=run.overrides | {"protocol.name": protocols.as_partial(name)})


if __name__ == "__main__":
    sys.exit(command.run(main))
