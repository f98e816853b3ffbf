"""Runs of a table that are not the trainer's: what they leave in their workdir, as training does."""

import contextlib
import pathlib
import time
from collections.abc import Callable, Iterator

import jax

from rxrx_jax.base import config, files, lock
from rxrx_jax.base.errors import UserError
from rxrx_jax.training import metrics
from rxrx_jax.training.provenance import facts


@contextlib.contextmanager
def recorded(workdir: pathlib.Path, values: dict, data: str = "") -> Iterator[Callable[[dict], None]]:
    """Holds a workdir, writes its config.json and gives what writes the last evaluation, name -> number or text, into
    metrics.jsonl. When all went well the line follows that says that the run is done.

    Args: values, the config; data, what the numbers are of, for the record. Raises UserError while another process
    holds the workdir.
    """

    def taken(holder: str):
        raise UserError(f"--workdir={workdir} is held by {holder}; use another or wait for it to end")

    devices = jax.devices()
    made_by = {"code": facts.code_version(), "device": f"{len(devices)} x {devices[0].device_kind}"}
    made_by |= {"data": data} if data else {}
    with lock.only_one(workdir, taken):
        files.write(workdir / "config.json", config.to_json(values | {"resolved": {facts.NOW: made_by}}))
        with metrics.Writer(workdir, 0) as writer:
            yield lambda found: writer.write(1, {"final": True} | found)
            writer.write(1, {"done": True, "cpu_seconds": time.process_time()} | made_by)
