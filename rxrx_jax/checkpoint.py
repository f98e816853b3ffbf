"""Checkpoints with Orbax: save, restore, and load a part for the next stage. One format for all stages."""

import dataclasses
import json
import pathlib

import jax
from orbax.checkpoint import v1 as ocp

from rxrx_jax.errors import UserError
from rxrx_jax.sharding import path_name
from rxrx_jax.state import TrainState


class Checkpoints:
    """The checkpoints of one run, newest `keep` kept. Use as a context manager: leaving it waits for the last save.

    A save is written beside and renamed when complete, so a killed process leaves the one before.
    """

    def __init__(self, folder: pathlib.Path, keep: int):
        policy = ocp.training.preservation_policies.LatestN(keep)
        self._checkpointer = ocp.training.Checkpointer(
            folder.absolute(), preservation_policy=policy, cleanup_tmp_directories=True
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._checkpointer.close()

    def save(self, state: TrainState, clock: dict[str, float]) -> None:
        """Saves in the background; `clock` holds floats that carry over a restart (seconds)."""
        step = int(state.step)
        # asdict copies the arrays: the train step donates the state's buffers while the save is still under way.
        tree = {"state": dataclasses.asdict(state), "clock": clock}
        self._checkpointer.save_async(step, tree, force=True)

    def restore(self, shapes: TrainState) -> tuple[TrainState, dict[str, float]] | None:
        """The newest checkpoint as (state, clock) with the shapes and shardings of `shapes`; None if there is none."""
        newest = self._checkpointer.latest
        if newest is None:
            return None
        like = {"state": dataclasses.asdict(shapes)}
        folder = pathlib.Path(self._checkpointer.directory) / str(newest.step)
        _check_shapes(_metadata(folder)["state"], like["state"], folder)
        tree = self._checkpointer.load(newest, like | {"clock": {k: 0.0 for k in _metadata(folder)["clock"]}})
        return TrainState(**tree["state"]), {k: float(v) for k, v in tree["clock"].items()}


def load_parameters(path: str, subtree: str, shapes, source: str = "params") -> dict:
    """The parameters under `subtree` ("encoder") of another run's newest checkpoint.

    Args: path, that run's workdir or one of its checkpoint folders; shapes, a tree of ShapeDtypeStruct with shardings;
    source, the part of the state that holds them: "params", "ema" or "batch_stats/teacher".
    Raises UserError naming the path and the parameter when there is no checkpoint or a shape does not fit.
    """
    folder = find_checkpoint(path)
    stored, like = _metadata(folder)["state"], {subtree: shapes}
    for key in source.split("/"):
        stored = (stored or {}).get(key)
    if subtree not in (stored or {}):
        there = ", ".join(sorted(stored)) if stored else "nothing there"
        raise UserError(f"checkpoint {folder} has no parameters {subtree!r} in {source}; it has {there}")
    _check_shapes({subtree: stored[subtree]}, like, folder)
    for key in reversed(source.split("/")):
        like = {key: like}
    context = ocp.Context()
    context.pytree.loading.partial_load = True
    with context:
        tree = ocp.load(folder, {"state": like})["state"]
    for key in source.split("/"):
        tree = tree[key]
    return tree[subtree]


def is_run(path: str) -> bool:
    """Whether `path` is meant as a run's workdir or checkpoint, not as a file or folder of weights."""
    root = pathlib.Path(path).expanduser()
    return not root.is_file() and not (root / "model.safetensors").exists()


def find_checkpoint(path: str) -> pathlib.Path:
    """The newest finished checkpoint folder of a workdir, or `path` itself when it is one."""
    root = pathlib.Path(path).expanduser().absolute()
    if root.name.isdigit() and root.is_dir() and not (root / "checkpoints").is_dir():  # not a workdir called `3`
        return root
    steps = [p for p in (root / "checkpoints").glob("*") if p.name.isdigit()]
    if not steps:
        raise UserError(f"init.path={path}: no checkpoint there; run the stage before first, with --workdir={path}")
    return max(steps, key=lambda p: int(p.name))


def is_transductive(path: str) -> bool:
    """Whether the run of a checkpoint saw unlabelled held-out images: what starts from it inherits that."""
    config = find_checkpoint(path).parent.parent / "config.json"
    if not config.exists():
        raise UserError(f"init.path={path}: {config} is missing; give the workdir of a run")
    return json.loads(config.read_text())["resolved"]["transductive"]


def _metadata(folder: pathlib.Path):
    return ocp.metadata(folder).metadata


def _check_shapes(stored, wanted, folder) -> None:
    """Raises UserError for the first array that is missing, left over or of another shape."""
    flat = lambda tree: {path_name(p): tuple(x.shape) for p, x in jax.tree_util.tree_leaves_with_path(tree)}  # noqa: E731
    stored, wanted = flat(stored), flat(wanted)
    for name in sorted(stored.keys() | wanted.keys()):
        if stored.get(name) != wanted.get(name):
            there, here = stored.get(name, "absent"), wanted.get(name, "absent")
            raise UserError(f"checkpoint {folder} does not fit: {name} is {there} there and {here} in this model")
