"""runs.md: from the numbers of a table to the runs that they are of."""

import os
import pathlib
from collections.abc import Sequence

from rxrx_jax.report import runs
from rxrx_jax.tables import Table
from rxrx_jax.training import metrics

NAME = "runs.md"
NOTE = f"{NAME} beside this file links each row to its workdirs, configs and checkpoints, with their data and code."


ARCHIVED = "elsewhere"  # of a run that an archive holds


def markdown(table: Table, out: pathlib.Path, seeds: Sequence[int]) -> str:
    """A line for each finished run: the rows that show its numbers, and links to its workdir, config and checkpoint
    below `out`, with the parameters' digest, the data's fingerprint and manifest, code and device."""
    heads = "rows, run, starts from, seed, workdir, config, checkpoint, parameters, data, code, device".split(", ")
    lines = [heads, ["---"] * len(heads)]
    for run in table.runs:
        rows = ", ".join(str(i) for i, row in enumerate(table.rows, 1) if run.name in row.runs)
        for seed in seeds:
            folder = runs.workdir(run.name, out, seed)
            if not (last := metrics.finished(folder / metrics.NAME)):
                continue
            link = lambda name, path: f"[{name}](<{os.path.relpath(path, out)}>)"  # noqa: E731
            step = f"checkpoints/{last['step']}"
            there = (folder / "checkpoints").is_dir()
            checkpoint = "" if run.module else link(step, folder / step) if there else ARCHIVED
            lines.append([
                rows, run.name, run.starts_from or "", str(seed), link(folder.name, folder),
                link("config.json", folder / "config.json"), checkpoint,
                last.get("parameters_sha256", "")[:12], *(last.get(k, "unknown") for k in ("data", "code", "device")),
            ])  # fmt: skip
    return "\n".join([f"# {table.title}: runs", "", *(f"| {' | '.join(cells)} |" for cells in lines)]) + "\n"
