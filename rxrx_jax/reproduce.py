"""`python -m rxrx_jax.reproduce TABLE --out=DIR [--rows=1,3] [--status] [--dry-run] ...`: from runs to a table.

TABLE is a file of `rxrx_jax/tables/`, or the path of a .py file like one. Every run is `python -m rxrx_jax.main` in a
process of its own; runs that are done are skipped, so an interrupted table resumes. Runs of other code, data or another
config are listed as stale but still printed; `--fresh` runs them again. `--rows` trains what these rows need alone; the
numbers of the others are printed if they are there. `--partial` accepts a dataset with other counts than a protocol's;
its rows are then named partial. `--worlds` names the seeds of simulated worlds. `--archive` keeps the numbers and
curves of finished runs in one file, from which the same command resumes on another machine. Writes DIR/table.md,
table.tex, table.csv, runs.md and report.html.

`--status` prints what is done, stale, running and missing, and what it takes; `--dry-run` prints the commands that
train what is missing on a machine with GPUs. Neither needs the data or trains anything.
"""

import argparse
import dataclasses
import pathlib
import sys
from collections.abc import Sequence

from rxrx_jax import tables
from rxrx_jax.base import command
from rxrx_jax.base.config import load
from rxrx_jax.base.errors import UserError
from rxrx_jax.base.page import figures
from rxrx_jax.evaluate import protocols
from rxrx_jax.report import runs, sources, status
from rxrx_jax.report import table as writers
from rxrx_jax.report.runs import archive


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m rxrx_jax.reproduce", description=__doc__.split("\n")[0])
    parser.add_argument("table", help=f"{', '.join(tables.names())}, or the path of a .py file")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder for runs, table and report")
    where = "folder that the table is of, as real_cells needs one; else where prepared datasets are"
    parser.add_argument("--data", type=pathlib.Path, help=where)
    parser.add_argument("--rows", help="numbers of the rows to train, as in 1,3; all if left out")
    parser.add_argument("--status", action="store_true", help="print what is done and what the rest takes")
    parser.add_argument("--dry-run", action="store_true", help="print the commands that train what is missing")
    rate = "TFLOP/s per device that --status assumes (default %(default).0f)"
    parser.add_argument("--teraflops", type=float, default=status.RATE, help=rate)
    parser.add_argument("--seeds", type=int, help="number of seeds, or of the table's simulated worlds")
    parser.add_argument("--worlds", type=_worlds, help="seeds of simulated worlds, as in 0,1, in place of the table's")
    kept = "file of finished runs' numbers, which is read and added to"
    parser.add_argument("--archive", type=pathlib.Path, metavar="FILE.jsonl", help=kept)
    parser.add_argument("--fresh", action="store_true", help="run stale runs again")
    parser.add_argument("--partial", action="store_true", help="accept other counts than a protocol's")
    jobs = runs.default_jobs()
    parser.add_argument("--jobs", type=int, default=jobs, help="runs at a time (default %(default)s here)")
    arguments = parser.parse_args(argv)
    if (arguments.seeds is not None and arguments.seeds < 1) or arguments.jobs < 1:
        parser.error("--seeds and --jobs must be at least 1")
    if arguments.teraflops <= 0:
        parser.error("--teraflops must be more than 0")
    if not arguments.status and not arguments.dry_run:
        given = arguments.seeds, arguments.jobs, arguments.fresh, arguments.partial, arguments.data, arguments.rows
        reproduce(arguments.table, arguments.out, *given, arguments.worlds, arguments.archive)
        return
    table = _table(arguments.table, arguments.data, arguments.partial)
    seeds, rows = table.choose(arguments.seeds, arguments.worlds), _rows(table, arguments.rows)
    if arguments.archive:
        todo = [(run, seed) for seed in seeds for run in tables.chain(table, rows)]
        archive.restore([(run, seed) for seed in seeds for run in table.runs], todo, arguments.out, arguments.archive)
    about = table, rows, arguments.out, seeds
    if arguments.status:
        print(status.text(*about, arguments.teraflops))
    if arguments.dry_run:
        print("\n".join(status.launches(*about)))


