"""Another run's checkpoint: its config, and a part of its state to start the next stage from."""

import contextlib
from collections.abc import Iterator

import jax
import numpy as np
from etils import epath

from rxrx_jax.base import files
from rxrx_jax.base.errors import UserError
from rxrx_jax.base.sharding import one_device
from rxrx_jax.training.checkpoint import manifest
from rxrx_jax.training.checkpoint.run import steps
from rxrx_jax.weights import hub

# Parameter layout and what is stored beside it, which no shape shows: 2 = qkv columns head by head, 3 = with a
# manifest, 4 = collections. A run's config.json says it.
LAYOUT = 4
# Parts of the state that hold parameters, and where: what `init.parameters` may be.
PARTS = {"params": "params", "averages": "collections/averages/params"}
STATISTICS = {"params": "collections/batch_stats", "averages": "collections/averages/batch_stats"}


def load_parameters(path: epath.PathLike, subtree: str, shapes, source: str = "params") -> dict:
    """The parameters under `subtree` ("encoder") of another run's newest checkpoint. All hosts must call it.

    Args: path, that run's workdir or one of its checkpoint folders; shapes, a tree of ShapeDtypeStruct with shardings;
    source, the part of the state that holds them, one of PARTS.
    Raises UserError naming the path and the parameter when no checkpoint is found, a shape does not fit, or the
    checkpoint is damaged.
    """
    with _opened(path) as (folder, table):
        place = _place(source)
        if subtree not in (there := _shapes(table, place)):
            there = ", ".join(sorted(there)) or "nothing there"
            raise UserError(f"checkpoint {folder} has no parameters {subtree!r} in {source}; it has {there}")
        return _load(folder, table, f"{place}/{subtree}", shapes)


def load_statistics(path: epath.PathLike, subtree: str, shapes, source: str = "params") -> dict:
    """The BatchNorm statistics under `subtree` that belong to what `load_parameters` gives with the same arguments.
    Raises as it does."""
    if not shapes:
        return {}
    with _opened(path) as (folder, table):
        _place(source)
        return _load(folder, table, f"{STATISTICS[source]}/{subtree}", shapes)


def stored_parameters(path: epath.PathLike, source: str = "params") -> dict:
    """Every parameter in the part `source` of a run's newest checkpoint, as numpy arrays. Raises as `load_parameters`
    does."""
    return stored_network(path, source)[0]


def stored_network(path: epath.PathLike, source: str = "params") -> tuple[dict, dict]:
    """(params, batch_stats) of the part `source` of a run's newest checkpoint, as numpy arrays; statistics are {} where
    the network has none. Raises as `load_parameters` does."""
    with _opened(path) as (folder, table):
        params = _load(folder, table, _place(source), _shapes(table, _place(source)))
        if not params:
            raise UserError(f"checkpoint {folder} has no parameters in {source}; it was trained without")
        place = STATISTICS[source]
        return tuple(jax.tree.map(np.asarray, x) for x in (params, _load(folder, table, place, _shapes(table, place))))


def published_part(path: epath.PathLike) -> str:
    """The part of a run's state that its evaluation used, which is what others should use: one of PARTS. All hosts must
    call it."""
    with _opened(path) as (_, table):
        return table["published"]


def stored_shapes(path: epath.PathLike, source: str = "params") -> dict:
    """The shapes of every parameter in the part `source` of a run's newest checkpoint, nested ShapeDtypeStructs. Raises
    as `load_parameters` does."""
    with _opened(path) as (_, table):
        return _shapes(table, _place(source))


def check_layout(folder: epath.Path) -> None:
    """Raises UserError when the run of a checkpoint folder is of a version with another checkpoint format."""
    config = folder.parent.parent / "config.json"
    if config.exists() and read_config(folder)["resolved"].get("layout") != LAYOUT:
        raise UserError(f"checkpoint {folder} is of another version of rxrx_jax, whose parameters are laid out or "
                        "stored differently: train it again, or use it with that version")  # fmt: skip


def is_run(path: epath.PathLike) -> bool:
    """Whether `path` is meant as a run's workdir or checkpoint, not as a file or folder of weights."""
    if hub.is_address(path):
        return False
    root = files.locate(path)
    return not root.is_file() and not (root / "model.safetensors").exists()


def find_checkpoint(path: epath.PathLike, given: str = "") -> epath.Path:
    """The newest complete checkpoint folder of a workdir, or `path` itself when it is one. Args: given, what stands
    before the path where the user named it, as `init.path=`. Raises UserError if none is found."""
    root = files.locate(path)
    if root.name.isdecimal() and root.is_dir() and not (root / "checkpoints").is_dir():  # not a workdir called `3`
        return root
    if not (found := steps(root / "checkpoints")):
        why = "no checkpoint there; train that run first" if root.exists() else "no such file or folder"
        raise UserError(f"{given}{path}: {why}, or give the workdir of a run that has one, or weights")
    return root / "checkpoints" / str(found[0])


def read_config(path: epath.PathLike) -> dict:
    """The resolved config of the run that a workdir or one of its checkpoint folders belongs to. Raises UserError if it
    cannot be read."""
    config = find_checkpoint(path).parent.parent / "config.json"
    found = files.read_json(config, "put back a copy of it, or give the workdir of another run")
    if not isinstance(found.get("resolved"), dict):
        raise UserError(f"{config} is not the resolved config of a run: put back a copy of it")
    return found


def _place(source: str) -> str:
    if source not in PARTS:
        raise UserError(f"parameters={source!r}: the parts of a run's state are {' and '.join(PARTS)}")
    return PARTS[source]


def _load(folder: epath.Path, table: dict, place: str, shapes: dict) -> dict:
    """The arrays under a place of the state, "collections/batch_stats"; {} without shapes."""
    if not shapes:
        return {}
    like, keys = shapes, place.split("/")
    for key in reversed(keys):
        like = {key: like}
    tree = manifest.load(folder, table, like, f"{place}/", f"give the model the keys that {folder} was trained with")
    for key in keys:
        tree = tree[key]
    return tree


def _shapes(table: dict, place: str) -> dict:
    """The nested shapes of the arrays under a place of the state, for one device; {} if there are none."""
    tree: dict = {}
    for name, (shape, dtype, _) in table["arrays"].items():
        if name.startswith(f"{place}/"):
            *parents, last = name.removeprefix(f"{place}/").split("/")
            node = tree
            for key in parents:
                node = node.setdefault(key, {})
            node[last] = jax.ShapeDtypeStruct(tuple(shape), dtype, sharding=one_device())
    return tree


@contextlib.contextmanager
def _opened(path: epath.PathLike) -> Iterator[tuple[epath.Path, dict]]:
    """(the newest checkpoint folder, its manifest). Reports damage, and which checkpoint precedes the damaged one."""
    folder = find_checkpoint(path)
    check_layout(folder)
    try:
        yield folder, manifest.read(folder)
    except manifest.Damaged as error:
        before = [step for step in steps(folder.parent) if step < int(folder.name)]
        other = f"give the one before, {folder.parent / str(before[0])}" if before else "train that run again"
        raise UserError(f"checkpoint {folder} is damaged ({error}): {other}") from error
