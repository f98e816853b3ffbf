"""Whose a workdir is: one run's at a time, of one config, on a disk that all its hosts see."""

import contextlib
import json
import pathlib
import sys
from collections.abc import Iterator

from etils import epath

from rxrx_jax.base import files, hosts, lock
from rxrx_jax.base.config import to_json
from rxrx_jax.base.errors import UserError
from rxrx_jax.training import metrics
from rxrx_jax.training.provenance import facts


@contextlib.contextmanager
def alone(workdir: epath.Path) -> Iterator[None]:
    """Keeps other runs out of the workdir, which is made, until this ends or its process does. For the first host of a
    run. An object store has no locks. Raises UserError while another run is in it."""

    def taken(holder: str):
        raise UserError(
            f"{workdir} is in use by another run ({holder or 'it has just started'}): wait for it, stop it, or use "
            "another --workdir"
        )

    if files.is_remote(workdir):
        workdir.mkdir(parents=True, exist_ok=True)
        yield
        return
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(lock.only_one(pathlib.Path(workdir), taken))
        except lock.Unsupported as error:
            hosts.say(f"note: {error}: nothing keeps a second run out")
            workdir.mkdir(parents=True, exist_ok=True)
        yield


def claim(workdir: epath.Path, resolved: dict, measure: bool) -> dict | None:
    """Writes the resolved config into the workdir. A workdir that holds a run of another config is refused; that of the
    same config is resumed, or, when it is finished, its last line is returned. Measurements are always repeated.
    Where it resumes with other code, data, versions or device, stderr says so and config.json keeps both."""
    path, now = workdir / "config.json", json.loads(to_json(resolved))
    stored = json.loads(path.read_text()) if path.exists() else {}
    started = (workdir / "metrics.jsonl").exists()
    again = measure and bool(stored.get("measure"))
    if started and stored and not again and facts.without(stored) != facts.without(now):
        raise UserError(f"{workdir} holds a run with another config (config.json); use another --workdir or delete it")
    if not measure and (done := metrics.finished(workdir / "metrics.jsonl")):
        print(f"{workdir} is finished; nothing to do", file=sys.stderr)
        return done
    now = facts.continued(stored, now, workdir) if started and not again else now
    if now != stored:
        files.write(path, to_json(now))
    return None


def check_shared(workdir: epath.Path) -> None:
    """Raises UserError on a host that does not see what the first one has written."""
    if not (workdir / "config.json").exists():
        raise UserError(f"{workdir} is not the first host's: give a --workdir on a disk that all hosts share, or gs://")
