"""Where a table stands: what of it is done and what the rest takes. It reads no data and trains nothing."""

import dataclasses
import functools
import json
import pathlib
import shlex
from collections.abc import Sequence

from rxrx_jax import tables
from rxrx_jax.base import lock
from rxrx_jax.evaluate import protocols
from rxrx_jax.report import columns, runs
from rxrx_jax.tables import Row, Run, Table
from rxrx_jax.training import describe, metrics

STATES = ("done", "stale", "running", "missing")
RATE = 100.0  # TFLOP/s per device, where no run here has measured it: an assumption, a tenth of an H200's bfloat16 peak
# Keys that leave a train step as it is: runs that differ in them alone are traced once, which may take a while.
SAME_STEP = {"seed": 0, "protocol": {"name": protocols.DEFAULT}, "evaluators": {}, "post_hoc": {}, "init": {"path": ""}}


@dataclasses.dataclass(frozen=True)
class Cost:
    """What the seeds of a run take together: FLOP of training, device hours as measured or estimated, those that are
    left, bytes of the checkpoints that are kept, and whether a run here has measured the rate."""

    flop: float
    hours: float
    left: float
    disk: int
    measured: bool


def state(run: Run, out: pathlib.Path, seed: int) -> str:
    """done, stale (done with other code, data or config), running, or missing."""
    if lock.holder(runs.workdir(run.name, out, seed)):
        return "running"
    if not runs.is_done(run, out, seed):
        return "missing"
    return "stale" if runs.stale(run, out, seed) else "done"


def cost(run: Run, out: pathlib.Path, seeds: Sequence[int], teraflops: float) -> Cost:
    """Args: teraflops, per second and device, which are assumed until a run here has measured them. Of a run that is
    not the trainer's nothing is known."""
    if run.module:
        return Cost(0.0, 0.0, 0.0, 0, False)
    values = runs.values(run, out, 0)
    found = _figures(json.dumps(values | SAME_STEP, sort_keys=True))
    flop = found.flops / found.steps * describe.steps(values)
    lines = [line for seed in seeds for line in _lines(run, out, seed)]
    rates = [line["teraflops_per_chip"] for line in lines if line.get("teraflops_per_chip")]
    each = flop / (rates[-1] if rates else teraflops) / 1e12 / 3600
    ends = {seed: _lines(run, out, seed)[-1] for seed in seeds if runs.is_done(run, out, seed)}
    spent = sum(map(columns.of_devices, ends.values()))
    left = each * (len(seeds) - len(ends))
    disk = len(seeds) * values["keep_checkpoints"] * found.state_bytes
    return Cost(len(seeds) * flop, spent + left, left, disk, bool(rates or ends))


@functools.cache
def _figures(values: str) -> describe.Figures:
    """By a config as JSON."""
    return describe.measure(json.loads(values))


def _lines(run: Run, out: pathlib.Path, seed: int) -> list[dict]:
    path = runs.workdir(run.name, out, seed) / metrics.NAME
    return metrics.read(path) if path.exists() else []


def text(table: Table, rows: Sequence[Row], out: pathlib.Path, seeds: Sequence[int], teraflops: float) -> str:
    """The state of these rows of a table and their cost, as Markdown."""
    costs = {run.name: cost(run, out, seeds, teraflops) for run in tables.chain(table, rows)}
    states = {run.name: [state(run, out, seed) for seed in seeds] for run in tables.chain(table, rows)}
    heads = ["row", *table.labels, "seeds", "state", "FLOP", "device hours", "of these left", "disk, GB"]
    lines = [heads, ["---:", *["---"] * len(table.labels), "---:", "---", *["---:"] * 4]]
    for number, row in enumerate(table.rows, 1):
        if row not in rows:
            continue
        needed = tables.chain(table, [row])
        if not needed:
            lines.append([str(number), *row.labels, "", "of others", "", "", "", ""])
            continue
        of = [state for run in needed for state in states[run.name]]
        counts = ", ".join(f"{of.count(name)} {name}" for name in STATES if name in of)
        said = of[0] if len(set(of)) == 1 else counts
        lines.append([str(number), *row.labels, str(len(seeds)), said, *_sum([costs[r.name] for r in needed])])
    lines.append(["", "all, each run once", *[""] * (len(table.labels) + 1), *_sum(list(costs.values()))])
    notes = [
        f"FLOP, hours and disk are of all seeds of a row's runs and of those that they start from. Device hours are of "
        f"training, at {teraflops:.0f} TFLOP/s per device, which is assumed; *: as measured here.",
        "Evaluation is not counted in FLOP and hours, prepared records not in disk, which is for checkpoints.",
    ]
    if others := dict.fromkeys(run.module for run in tables.chain(table, rows) if run.module):
        notes.append(f"What {', '.join(others)} takes is not counted: it trains nothing.")
    return "\n".join([f"| {' | '.join(cells)} |" for cells in lines] + ["", *notes])


def _sum(costs: list[Cost]) -> list[str]:
    flop, hours, left, disk = (sum(getattr(one, name) for one in costs) for name in ("flop", "hours", "left", "disk"))
    trained = [one for one in costs if one.flop]
    star = "*" * bool(trained and all(one.measured for one in trained))
    return [f"{flop:.2g}", f"{hours:.3g}{star}", f"{left:.3g}{star}", f"{disk / 1e9:.3g}"]


def launches(table: Table, rows: Sequence[Row], out: pathlib.Path, seeds: Sequence[int]) -> list[str]:
    """A command for each run of these rows that is missing, in an order in which each finds what it starts from."""
    found = []
    for run in tables.chain(table, rows):
        for seed in seeds:
            if state(run, out, seed) == "missing" and run.module:
                found.append(shlex.join(["python", *runs.command(run, out, seed)[1:]]))
            elif state(run, out, seed) == "missing":
                trainer = [a for a in runs.command(run, out, seed)[3:] if not a.startswith("--workdir=")]
                workdir = f"--workdir={runs.workdir(run.name, out, seed)}"
                found.append(f"python -m launch.host {shlex.join([workdir, '--', *trainer])}")
    return found
