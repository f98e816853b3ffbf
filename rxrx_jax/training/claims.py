"""Whose a workdir is: one run's at a time, of one config, on a disk that all its hosts see."""

import contextlib
import json
import pathlib
import sys
import uuid
from collections.abc import Iterator

import jax
from etils import epath

from rxrx_jax.base import files, hosts, lock, seen
from rxrx_jax.base.config import flatten, to_json
from rxrx_jax.base.errors import UserError, shortened, to_the_user
from rxrx_jax.base.sharding import parameters_sha256
from rxrx_jax.training import checkpoint, metrics
from rxrx_jax.training.provenance import facts

NAMED, ABSENT = 3, "absent"  # keys that are named where configs differ
REMEDY = "put back a copy of it, or use another --workdir"


@contextlib.contextmanager
def alone(workdir: epath.Path) -> Iterator[None]:
    """Keeps other runs out of the workdir, which is made, until this ends or its process does. For the first host of a
    run. An object store has no locks. Raises UserError while another run is in it."""

    def taken(holder: str):
        raise UserError(
            f"{workdir} is in use by another run ({holder or 'it has just started'}): wait for it, stop it, or use "
            "another --workdir"
        )

    with contextlib.ExitStack() as stack:
        stack.enter_context(hosts.before_exit(lambda error: stack.__exit__(type(error), error, None)))
        if files.is_remote(workdir):
            workdir.mkdir(parents=True, exist_ok=True)
        else:
            try:
                stack.enter_context(lock.only_one(pathlib.Path(workdir), taken))
            except lock.Unsupported as error:
                hosts.say(f"note: {error}: nothing keeps a second run out")
                workdir.mkdir(parents=True, exist_ok=True)
        stack.enter_context(_nothing_left_of_a_refusal(workdir))
        yield


@contextlib.contextmanager
def _nothing_left_of_a_refusal(workdir: epath.Path) -> Iterator[None]:
    """Removes what a start has written when it fails, for what the user can fix, before it trains."""
    written = [workdir / "config.json", workdir / seen.NAME]
    new = [path for path in written if not path.exists()]
    try:
        yield
    except Exception as error:
        with contextlib.suppress(OSError, UserError):
            if to_the_user(error) is not None and not has_begun(workdir):
                hosts_json = workdir.glob("hosts/*.json") if (workdir / "hosts").is_dir() else ()
                for path in (*new, *hosts_json):
                    path.unlink(missing_ok=True)
                (workdir / "hosts").rmdir()
        raise


def claim(workdir: epath.Path, resolved: dict, measure: bool) -> dict | None:
    """Writes the resolved config into the workdir. A workdir that holds a run of another config is refused; that of the
    same config is resumed, or, when it says that it is finished, its last line is returned. Measurements are always
    repeated. Where it resumes with other code, data, versions or device, stderr says so and config.json keeps both."""
    path, now = workdir / "config.json", json.loads(to_json(resolved))
    started = has_begun(workdir)
    if started and not path.exists():
        raise UserError(f"{workdir} holds a run and its config.json is not there: {REMEDY}")
    try:
        stored = files.read_json(path, REMEDY) if path.exists() else {}
    except UserError:
        if started:
            raise
        stored = {}  # nothing is lost that this start does not write again
    again = measure and bool(stored.get("measure"))
    if started and stored and not again and facts.without(stored) != facts.without(now):
        raise UserError(f"{workdir} holds a run with another config: {differences(stored, now)}; use another --workdir")
    if not measure and (done := finished(workdir, resolved["resolved"]["total_steps"])):
        return done
    now = facts.continued(stored, now, workdir) if started and not again else now
    if now != stored:
        files.write(path, to_json(now))
    return None


def has_begun(workdir: epath.Path) -> bool:
    """Whether a run has left anything there that it would resume from."""
    return (workdir / metrics.NAME).exists() or bool(checkpoint.steps(workdir / "checkpoints"))


def differences(stored: dict, now: dict) -> str:
    """In which keys two resolved configs differ, the first few with their values there and here."""
    there, here = (flatten(json.loads(to_json(facts.without(config)))) for config in (stored, now))
    keys = [key for key in sorted(there.keys() | here.keys()) if there.get(key, ABSENT) != here.get(key, ABSENT)]
    keys = sorted(keys, key=lambda key: key.startswith("resolved."))  # what follows from the others comes last
    named = [f"{key} is {there.get(key, ABSENT)} there and {here.get(key, ABSENT)} here" for key in keys[:NAMED]]
    return "; ".join(named) + (f" (and {len(keys) - NAMED} more)" if len(keys) > NAMED else "")


def finished(workdir: epath.Path, total_steps: int) -> dict | None:
    """The last line of a run of so many steps, if it is finished. Raises UserError when that line says so and the
    checkpoint that it was written after is not there."""
    last = metrics.finished(workdir / metrics.NAME)
    if last and (last["step"] != total_steps or total_steps not in checkpoint.steps(workdir / "checkpoints")):
        raise UserError(
            f"{workdir / metrics.NAME} says done at step {last['step']}, and checkpoints/{total_steps} is not there: "
            "put it back, or use another --workdir to train again"
        )
    return last


def confirm(workdir: epath.Path, last: dict) -> None:
    """Says that a run is finished if the parameters that it ended with are those of its checkpoint, else raises
    UserError. Args: last, its last line. All hosts must call it."""
    folder = workdir / "checkpoints" / str(last["step"])
    said, found = last.get("parameters_sha256"), parameters_sha256(checkpoint.stored_parameters(folder))
    if said != found:
        raise UserError(
            f"{workdir / metrics.NAME} says done with parameters_sha256 {shortened(said, 12) if said else ABSENT}, and "
            f"{folder} holds parameters of {found[:12]}: put back a copy of the file, or remove its last line, and the "
            "same command evaluates again"
        )
    hosts.say(f"{workdir} is finished; nothing to do")


def warn_of_a_fresh_start(workdir: epath.Path) -> None:
    """Says on stderr that a run which has trained starts from the beginning, for want of a checkpoint."""
    path = workdir / metrics.NAME
    if lines := metrics.read(path) if path.exists() else []:
        print(
            f"WARNING: {workdir} has metrics up to step {lines[-1]['step']} and no checkpoint: starting from step 0, "
            f"and {metrics.NAME} again",
            file=sys.stderr,
        )


def check_shared(workdir: epath.Path) -> None:
    """Raises UserError on all hosts when one does not see what the first one writes there. All must call it."""
    if jax.process_count() == 1:
        return

    def write() -> str:
        name = f"seen-{uuid.uuid4().hex}"  # a new name, because file systems remember which names are not there
        (workdir / "hosts").mkdir(exist_ok=True)
        files.write(workdir / "hosts" / name, "")
        return name

    def look():
        if not mark.exists():
            raise UserError(
                f"{workdir} is not the first host's: give a --workdir on a disk that all hosts share, or gs://"
            )

    mark = workdir / "hosts" / hosts.on_first_host(write)
    try:
        hosts.on_all_hosts(look)
    finally:
        if jax.process_index() == 0:
            mark.unlink(missing_ok=True)
