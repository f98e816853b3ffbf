"""Builds a folder of molecules: a csv file of SMILES, or the simulated library, to records, their tables and a report.

How a build goes: rows in chunks become files of arrays (features.py, in processes), molecules are merged and split
(merge.py), the training ones give the vocabulary, and the arrays become records (write.py, in processes). Until then
all of it is in <version>.building beside the folder, from which a stopped build resumes.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import functools
import json
import multiprocessing
import os
import pathlib
import re
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tqdm
from etils import epath

from rxrx_jax.base import files
from rxrx_jax.base.command import cores
from rxrx_jax.base.errors import UserError, shortened
from rxrx_jax.base.files import mirror
from rxrx_jax.base.files import staging as staging_lib
from rxrx_jax.molecules import chemistry, library, standardise, vocabulary
from rxrx_jax.molecules.split import TRAIN
from tfds_builders.common import lock
from tfds_builders.common import settings as settings_lib
from tfds_builders.molecules import features, merge, table, write

NAME, VERSION = "molecules", "1.0.0"  # of the dataset; a source's is its config
SIMULATED = "simulated"


@dataclasses.dataclass(frozen=True)
class Settings:
    """What users choose. Of these salts, seed and count name the folder, and the vocabulary by its digest.

    name: of the molecules; that of the source's file, or "simulated".
    smiles, targets, split: columns of the source, as `table.read` takes them.
    salts: largest, keep or refuse.
    seed: of the scaffold split, and of the simulated library.
    count: molecules of the simulated library.
    vocabulary: a folder of molecules, on a disk or in an object store, whose vocabulary these get, in place of one of
      their own.
    """

    name: str = ""
    smiles: str = ""
    targets: tuple[str, ...] = ()
    split: str = ""
    salts: str = "largest"
    seed: int = 0
    count: int = 2000
    vocabulary: str = ""

    def __post_init__(self):
        standardise.check_salts(self.salts)
        if self.name and not re.fullmatch(r"\w[\w.+-]*", self.name):
            raise ValueError(f"name={self.name!r}: use letters, digits, '.', '_', '+' and '-'")


def _resolve(source: str | os.PathLike | None, fields: dict[str, Any]) -> tuple[pathlib.Path | None, Settings]:
    (settings,) = settings_lib.make((Settings(),), fields, NAME)
    if source is None:
        for field in ("smiles", "targets", "split"):
            if getattr(settings, field):
                raise UserError(f"{NAME}: {field} is a column of a source, and there is none: add --source=FILE.csv")
        return None, dataclasses.replace(settings, name=settings.name or SIMULATED)
    path = pathlib.Path(source).expanduser().resolve()
    if "count" in fields:
        raise UserError(f"{NAME}: count is of the simulated library, and {path} is not")
    plain = re.sub(r"[^\w+-]", "_", path.name.partition(".")[0]).lstrip("_+-")
    return path, dataclasses.replace(settings, name=settings.name or plain or "source")


def find(
    source: str | os.PathLike | None = None, out: str | os.PathLike | None = None, **fields
) -> pathlib.Path | epath.Path:
    """Returns the folder that `prepare` with the same arguments fills, whether it exists or not."""
    _, settings = _resolve(source, fields)
    return _folder(settings, out)


def _folder(settings: Settings, out: str | os.PathLike | None) -> pathlib.Path | epath.Path:
    shown = dataclasses.replace(settings, name="", smiles="", targets=(), split="")
    if settings.vocabulary:
        shown = dataclasses.replace(shown, vocabulary=_vocabulary(settings.vocabulary).digest[:8])
    rest = settings_lib.config_name((shown,), (Settings(),))
    config = settings.name if rest == settings_lib.DEFAULT else f"{settings.name}-{rest}"
    if out is not None and files.is_remote(out):
        return epath.Path(out) / NAME / config / VERSION
    if out is None:
        import tensorflow_datasets as tfds

        out = tfds.core.constants.DATA_DIR
    return pathlib.Path(out).expanduser().absolute() / NAME / config / VERSION


@functools.cache
def _vocabulary(folder: str) -> vocabulary.Vocabulary:
    path = mirror.local(folder) if files.is_remote(folder) else pathlib.Path(folder).expanduser()
    return vocabulary.load(path if path.is_file() else path / write.VOCABULARY)


def prepare(source: str | os.PathLike | None = None, out: str | os.PathLike | None = None,
            workers: int | None = None, progress: bool = True, strict: bool = False,
            staging: str | os.PathLike | None = None, **fields) -> pathlib.Path | epath.Path:  # fmt: skip
    """Prepares molecules unless their folder exists, and returns the folder; resumes a build that was stopped.

    Args:
      source: a csv file of SMILES, plain or gzipped; None for the simulated library.
      out: the folder of all prepared datasets, on a disk, gs:// or s3://; TFDS's own (TFDS_DATA_DIR or
        ~/tensorflow_datasets) if None.
      workers: processes; all cores if None. What is built does not depend on it.
      progress: show a progress bar on stderr.
      strict: refuse a source of which any row is set aside or merged, or stereoisomers differ in a target.
      staging: the folder on a disk in which molecules for an object store are built before they are uploaded.
      **fields: of `Settings`.
    """
    path, settings = _resolve(source, fields)
    folder = _folder(settings, out)
    if workers is not None and workers < 1:
        raise UserError(f"workers={workers}: use 1 or more")
    if files.is_remote(folder) and not mirror.exists(folder):
        here = lambda place: prepare(source, place, workers, progress, strict, **fields)  # noqa: E731
        return staging_lib.fill(here, folder, staging, progress)
    there, folder = folder, mirror.local(folder)
    if not folder.exists() and getattr(multiprocessing.current_process(), "_inheriting", False):
        # A worker imports the script that started it, which would wait for its own parent here.
        raise UserError("a script that prepares a dataset must do so under `if __name__ == '__main__':`")
    same = _identity(path, settings)
    if not folder.exists():
        working = folder.with_name(f"{folder.name}.building")
        with files.not_left_empty(folder.parent), lock.only_one(working, progress), files.room(working):
            if not folder.exists():  # else another process has just made it
                _build(path, settings, folder, working, same, workers or len(cores()), progress, strict)
            lock.clear(working)
        return folder
    about = files.read_json(folder / "metadata.json", "delete the folder and run the same command to rebuild it")
    if changed := [key for key, value in same.items() if about.get("made_of", {}).get(key) != value]:
        raise UserError(
            f"{there} was prepared of something else ({changed[0]}={shortened(about['made_of'].get(changed[0]))}): "
            "delete it, or use another --name or --out"
        )
    if strict and about["problems"]:
        raise UserError(f"{there} is there, and {about['problems']:,} rows are not as they should (see report.html)")
    return there


def _identity(path: pathlib.Path | None, settings: Settings) -> dict[str, Any]:
    """What a build depends on, as JSON; not where the source lies."""
    found = dataclasses.asdict(settings) | {"targets": list(settings.targets)}
    found["vocabulary"] = _vocabulary(settings.vocabulary).digest if settings.vocabulary else ""
    found["source_sha256"] = files.sha256(path, "give a csv file of SMILES") if path else ""
    return found


def _build(path: pathlib.Path | None, settings: Settings, folder: pathlib.Path, working: pathlib.Path,
           same: dict[str, Any], workers: int, progress: bool, strict: bool) -> None:  # fmt: skip
    rows = _table(path, settings)
    _start(working, same | {"rdkit": chemistry.version()})
    todo = [(row, text) for row, text in enumerate(rows.smiles) if row not in rows.bad]
    parts = [todo[at : at + features.ROWS] for at in range(0, len(todo), features.ROWS)]
    chunks = [working / f"chunk-{i:06d}.npz" for i in range(len(parts))]
    with _pool(min(workers, len(parts))) as run:
        label = f"{NAME}/{settings.name}"
        with tqdm.tqdm(total=len(todo), unit=" molecules", desc=label, disable=not progress) as bar:
            facts = run(features.work, [(*one, settings.salts) for one in zip(chunks, parts)],
                        lambda i: bar.update(len(parts[i])))  # fmt: skip
        merged = merge.merge(rows, facts, settings.seed) if facts else None
        if merged is None or not any(map(len, merged.places.values())):
            lock.clear(working)  # so that the same command looks at the source again
            bad = merged.set_aside if merged else sorted(rows.bad.items())
            first = f"; {len(bad):,} set aside, the first is row {bad[0][0]}: {bad[0][1]}" if bad else ""
            raise UserError(f"{path}: no molecule can be used{first}")
        if strict:
            _refuse(path, merged)
        sizes = np.array([len(one.rows) for one in facts])
        if settings.vocabulary:
            known = _vocabulary(settings.vocabulary)
        else:
            known = _count(chunks, sizes, merged.places[TRAIN])
        made = working / "folder"
        made.mkdir(exist_ok=True)
        shards = write.shards(made, merged, chunks, sizes)
        counts = run(functools.partial(write.work, known), shards, lambda i: None)
    about = {"source": str(path or SIMULATED), "source_kind": "file" if path else SIMULATED, "made_of": same}
    about |= {"rdkit": chemistry.version(), "rows": len(rows.smiles)}
    write.finish(made, (NAME, folder.parent.name, VERSION), about, rows, merged, known, shards, counts)
    made.rename(folder)


def _table(path: pathlib.Path | None, settings: Settings) -> table.Table:
    if path is not None:
        if not path.is_file():
            raise UserError(f"{path} is not a file: --source of molecules is a csv file of SMILES")
        files.check_pointer(path)
        return table.read(path, settings.smiles, settings.targets, settings.split)
    smiles = library.simulated(settings.count, settings.seed)
    values = [library.properties(chemistry.chem().MolFromSmiles(text)) for text in smiles]
    note = f"SIMULATED: RDKit has joined these molecules from fragments, and computed {', '.join(library.TARGETS)}"
    return table.Table(smiles, library.TARGETS, library.KINDS, np.array(values, np.float32), notes=[note])


def _start(working: pathlib.Path, same: dict[str, Any]) -> None:
    """Clears what was left of a build of something else."""
    about = working / "build.json"
    try:
        found = json.loads(about.read_text())
    except (OSError, ValueError):
        found = None
    if found != same:
        lock.clear(working)
        files.write(about, json.dumps(same))


def _refuse(path: pathlib.Path | None, merged: merge.Merged) -> None:
    if merged.set_aside:
        row, why = merged.set_aside[0]
        raise UserError(f"{path}, row {row}: {why} ({len(merged.set_aside):,} rows would be set aside)")
    if merged.duplicates:
        kept, row, key, _ = merged.duplicates[0]
        raise UserError(f"{path}, row {row}: the molecule of row {kept} ({key}); {len(merged.duplicates):,} duplicates")
    if merged.stereoisomers:
        _, found, target, values = merged.stereoisomers[0]
        raise UserError(f"{path}, rows {found}: stereoisomers, whose {target} is {values}; an encoder cannot tell them")


def _count(chunks: list[pathlib.Path], sizes: np.ndarray, places: np.ndarray) -> vocabulary.Vocabulary:
    """The vocabulary of the molecules at these places. Args: sizes, molecules in each chunk."""
    tokens, labels = collections.Counter(), collections.Counter()
    chosen = np.zeros(sizes.sum(), bool)
    chosen[places] = True
    for path, end, size in zip(chunks, np.cumsum(sizes), sizes):
        found = features.read(path)
        atoms = np.repeat(chosen[end - size : end], found.atoms)
        for counter, identifiers in ((tokens, found.tokens), (labels, found.labels)):
            kinds, n = np.unique(identifiers[atoms], return_counts=True)
            for kind, times in zip(kinds.tolist(), n.tolist()):
                counter[kind] += times
    return vocabulary.from_counts(tokens, labels)


@contextlib.contextmanager
def _pool(workers: int) -> Iterator[Callable[[Callable, list[tuple], Callable[[int], Any]], list]]:
    """A function (work, arguments of each call, done) -> results in their order; done(i) is called after each.

    With one worker, this process does the work. Processes end with this one, and are forked from one that has imported
    RDKit and NumPy alone."""
    if workers <= 1:

        def run(work, calls, done):
            found = []
            for i, one in enumerate(calls):
                found.append(work(*one))
                done(i)
            return found

        yield run
        return
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([features.__name__, write.__name__, *chemistry.USED])
    pool = concurrent.futures.ProcessPoolExecutor(workers, mp_context=context, initializer=_with_parent)

    def run_in_processes(work, calls, done):
        waiting = {pool.submit(work, *one): i for i, one in enumerate(calls)}
        try:
            for future in concurrent.futures.as_completed(waiting):
                future.result()
                done(waiting[future])
        except concurrent.futures.process.BrokenProcessPool as error:
            raise UserError(
                "a worker died, for the reason above or out of memory: to resume, run the same command with fewer "
                "--workers"
            ) from error
        return [future.result() for future in waiting]

    try:
        yield run_in_processes
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in list((pool._processes or {}).values()):
            process.terminate()
        raise
    pool.shutdown()


def _with_parent() -> None:
    """Ends a worker with its parent, which handles Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch():
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
