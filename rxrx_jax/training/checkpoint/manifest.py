"""A checkpoint's manifest, and reading a checkpoint against it: no array is restored with a wrong bit.

A checkpoint has two parts: the state, and its manifest with the shape, dtype and digest of every array by
name, the part of the state that is published, the run's clock, and a SHA-256 of the manifest itself.
"""

import errno
import hashlib
import json
import pathlib
from collections.abc import Callable

import jax
from etils import epath

from rxrx_jax.base import files, hosts
from rxrx_jax.base.errors import UserError
from rxrx_jax.base.sharding import named_leaves
from rxrx_jax.training.checkpoint.digests import differing, digests

STATE, MANIFEST = "state", "manifest"  # the parts
# Read errors that say nothing about the checkpoint itself, as exceptions and as words of their text.
ELSEWHERE = (UserError, MemoryError, PermissionError)
ERRNO = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE, errno.ETIMEDOUT)
STATUS = ("RESOURCE_EXHAUSTED", "PERMISSION_DENIED", "UNAUTHENTICATED", *hosts.STATUS)


class Damaged(Exception):
    """A checkpoint is not as it was written; the message says why, in a few words. All hosts raise it together."""


def describe(state: dict, clock: dict[str, float], published: str = "params") -> dict:
    """The manifest of a state, for JSON; `published` names the part that is read at test and that others should use, a
    key of former.PARTS. All hosts must call it."""
    found = digests(state)
    arrays = {name: [*_form(x), f"{found[name]:016x}"] for name, x in named_leaves(state).items()}
    table = {"arrays": arrays, "clock": clock, "published": published}
    return table | {"sha256": _sha256(table)}


def read(folder: epath.Path) -> dict:
    """The manifest of a checkpoint. Raises Damaged. All hosts must call it."""

    def checked():
        _check_files(folder)
        table = _load(folder, {MANIFEST: None})[MANIFEST]
        if not isinstance(table, dict) or table.pop("sha256", None) != _sha256(table):
            raise Damaged("its manifest differs")
        return table

    return _on_all_hosts(checked)


def _check_files(folder: epath.Path) -> None:
    """Raises Damaged for what is not a regular file: opening a pipe would wait for someone to write."""
    for path in () if files.is_remote(folder) else pathlib.Path(folder).rglob("*"):
        if not path.is_file() and not path.is_dir():
            raise Damaged(f"{path.relative_to(folder)} is not a regular file")


RESUME = "use the run's own config (config.json), or another --workdir to train again"


def load(folder: epath.Path, table: dict, like: dict, among: str = "", remedy: str = RESUME) -> dict:
    """The arrays of `like`, nested ShapeDtypeStructs with shardings: a part of the state, which must name all that the
    manifest `table` has under `among` ("params/encoder/"; everything by default). All hosts must call it.

    Raises Damaged, and UserError, which ends in the remedy, for an array that is missing, extra or of another shape.
    """
    arrays = table["arrays"]
    stored = {name: tuple(shape) for name, (shape, _, _) in arrays.items() if f"{name}/".startswith(among)}
    wanted = {name: tuple(x.shape) for name, x in named_leaves(like).items()}
    for name in sorted(stored.keys() | wanted.keys()):
        if stored.get(name) != wanted.get(name):
            there, here = stored.get(name, "absent"), wanted.get(name, "absent")
            raise UserError(f"checkpoint {folder} does not fit: {name} is {there} there and {here} here; {remedy}")
    tree = _on_all_hosts(lambda: _load(folder, {STATE: like})[STATE])
    if wrong := differing(tree, {name: int(arrays[name][-1], 16) for name in wanted}):
        raise Damaged(f"{wrong[0]}: digest differs" + f", and of {len(wrong) - 1} more" * (len(wrong) > 1))
    return tree


def _form(x) -> tuple[list[int], str]:
    return list(x.shape), str(x.dtype)


def _sha256(table: dict) -> str:
    return hashlib.sha256(json.dumps(table, sort_keys=True).encode()).hexdigest()


def storage(alone: bool = False):
    """How Orbax stores the parts, an ocp.Context; `alone` is for a host that reads without waiting for the others."""
    from orbax.checkpoint import v1 as ocp  # half a second that `--help` of a command does not wait for

    context = ocp.Context()
    registry = ocp.handlers.local_registry()
    registry.add(ocp.handlers.JsonHandler, checkpointable_name=MANIFEST)  # else every text in it is an array
    context.checkpointables.registry = registry
    context.pytree.loading.partial_load = True
    if alone:
        context.multiprocessing.primary_host = jax.process_index()
        context.multiprocessing.active_processes = {jax.process_index()}
    return context


def _load(folder: epath.Path, like: dict) -> dict:
    """Parts of a checkpoint, read by this host alone: Orbax would wait for one that has failed."""
    from orbax.checkpoint import v1 as ocp

    try:
        with storage(alone=True):
            return ocp.load_checkpointables(folder, like)
    except Exception as error:
        first = error  # Orbax then tries its other handlers, and reports that none fits
        while first.__context__:
            first = first.__context__
        text = " ".join(str(first).split())
        number = getattr(first, "errno", None)
        of_this_host = number in ERRNO or any(f"os_error_code='{n}'" in text for n in ERRNO)
        elsewhere = isinstance(first, ELSEWHERE) or any(word in text for word in STATUS)
        if of_this_host or elsewhere or hosts.is_away(error):
            raise
        raise Damaged(f"{type(first).__name__}: {text[:160]}") from error


def _on_all_hosts(function: Callable):
    """function()'s result on this host. Where any host raises Damaged, all do."""
    result, problem = None, ""
    try:
        result = function()
    except Damaged as error:
        problem = str(error)
    problems = hosts.exchange(problem)
    for i, problem in enumerate(problems):
        if problem:
            raise Damaged(problem if len(set(problems)) == 1 else f"{problem} (host {i})")
    return result
