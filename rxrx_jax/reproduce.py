"""`python -m rxrx_jax.reproduce TABLE --out=DIR [--seeds=N]`: from runs to a table in one command.

A table is a file of `rxrx_jax/tables/` with RUNS (what to train) and ROWS (what to print of it). Every run is
`python -m rxrx_jax.main` in a process of its own; runs that are done are skipped, so an interrupted table continues.
Writes DIR/table.md, table.csv and report.html; each seed is a world of its own where the data is simulated.
"""

import argparse
import contextlib
import csv
import dataclasses
import importlib
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import time

import numpy as np

from rxrx_jax.base.config import load, to_json
from rxrx_jax.base.cores import cores
from rxrx_jax.base.errors import UserError
from rxrx_jax.evaluate.accuracy import confidence_interval
from rxrx_jax.report.records import by_experiment
from rxrx_jax.training import metrics
from rxrx_jax.training.provenance.marks import join

COLUMNS = (
    "row", "method", "normalisation", "layout", "marks", "seeds", "in_batch", "cross_batch", "ci_low", "ci_high",
    "cpu_seconds", "in_batch_sd", "cross_batch_sd", "validation", "cross_batch_well", "leakage", "run", "prefix",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Run:
    """One training run: a name, the --config argument (without seed), and the run whose encoder it starts from."""

    name: str
    config: str
    starts_from: str | None = None

    def workdir(self, out: pathlib.Path, seed: int) -> pathlib.Path:
        return out / "runs" / f"{self.name}-seed{seed}"

    def seeded(self, seed: int) -> str:
        return f"{self.config}{',' if ':' in self.config else ':'}seed={seed}"

    def command(self, out: pathlib.Path, seed: int) -> list[str]:
        command = [sys.executable, "-m", "rxrx_jax.main", f"--config={self.seeded(seed)}"]
        command.append(f"--workdir={self.workdir(out, seed)}")
        if self.starts_from:
            command.append(f"--config.init.path={dataclasses.replace(self, name=self.starts_from).workdir(out, seed)}")
        return command

    def is_done(self, out: pathlib.Path, seed: int) -> bool:
        """Whether the run is finished. Raises UserError when it was finished with another config than today's."""
        workdir = self.workdir(out, seed)
        if not metrics.finished(workdir / "metrics.jsonl"):
            return False
        config = json.loads(to_json(load(self.seeded(seed))))
        stored = json.loads((workdir / "config.json").read_text())
        for changing in ("resolved", "init"):  # derived, and a path that moves with the folder
            stored.pop(changing, None)
            config.pop(changing, None)
        if stored != config:
            raise UserError(
                f"{workdir} was made with another config than {self.config} is now; delete it and run again"
            )
        return True


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of a table: which run, and the prefix of the metrics that are its numbers."""

    method: str
    normalisation: str
    layout: str
    run: str
    prefix: str = ""


def main(argv=None) -> None:
    parser = argparse.ArgumentParser(prog="python -m rxrx_jax.reproduce", description=__doc__.split("\n")[0])
    tables = sorted(p.stem for p in (pathlib.Path(__file__).parent / "tables").glob("[a-z]*.py"))
    parser.add_argument("table", choices=tables)
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder for runs, table and report")
    parser.add_argument("--seeds", type=int, default=1, help="number of seeds (default 1)")
    parser.add_argument("--jobs", type=int, default=default_jobs(), help="runs at a time (default %(default)s here)")
    arguments = parser.parse_args(argv)
    if arguments.seeds < 1 or arguments.jobs < 1:
        parser.error("--seeds and --jobs must be at least 1")
    try:
        reproduce(arguments.table, arguments.out, arguments.seeds, arguments.jobs)
    except UserError as e:
        print(f"error: {e}", file=sys.stderr)
        sys.exit(2)


def reproduce(table: str, out: pathlib.Path, seeds: int, jobs: int) -> list[dict]:
    """Runs what is missing of a table and writes its files into `out`. Returns the rows."""
    module = importlib.import_module(f"rxrx_jax.tables.{table}")
    out.mkdir(parents=True, exist_ok=True)
    module.prepare(range(seeds))
    run_missing([(run, seed) for seed in range(seeds) for run in module.RUNS], out, jobs)
    rows = [measure(i, row, module.RUNS, out, seeds) for i, row in enumerate(module.ROWS, 1)]
    command = f"python -m rxrx_jax.reproduce {table} --out=DIR --seeds={seeds}"
    write_csv(out / "table.csv", rows)
    (out / "table.md").write_text(markdown(rows, module.TITLE, module.NOTES, command))

    from rxrx_jax.report.page import write_report  # matplotlib and scikit-learn, only now

    workdirs = {run.name: [run.workdir(out, s) for s in range(seeds)] for run in module.RUNS}
    perturbations = {run.name: module.perturbations(run) for run in module.RUNS}
    write_report(out / "report.html", module.TITLE, module.NOTES, rows, workdirs, command, perturbations)
    print(f"wrote {out / 'table.md'}, table.csv and report.html")
    return rows


def default_jobs() -> int:
    """A core a run on a machine without accelerator, which together are faster than all cores for each run in turn;
    one run at a time where jax has a GPU or TPU plugin."""
    plugins = ("jax_cuda12_plugin", "jax_cuda13_plugin", "jax_rocm7_plugin", "libtpu")
    if any(importlib.util.find_spec(name) for name in plugins):
        return 1
    return len(cores())


def run_missing(todo: list[tuple[Run, int]], out: pathlib.Path, jobs: int) -> None:
    """Runs every (run, seed) that is not finished, `jobs` at a time, each after the run that it starts from.

    Raises UserError naming the log of the first run that fails, after those under way have ended.
    """
    waiting = [(run, seed) for run, seed in todo if not run.is_done(out, seed)]
    print(f"{len(todo) - len(waiting)} runs are done, {len(waiting)} to do, {jobs} at a time", flush=True)
    total, active, failed, begin = len(waiting), {}, None, time.time()
    numbers = cores()
    # Runs of one table share most of their compiled programs.
    compiled = str(out.absolute() / "compiled")
    cache = {"JAX_COMPILATION_CACHE_DIR": compiled, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    while active or (waiting and not failed):
        unfinished = {(run.name, seed) for run, seed in waiting} | {job[:2] for job in active.values()}
        ready = [job for job in waiting if (job[0].starts_from, job[1]) not in unfinished]
        while ready and len(active) < jobs and not failed:
            slot = next(i for i in range(jobs) if i not in active)
            run, seed = ready.pop(0)
            waiting.remove((run, seed))
            log = run.workdir(out, seed).with_suffix(".log")
            log.parent.mkdir(parents=True, exist_ok=True)
            share = numbers[slot::jobs] if hasattr(os, "sched_setaffinity") and jobs <= len(numbers) else None
            with open(log, "w") as stream:
                process = subprocess.Popen(
                    run.command(out, seed),
                    stdout=stream,
                    stderr=subprocess.STDOUT,
                    env=cache | os.environ,
                )
            if share:  # long before it starts threads of its own
                with contextlib.suppress(ProcessLookupError):
                    os.sched_setaffinity(process.pid, share)
            active[slot] = (run.name, seed, process, log)
        time.sleep(0.2)
        for slot, (name, seed, process, log) in list(active.items()):
            if process.poll() is None:
                continue
            del active[slot]
            if process.returncode:
                failed = failed or (name, seed, log)
            left = len(waiting) + len(active)
            state = "FAILED" if process.returncode else "done"
            print(f"[{time.time() - begin:5.0f} s] {name} seed {seed} {state}, {left} of {total} left", flush=True)
    if failed:
        name, seed, log = failed
        last = log.read_text().strip().rpartition("\n")[2]
        raise UserError(f"run {name} with seed {seed} failed: {last} (all of it in {log})")


def measure(number: int, row: Row, runs: tuple[Run, ...], out: pathlib.Path, seeds: int) -> dict:
    """The numbers of one row: means over seeds, their standard deviation, and a confidence interval of the cross-batch
    accuracy over all held-out experiments of all seeds (each seed is a world with experiments of its own)."""
    by_name = {run.name: run for run in runs}
    found, cpu, marks = [], [], ""
    for seed in range(seeds):
        records = metrics.read(by_name[row.run].workdir(out, seed) / "metrics.jsonl")
        found.append(next(r for r in reversed(records) if r.get("final")))
        marks = join(marks, found[-1].get(f"marks/{row.prefix}cross_batch", "?"))
        chain, seconds = row.run, 0.0
        while chain:
            seconds += metrics.finished(by_name[chain].workdir(out, seed) / "metrics.jsonl")["cpu_seconds"]
            chain = by_name[chain].starts_from
        cpu.append(seconds)

    def over_seeds(key, function=np.mean):
        values = [f[key] for f in found if f.get(key) is not None]
        return float(function(values)) if len(values) == seeds else None

    accuracy = f"{row.prefix}cross_batch/site_accuracy"
    if over_seeds(accuracy) is None:
        raise UserError(f"table row {row.method}: run {row.run} has no metric {accuracy}")
    units = [v for f in found for v in by_experiment(f, f"{row.prefix}cross_batch").values()]
    low, high = confidence_interval(units)
    deviation = (lambda key: over_seeds(key, lambda v: np.std(v, ddof=1))) if seeds > 1 else (lambda key: None)
    return {
        "row": number,
        "method": row.method,
        "normalisation": row.normalisation,
        "layout": row.layout,
        "marks": marks,
        "seeds": seeds,
        "in_batch": over_seeds(f"{row.prefix}in_batch/site_accuracy"),
        "cross_batch": over_seeds(accuracy),
        "ci_low": low,
        "ci_high": high,
        "cpu_seconds": float(np.mean(cpu)),
        "in_batch_sd": deviation(f"{row.prefix}in_batch/site_accuracy"),
        "cross_batch_sd": deviation(accuracy),
        "validation": over_seeds(f"{row.prefix}validation/site_accuracy"),
        "cross_batch_well": over_seeds(f"{row.prefix}cross_batch/well_accuracy"),
        "leakage": None if "/" in row.prefix else over_seeds("leakage/experiment_accuracy"),
        "run": row.run,
        "prefix": row.prefix,
    }


def write_csv(path: pathlib.Path, rows: list[dict]) -> None:
    with open(path, "w", newline="") as f:
        writer = csv.DictWriter(f, COLUMNS)
        writer.writeheader()
        for row in rows:
            writer.writerow(row)  # None becomes an empty field, numbers keep all their digits


def markdown(rows: list[dict], title: str, notes: list[str], command: str) -> str:
    """The table as Markdown: accuracies with three digits, spread over seeds as ±, and each row's marks."""

    def accuracy(row, key):
        spread = f" ± {row[f'{key}_sd']:.3f}" if row[f"{key}_sd"] is not None else ""
        return f"{row[key]:.3f}{spread}"

    lines = [f"# {title}", "", *(f"- {note}" for note in notes), "", f"Made by `{command}`.", ""]
    lines.append("| row | method | normalisation | layout | marks | in-batch | cross-batch | 95 % interval | CPU s |")
    lines.append("| ---: | --- | --- | --- | --- | --- | --- | --- | ---: |")
    for r in rows:
        lines.append(
            f"| {r['row']} | {r['method']} | {r['normalisation']} | {r['layout']} "
            f"| {r['marks']} | {accuracy(r, 'in_batch')} "
            f"| {accuracy(r, 'cross_batch')} | {r['ci_low']:.3f} to {r['ci_high']:.3f} | {r['cpu_seconds']:.0f} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
