"""Checkpoints with Orbax: save, restore, and load a part for the next stage. One format for all stages."""

import dataclasses
import json
import pathlib

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from rxrx_jax.errors import UserError
from rxrx_jax.sharding import one_device, path_name
from rxrx_jax.state import TrainState

# How parameters lie, which no shape shows: 2 = qkv columns head by head. A run's config.json says it.
LAYOUT = 2
PARTS = ("params", "ema", "batch_stats/teacher")  # of the state, that hold parameters


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
    source, the part of the state that holds them, one of PARTS.
    Raises UserError naming the path and the parameter when there is no checkpoint or a shape does not fit.
    """
    folder = find_checkpoint(path)
    check_layout(folder)
    stored, like = _part(folder, source), {subtree: shapes}
    if subtree not in stored:
        there = ", ".join(sorted(stored)) or "nothing there"
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


def stored_parameters(path: str, source: str = "params") -> dict:
    """Every parameter in the part `source` of a run's newest checkpoint, as numpy arrays. Raises as `load_parameters`
    does."""
    folder = find_checkpoint(path)
    found = {}
    for name, stored in _part(folder, source).items():
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=one_device()), stored)
        found[name] = jax.tree.map(np.asarray, load_parameters(str(folder), name, shapes, source))
    if not found:
        raise UserError(f"checkpoint {folder} has no parameters in {source}; it was trained without")
    return found


def published_part(path: str) -> str:
    """The part of a run's state that its evaluation used, which is what others should use: one of PARTS."""
    return "batch_stats/teacher" if read_config(path)["task"]["name"] == "distill" else "params"


def check_layout(folder: pathlib.Path) -> None:
    """Raises UserError when the run of a checkpoint folder is of a version whose parameters lie otherwise."""
    config = folder.parent.parent / "config.json"
    if config.exists() and json.loads(config.read_text())["resolved"].get("layout") != LAYOUT:
        raise UserError(f"checkpoint {folder} is of another version of rxrx_jax, whose qkv columns lie otherwise: "
                        "train it again, or use it with that version")  # fmt: skip


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


def read_config(path: str) -> dict:
    """The resolved config of a checkpoint's run."""
    config = find_checkpoint(path).parent.parent / "config.json"
    if not config.exists():
        raise UserError(f"init.path={path}: {config} is missing; give the workdir of a run")
    return json.loads(config.read_text())


def is_transductive(path: str) -> bool:
    """Whether the run of a checkpoint saw unlabelled held-out images: what starts from it inherits that."""
    return read_config(path)["resolved"]["transductive"]


def _part(folder: pathlib.Path, source: str) -> dict:
    """The metadata of the arrays in a part of the stored state; {} where there is none."""
    stored = _metadata(folder)["state"]
    for key in source.split("/"):
        stored = (stored or {}).get(key)
    return stored or {}


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
