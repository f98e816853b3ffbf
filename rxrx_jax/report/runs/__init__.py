"""Training runs of a table: where they are, which are missing or stale, and running those, several at a time."""

import contextlib
import functools
import importlib.util
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time
import types
from collections.abc import Callable

from rxrx_jax import data
from rxrx_jax.base import config_flag
from rxrx_jax.base.command import cores
from rxrx_jax.base.config import flatten, to_json
from rxrx_jax.base.errors import UserError
from rxrx_jax.base.files import is_remote, mirror
from rxrx_jax.data.builders import builders
from rxrx_jax.data.molecules import library
from rxrx_jax.tables import Run
from rxrx_jax.training import metrics
from rxrx_jax.training.provenance.facts import code_version

DERIVED = ("resolved", "init")  # keys of config.json that a config file does not fix: init.path moves with the folder
PLACES = ("data.folder", "data.cache")  # may differ: the records there are compared by their fingerprint
NAMED = 4  # changed keys of a config, stale runs: beyond that their number is said


def workdir(name: str, out: pathlib.Path, seed: int) -> pathlib.Path:
    return out / "runs" / f"{name}-seed{seed}"


def command(run: Run, out: pathlib.Path, seed: int) -> list[str]:
    """What makes a run."""
    found = [sys.executable, "-m", run.module or "rxrx_jax.main", f"--config={run.seeded(seed)}"]
    found.append(f"--workdir={workdir(run.name, out, seed)}")
    found += [f"--config.{key}={value}" for key, value in run.overrides.items()]
    if run.starts_from:
        found.append(f"--config.init.path={workdir(run.starts_from, out, seed)}")
    return found


def is_done(run: Run, out: pathlib.Path, seed: int) -> bool:
    return bool(metrics.finished(workdir(run.name, out, seed) / metrics.NAME))


def stale(run: Run, out: pathlib.Path, seed: int) -> list[str]:
    """How the run in `out` differs from what would be trained today: nothing for one that was not started."""
    folder = workdir(run.name, out, seed)
    if not (folder / metrics.NAME).exists():
        return []
    try:
        stored = dict(json.loads((folder / "config.json").read_text()))
    except (OSError, ValueError, TypeError):
        return ["its config.json cannot be read"]
    names = changed(run, out, seed, stored)
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    found = [f"another config ({', '.join(names[:NAMED])}{more})"] if names else []
    provenance = stored.get("resolved", {}).get("provenance")
    if not provenance:
        return [*found, "its provenance is unknown"]
    if other := other_code(stored):
        found.append(f"other code ({other}, now {code_version()})")
    fingerprint = data_today(stored.get("data", {}))
    if fingerprint and fingerprint not in provenance.get("data", ""):  # other facts may stand beside it
        found.append("other data")
    return found


def changed(run: Run, out: pathlib.Path, seed: int, stored: dict) -> list[str]:
    """The keys in which the config of a run, as its config.json holds it, is not what the command would make today."""
    today = json.loads(to_json(values(run, out, seed)))
    then, now = (flatten({k: v for k, v in c.items() if k not in DERIVED}) for c in (stored, today))
    for key in PLACES:
        then.pop(key, None)
        now.pop(key, None)
    missing = object()
    return sorted(k for k in then.keys() | now.keys() if then.get(k, missing) != now.get(k, missing))


def other_code(stored: dict) -> str:
    """The version of the code that a config.json names, "" where it is today's."""
    code = stored.get("resolved", {}).get("provenance", {}).get("code", "unknown")
    return "" if code == code_version() else code


def values(run: Run, out: pathlib.Path, seed: int) -> dict:
    """The config of a run, as its command makes it."""
    return config_flag.values(command(run, out, seed)[3:])


def prepare_worlds(todo: list[tuple[Run, int]], out: pathlib.Path) -> None:
    """Prepares the datasets of runs, each once, before several of them want it at a time."""
    wanted = {}
    for run, seed in todo:
        settings = values(run, out, seed).get("data")  # not every kind of run has one
        wanted |= {to_json(settings["builder"]): settings} if settings else {}
    for of in wanted.values():
        builders().prepare(of["name"], out=of["folder"], **of["builder"])


def data_today(settings: dict) -> str:
    """The fingerprint of the dataset that a config's `data` names, as it is here now; "" if it is missing."""
    try:
        folder = builders().find(settings["name"], settings.get("folder"), **settings.get("builder", {}))
    except (UserError, KeyError, TypeError):
        return ""
    return _fingerprint(folder) if mirror.exists(folder) else ""


@functools.cache
def _fingerprint(folder: pathlib.Path) -> str:
    if is_remote(folder):
        return data.fingerprint(data.read_dataset(folder))
    if (folder / "vocabulary.json").exists():
        return library.digest_of(folder)
    return data.fingerprint(types.SimpleNamespace(folder=folder))