def reproduce(
    name: str,
    out: pathlib.Path,
    seeds: int | None = None,
    jobs: int = 1,
    fresh: bool = False,
    partial: bool = False,
    data: pathlib.Path | None = None,
    rows: str | None = None,
    worlds: Sequence[int] | None = None,
    kept: pathlib.Path | None = None,
) -> list[writers.Line]:
    """Runs what is missing of a table and writes its files into `out`.

    Args:
      name: of a file of rxrx_jax/tables/, or the path of one elsewhere.
      out: the folder of runs and files.
      seeds: how many, of simulated worlds the first ones; the table's own number if None.
      jobs: runs at a time.
      fresh: whether stale runs are removed and run again.
      partial: whether the counts of a run's dataset may differ from its protocol's.
      data: the folder that a table is of, where it is of one; else where its prepared datasets are.
      rows: numbers of the rows to train what is missing of, "1,3"; all if None.
      worlds: seeds of simulated worlds; the table's own if None.
      kept: an archive of finished runs (`report/runs/archive.py`), which is read and added to.

    Returns the rows. Raises UserError for a bad table and when a run fails.
    """
    figures.check()  # now, not hours later
    table = _table(name, data, partial)
    chosen = table.choose(seeds, worlds)
    needed = {run.name for run in tables.chain(table, _rows(table, rows))} if rows else {run.name for run in table.runs}
    out.mkdir(parents=True, exist_ok=True)
    every = [(run, seed) for seed in chosen for run in table.runs]
    todo = [(run, seed) for run, seed in every if run.name in needed]
    if fresh:
        runs.remove_stale(todo, out)
    if kept:
        archive.add(every, out, kept)
        archive.restore(every, todo, out, kept, fresh)
    if table.worlds:
        runs.prepare_worlds([(run, seed) for run, seed in todo if not runs.is_done(run, out, seed)], out)
    runs.run_missing(todo, out, jobs, lambda run, seed: archive.add([(run, seed)], out, kept) if kept else None)
    stale = runs.list_stale([(run, seed) for run in table.runs for seed in chosen], out)
    for line in stale:
        print(f"stale: {line}; --fresh runs it again", file=sys.stderr)

    lines = writers.measure(table, out, chosen)
    notes = [*writers.notes(table, lines, stale), sources.NOTE]
    given = " --data=DIR" if data else ""
    which = f"--seeds={len(chosen)}" if worlds is None else f"--worlds={','.join(map(str, chosen))}"
    line = f"python -m rxrx_jax.reproduce {name}{given} --out=DIR {which}{' --partial' * partial}"
    writers.write_csv(out / "table.csv", table, lines)
    (out / "table.md").write_text(writers.markdown(table, lines, notes, line), encoding="utf-8")
    (out / "table.tex").write_text(writers.latex(table, lines, notes, line), encoding="utf-8")
    (out / sources.NAME).write_text(sources.markdown(table, out, chosen), encoding="utf-8")

    from rxrx_jax.report.page import write_report  # Bokeh and scikit-learn, only now

    workdirs = {run.name: [runs.workdir(run.name, out, seed) for seed in chosen] for run in table.runs}
    write_report(out / "report.html", table, notes, lines, workdirs, line)
    print(f"wrote {out / 'table.md'}, table.tex, table.csv, {sources.NAME} and report.html")
    return lines


def _table(name: str, data: pathlib.Path | None, partial: bool) -> tables.Table:
    table = tables.load(name, data)
    return dataclasses.replace(table, runs=[_as_partial(run) for run in table.runs]) if partial else table


def _rows(table: tables.Table, chosen: str | None) -> list[tables.Row]:
    """The rows of these numbers from 1, "1,3"; all if None. Raises UserError for others."""
    if chosen is None:
        return list(table.rows)
    numbers = [text.strip() for text in chosen.split(",")]
    for text in numbers:
        if not text.isdecimal() or not 1 <= int(text) <= len(table.rows):
            raise UserError(f"--rows={chosen}: {text!r} is not one of the numbers 1 to {len(table.rows)} of its rows")
    return [table.rows[number - 1] for number in sorted({int(text) for text in numbers})]


def _worlds(text: str) -> tuple[int, ...]:
    """Of "0,1"."""
    if not all(part.strip().isdecimal() for part in text.split(",")):
        raise argparse.ArgumentTypeError(f"{text!r} is not made of seeds and commas, as 0,1 is")
    return tuple(map(int, text.split(",")))


def _as_partial(run: tables.Run) -> tables.Run:
    """The run under its protocol with other counts allowed; one that has no protocol as it is."""
    if run.module:
        return run
    name = run.overrides.get("protocol.name") or load(run.seeded(0))["protocol"]["name"]
    return dataclasses.replace(run, overrides=run.overrides | {"protocol.name": protocols.as_partial(name)})


if __name__ == "__main__":
    sys.exit(command.run(main))
