"""One file of a table's finished runs, by which it resumes on a machine that has none of their workdirs.

Each line is the JSON of a run and seed: {"run", "seed", "config": its config.json, "metrics": the lines of its
metrics.jsonl}, of which the training lines are thinned to a curve of POINTS. A run that is here gets a workdir of these
two files, so that whatever reads runs reads it from one place; it has no checkpoint, and is trained again where a run
that is still to be trained starts from it.
"""

import json
import pathlib
import shutil
from collections.abc import Sequence

import numpy as np

from rxrx_jax.base import files
from rxrx_jax.base.errors import UserError
from rxrx_jax.report import runs
from rxrx_jax.tables import Run
from rxrx_jax.training import metrics

POINTS = 60  # of a curve
LAST = 12  # training lines at the end, all of which stay: a table's training accuracy is of the last ones
KEYS = {"run": str, "seed": int, "config": dict, "metrics": list}
# Of training lines, what is drawn or printed; the rest is of the machine.
DRAWN = ("step", "loss", "class_loss", "accuracy", "domain_accuracy", "train_seconds", "teraflops_per_chip")
Job = tuple[Run, int]


def read(path: pathlib.Path) -> dict[tuple[str, int], dict]:
    """The lines of an archive by run and seed; {} where there is none. Raises UserError naming a damaged line."""
    if not path.exists():
        return {}
    found = {}
    with files.reading(path, "put back a copy of it") as file:
        for number, line in enumerate(file.read().decode(errors="replace").splitlines(), 1):
            try:
                entry = json.loads(line)
                fits = all(type(entry[key]) is kind for key, kind in KEYS.items())
            except (ValueError, KeyError, TypeError, RecursionError):
                fits = False
            if not fits:
                raise UserError(
                    f"{path}:{number} is not a run of an archive; it was edited or damaged: put back a copy"
                )
            found[entry["run"], entry["seed"]] = entry
    return found


def add(jobs: Sequence[Job], out: pathlib.Path, path: pathlib.Path) -> None:
    """Writes these runs, of those that are finished in `out`, in place of what the archive has of the same name and
    seed; it is sorted, and left alone where nothing changes."""
    before = read(path)
    now = before | {(run.name, seed): _entry(run, out, seed) for run, seed in jobs if runs.is_done(run, out, seed)}
    if now != before:
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = (json.dumps(now[key], sort_keys=True) for key in sorted(now))
        files.write(path, "".join(f"{line}\n" for line in lines))


def restore(
    every: Sequence[Job], todo: Sequence[Job], out: pathlib.Path, path: pathlib.Path, fresh: bool = False
) -> None:
    """Gives the runs of the archive whose config is today's and of which nothing is in `out` their workdirs.

    Args: every, the runs of the table; todo, those of them that are to be trained where they are not finished, whose
    starts need checkpoints; fresh, whether runs of other code are left out.
    """
    archived = read(path)
    kept = {
        (run.name, seed): entry
        for run, seed in every
        if (entry := archived.get((run.name, seed)))
        and not runs.workdir(run.name, out, seed).exists()
        and not runs.changed(run, out, seed, entry["config"])
        and not (fresh and runs.other_code(entry["config"]))
    }
    wanted = {(run.name, seed): run for run, seed in todo}
    done = {(run.name, seed) for run, seed in every if runs.is_done(run, out, seed)} | kept.keys()
    waiting = [key for key in wanted if key not in done]
    while waiting:
        name, seed = waiting.pop()
        start = wanted[name, seed].starts_from, seed
        folder = runs.workdir(str(start[0]), out, seed)
        if start in done and start in wanted and not (folder / "checkpoints").is_dir():
            done.discard(start)
            kept.pop(start, None)
            waiting.append(start)
            shutil.rmtree(folder, ignore_errors=True)  # what an archive had given it
            print(f"{start[0]} seed {seed} is run again: {name} starts from its checkpoint", flush=True)
    for (name, seed), entry in kept.items():
        folder = runs.workdir(name, out, seed)
        folder.mkdir(parents=True)
        files.write(folder / "config.json", runs.to_json(entry["config"]))
        files.write(folder / metrics.NAME, "".join(json.dumps(line) + "\n" for line in entry["metrics"]))


def _entry(run: Run, out: pathlib.Path, seed: int) -> dict:
    folder = runs.workdir(run.name, out, seed)
    config = files.read_json(folder / "config.json", "put back a copy of it")
    if isinstance(config.get("init"), dict):  # where the run before lay
        start = runs.workdir(run.starts_from, pathlib.Path(), seed) if run.starts_from else config["init"].get("path")
        config["init"]["path"] = str(start or "")
    if isinstance(config.get("data"), dict) and config["data"].get("folder"):
        config["data"]["folder"] = None
        config["data"].pop("cache", None)
    entry = {"run": run.name, "seed": seed, "config": config, "metrics": thinned(metrics.read(folder / metrics.NAME))}
    return json.loads(json.dumps(entry))


def thinned(lines: list[dict]) -> list[dict]:
    """The lines of a metrics.jsonl with at most POINTS training lines, evenly chosen, the last LAST among them."""
    training = [i for i, line in enumerate(lines) if line.get("loss") is not None]
    early = training[:-LAST]
    if len(training) > POINTS:
        early = [early[i] for i in np.unique(np.linspace(0, len(early) - 1, POINTS - LAST).astype(int))]
    left_out = set(training) - {*early, *training[-LAST:]}
    kept = [line for i, line in enumerate(lines) if i not in left_out]
    return [{k: v for k, v in x.items() if x.get("loss") is None or k in DRAWN} for x in kept]