def remove_stale(todo: list[tuple[Run, int]], out: pathlib.Path) -> None:
    """Removes the stale runs' workdirs, and those of the runs that start from a removed one."""
    removed = {(run.name, seed) for run, seed in todo if stale(run, out, seed)}
    for name, seed in sorted(with_dependants(removed, todo)):
        if workdir(name, out, seed).exists():
            print(f"{name} seed {seed} is run again", flush=True)
            shutil.rmtree(workdir(name, out, seed))


def with_dependants(names: set[tuple[str, int]], todo: list[tuple[Run, int]]) -> set[tuple[str, int]]:
    """Names and seeds of runs, and of those of `todo` that start from one of them, through any number of stages."""
    found = set(names)
    while more := {(run.name, seed) for run, seed in todo if (run.starts_from, seed) in found} - found:
        found |= more
    return found


def list_stale(todo: list[tuple[Run, int]], out: pathlib.Path) -> list[str]:
    """A line for each finished run whose code, data or config is not today's, or for many that differ alike."""
    alike: dict[str, dict[str, list[str]]] = {}
    for run, seed in todo:
        if is_done(run, out, seed) and (differs := "; ".join(stale(run, out, seed))):
            alike.setdefault(differs, {}).setdefault(run.name, []).append(str(seed))
    found = []
    for differs, seeds in alike.items():
        if len(seeds) > NAMED:
            found.append(f"{sum(map(len, seeds.values()))} runs, {next(iter(seeds))} among them: {differs}")
        else:
            found += [f"{name}, seed {', '.join(of)}: {differs}" for name, of in seeds.items()]
    return found


def default_jobs() -> int:
    """A core per run on a machine without accelerator, which together are faster than all cores for each run in turn;
    one run at a time where jax has a GPU or TPU plugin."""
    plugins = ("jax_cuda12_plugin", "jax_cuda13_plugin", "jax_rocm7_plugin", "libtpu")
    if any(importlib.util.find_spec(name) for name in plugins):
        return 1
    return len(cores())


def run_missing(
    todo: list[tuple[Run, int]],
    out: pathlib.Path,
    jobs: int,
    ended: Callable[[Run, int], None] = lambda run, seed: None,
) -> None:
    """Runs every (run, seed) that is not finished, `jobs` at a time, each after the run that it starts from. ended: is
    called after each that has finished.

    A run that fails keeps only those from running that start from it. Raises UserError naming its log at the end.
    """
    waiting = [(run, seed) for run, seed in todo if not is_done(run, out, seed)]
    print(f"{len(todo) - len(waiting)} runs are done, {len(waiting)} to do, {jobs} at a time", flush=True)
    total, active, failed, begin = len(waiting), {}, [], time.time()
    numbers = cores()
    # Runs of one table share most of their compiled programs.
    compiled = str(out.absolute() / "compiled")
    cache = {"JAX_COMPILATION_CACHE_DIR": compiled, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    while active or waiting:
        unfinished = {(run.name, seed) for run, seed in waiting} | {
            (run.name, seed) for run, seed, *_ in active.values()
        }
        ready = [job for job in waiting if (job[0].starts_from, job[1]) not in unfinished]
        while ready and len(active) < jobs:
            slot = next(i for i in range(jobs) if i not in active)
            run, seed = ready.pop(0)
            waiting.remove((run, seed))
            log = workdir(run.name, out, seed).with_suffix(".log")
            log.parent.mkdir(parents=True, exist_ok=True)
            share = numbers[slot::jobs] if hasattr(os, "sched_setaffinity") and jobs <= len(numbers) else None
            with open(log, "w") as stream:
                process = subprocess.Popen(
                    command(run, out, seed),
                    stdout=stream,
                    stderr=subprocess.STDOUT,
                    env=cache | os.environ,
                )
            if share:  # long before it starts threads of its own
                with contextlib.suppress(ProcessLookupError):
                    os.sched_setaffinity(process.pid, share)
            active[slot] = (run, seed, process, log)
        time.sleep(0.2)
        for slot, (run, seed, process, log) in list(active.items()):
            if process.poll() is None:
                continue
            del active[slot]
            if process.returncode:
                failed.append((run.name, seed, log))
                lost = with_dependants({(run.name, seed)}, waiting)
                waiting = [job for job in waiting if (job[0].name, job[1]) not in lost]
            else:
                ended(run, seed)
            left = len(waiting) + len(active)
            state = "FAILED" if process.returncode else "done"
            print(f"[{time.time() - begin:5.0f} s] {run.name} seed {seed} {state}, {left} of {total} left", flush=True)
    if failed:
        name, seed, log = failed[0]
        last = log.read_text().strip().rpartition("\n")[2]
        others = f"; {len(failed) - 1} more failed, named above" if failed[1:] else ""
        raise UserError(f"run {name} with seed {seed} failed: {last} (all of it in {log}){others}")
