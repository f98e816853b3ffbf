"""The checkpoints of a run: saving, and resuming from the newest that is undamaged."""

import contextlib
import dataclasses
import errno
import functools
import os
import shutil
import time

import jax
from etils import epath

from rxrx_jax.base import files, hosts
from rxrx_jax.base.errors import UserError
from rxrx_jax.training.checkpoint import manifest
from rxrx_jax.training.state import TrainState


class Checkpoints:
    """The checkpoints of one run in `folder` (on a disk that all hosts see, or gs://), newest `keep` kept. All hosts
    call every method. Use as a context manager: leaving it waits for the last save.

    A save gets a temporary name until complete (on gs://: a mark when complete), then the oldest is deleted, so a
    process killed at any moment leaves the one before.
    """

    def __init__(self, folder: epath.PathLike, keep: int):
        self._folder, self._keep = files.locate(folder), keep
        self._complete = self._under_way = None  # steps

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if "_checkpointer" not in vars(self):
            return
        # What is already being raised is the error to see.
        with contextlib.suppress(Exception) if kind else contextlib.nullcontext(), self._writing():
            self._checkpointer.close()

    def save(self, state: TrainState, clock: dict[str, float]) -> None:
        """Saves in the background; `clock` holds floats that carry over a restart.

        Raises UserError when the disk is full, or was for the previous save, which is noticed here or on
        leaving; earlier checkpoints are kept.
        """
        with self._writing():
            self._checkpointer.wait()
        if self._under_way is not None:
            self._complete = self._under_way
        self._under_way = int(state.step)
        hosts.on_first_host(lambda: self._check_room(sum(x.nbytes for x in jax.tree.leaves(state))))
        # asdict copies the arrays: the train step donates the state's buffers while the save is still under way.
        tree = dataclasses.asdict(state)
        parts = {manifest.STATE: tree, manifest.MANIFEST: manifest.describe(tree, clock, state.published)}
        with self._writing():
            self._checkpointer.save_checkpointables_async(self._under_way, parts, force=True)

    def wait(self) -> None:
        """Waits until the last save is complete. Raises UserError when the disk was full."""
        if "_checkpointer" in vars(self):
            with self._writing():
                self._checkpointer.wait()

    def restore(self, shapes: TrainState) -> tuple[TrainState, dict[str, float]] | None:
        """The newest checkpoint as (state, clock) with the shapes and shardings of `shapes`; None if there are none.

        One that is damaged is set aside, as damaged-STEP in the folder above, and the previous one is used; stderr says
        so. Raises UserError when a shape does not fit, or when all are damaged, which are then left where they are.
        """
        damaged = {}
        for step in hosts.on_first_host(lambda: steps(self._folder)):
            folder = self._folder / str(step)
            try:
                table = manifest.read(folder)
                tree = manifest.load(folder, table, dataclasses.asdict(shapes))
            except manifest.Damaged as error:
                damaged[folder] = str(error)
                continue
            for one, why in damaged.items():
                aside = hosts.on_first_host(functools.partial(_set_aside, one))
                hosts.say(
                    f"WARNING: checkpoint {one} is damaged ({why}): set aside as {aside}; resuming from step {step}"
                )
            self._complete = step
            return TrainState(**tree), table["clock"]
        if damaged:
            found = "; ".join(f"{folder} ({why})" for folder, why in damaged.items())
            raise UserError(
                f"every checkpoint is damaged: {found}. Put back a copy of one, or delete {self._folder} to start from "
                "the beginning"
            )
        return None

    def _check_room(self, size: int) -> None:
        """Raises what making a folder and writing `size` bytes into it would raise: where Orbax meets that, threads and
        other hosts wait for the rest of the checkpoint."""
        with self._writing():
            if not files.is_remote(self._folder):
                self._folder.mkdir(parents=True, exist_ok=True)
                if not os.access(self._folder, os.W_OK | os.X_OK):
                    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self._folder))
                disk = shutil.disk_usage(self._folder)
                if disk.total and disk.free < size:  # some file systems do not say
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._folder))

    @functools.cached_property
    def _checkpointer(self):
        """Orbax's, made for the first save: it takes stock of the folder, and deletes what is half-written."""
        from orbax.checkpoint import v1 as ocp  # as in manifest.py

        return ocp.training.Checkpointer(
            self._folder,
            context=manifest.storage(),
            preservation_policy=ocp.training.preservation_policies.LatestN(self._keep),
            cleanup_tmp_directories=True,
        )

    @contextlib.contextmanager
    def _writing(self):
        """Reports what a full disk means for the run, and deletes what is half-written then."""
        kept = "and no earlier one exists" if self._complete is None else f"that of step {self._complete} is kept"
        try:
            with files.room(self._folder, f": the checkpoint of step {self._under_way} is not saved, {kept}"):
                yield
        except UserError:
            if jax.process_index() == 0:
                suffix = "" if files.is_remote(self._folder) else ".orbax-checkpoint-tmp"
                _remove(self._folder / f"{self._under_way}{suffix}")
            raise


def _remove(folder: epath.Path) -> None:
    """Removes a half-written folder, which threads of the failed save may make again or write into for a moment."""
    gone, end = 0, time.monotonic() + 10
    while gone < 3 and time.monotonic() < end:
        with contextlib.suppress(OSError):
            folder.rmtree()
        gone = 0 if folder.exists() else gone + 1
        time.sleep(0.1)


def steps(folder: epath.Path) -> list[int]:
    """The steps of the complete checkpoints in `folder`, newest first. Raises UserError where that is a file."""
    if not folder.is_dir():
        if folder.exists():
            raise UserError(f"{folder} is a file where a run's folder of checkpoints belongs: put that back")
        return []
    names = [path.name for path in folder.iterdir()]
    found = [int(name) for name in names if name.isdecimal() and name == str(int(name))]
    return sorted((step for step in found if _is_complete(folder / str(step))), reverse=True)


def _is_complete(folder: epath.Path) -> bool:
    """In an object store, where no folder can be renamed when complete, a file says so."""
    return not files.is_remote(folder) or (folder / "commit_success.txt").exists()


def _set_aside(folder: epath.Path) -> str:
    """Renames a checkpoint and returns its new path, which is outside of what Orbax cleans up."""
    names = [f"damaged-{folder.name}", *(f"damaged-{folder.name}-{i}" for i in range(2, 100))]
    aside = next(path for name in names if not (path := folder.parent.parent / name).exists())
    folder.rename(aside)
    return str(aside)
