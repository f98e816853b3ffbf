"""Hosts of one run: how they find each other, agree, fail together, and exit when one is lost."""

import contextlib
import json
import os
import socket
import sys
import time
import traceback
from collections.abc import Callable

import jax
import numpy as np
from jax.experimental import multihost_utils

from rxrx_jax.base.command import FIX, INTERRUPTED, INTERRUPTED_LINE
from rxrx_jax.base.config import flatten
from rxrx_jax.base.errors import UserError, to_the_user

AGAIN = 75  # exit code: a host hangs or is lost, start again (EX_TEMPFAIL)
# jax's errors when another host no longer responds: gloo (CPU), NCCL (GPU), the coordination service.
LOST = (
    "gloo",
    "nccl",
    "connection",
    "unavailable",
    "deadline_exceeded",
    "aborted",
    "heartbeat",
    "coordination",
    "halted",
)
# What an object store's clients raise when it does not respond after all their retries: modules of
# exceptions, HTTP codes, status words.
NETWORK = ("aiohttp", "requests")
BUSY = ("408", "429", "500", "502", "503", "504")
STATUS = ("UNAVAILABLE", "DEADLINE_EXCEEDED")
# What srun sets, and jax reads, in each process of a step.
SRUN = ("SLURM_JOB_ID", "SLURM_NTASKS", "SLURM_STEP_NODELIST", "SLURM_PROCID", "SLURM_LOCALID")
FIRST_SECONDS, SILENT_SECONDS = 300, 20  # for the first host to be there, and to say that it is one
SETTINGS = b"\4"  # the kind of the first frame on a connection of gRPC, which is HTTP/2; it comes after the length
HTTP2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + SETTINGS + bytes(5)  # settings: none


def join(multihost: bool) -> None:
    """Finds the other hosts. Call before anything asks for a device.

    JAX_COORDINATOR_ADDRESS with JAX_NUM_PROCESSES and JAX_PROCESS_ID state it outright; SLURM with several tasks, and
    TPU slices whose environment names their workers, are found by jax; `multihost` makes jax look also where nothing in
    the environment tells (Cloud TPU's virtual machines). One host by itself needs nothing. Raises UserError when the
    variables do not fit together.
    """
    jax.config.update("jax_enable_preemption_service", False)  # preemption.py says why
    count, index = os.environ.get("JAX_NUM_PROCESSES"), os.environ.get("JAX_PROCESS_ID")
    if count is not None or index is not None:
        if not (count and index and count.isdigit() and index.isdigit() and int(index) < int(count)):
            raise UserError(f"JAX_NUM_PROCESSES={count} and JAX_PROCESS_ID={index}: set both, to N and one of 0 .. N-1")
        address = os.environ.get("JAX_COORDINATOR_ADDRESS", "")
        host, _, port = address.rpartition(":")
        if not (host and port.isdigit()):
            raise UserError("JAX_NUM_PROCESSES needs JAX_COORDINATOR_ADDRESS=HOST:PORT, an address of the first host")
        _await_first(host, int(port)) if int(index) else _check_free(int(port))
        jax.distributed.initialize(num_processes=int(count), process_id=int(index))
    elif multihost or _cluster():
        jax.distributed.initialize()
    elif int(os.environ.get("SLURM_NTASKS", 1)) > 1:
        print(
            f"note: this job has {os.environ['SLURM_NTASKS']} tasks and this process is none of srun's, so it runs by "
            "itself; to use them all start it with srun, or by python -m launch.slurm",
            file=sys.stderr,
        )
    if jax.process_count() > 1:
        where = f"host {jax.process_index()} of {jax.process_count()} ({socket.gethostname()})"
        print(f"{where}: {jax.local_device_count()} of {jax.device_count()} devices", file=sys.stderr, flush=True)


def _check_free(port: int) -> None:
    """Raises UserError when another program listens on a port of this machine, which jax might share with it."""
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections that have just ended do not count
        try:
            s.bind(("", port))
        except OSError as error:
            raise UserError(
                f"JAX_COORDINATOR_ADDRESS: port {port} of this machine is not free ({error.strerror}); choose another"
            ) from error


def _await_first(host: str, port: int) -> None:
    """Waits until the first host listens. jax would wait for minutes for another program at that port, and abort the
    process. Raises UserError for such a program, and SystemExit, after one line, when nothing listens in time."""
    begin = time.monotonic()
    while True:
        talks = False
        try:
            with socket.create_connection((host.strip("[]"), port), 5) as s:
                talks = True
                s.sendall(HTTP2)
                answer, why = s.recv(9), "it says nothing"
            if answer[3:4] == SETTINGS:
                return
        except OSError as error:
            answer, why = b"", str(error)
        seconds = time.monotonic() - begin
        if answer or (talks and seconds > SILENT_SECONDS):
            raise UserError(
                f"JAX_COORDINATOR_ADDRESS={host}:{port}: another program listens there, not the first host of a run; "
                "choose another port"
            )
        if seconds > FIRST_SECONDS:
            print(f"error: no first host at {host}:{port} ({why}): start all hosts again", file=sys.stderr)
            raise SystemExit(AGAIN)
        time.sleep(0.2)


def part() -> None:
    """Undoes `join`. Waits until all hosts have come this far, for the first one serves the others."""
    if jax.distributed.is_initialized():
        jax.distributed.shutdown()


def _cluster() -> bool:
    """Whether the environment says that this is one of several tasks. Of SLURM's that is a step's process: in a job's
    script, and in a shell within a job, its number of tasks is set too."""
    workers = os.environ.get("TPU_WORKER_HOSTNAMES", "").split(",")
    coordinator = os.environ.get("JAX_COORDINATOR_ADDRESS")
    tasks = os.environ.get("SLURM_STEP_NUM_TASKS") or os.environ.get("SLURM_NTASKS", 1)
    step = all(name in os.environ for name in SRUN) and int(tasks) > 1
    return bool(coordinator) or step or len(workers) > 1


def say(line: str) -> None:
    """One line on stderr, from the first host."""
    if jax.process_index() == 0:
        print(line, file=sys.stderr, flush=True)


def exchange(text: str) -> list[str]:
    """The text of every host, in order; all must call it."""
    if jax.process_count() == 1:
        return [text]
    mine = np.frombuffer(text.encode(), np.uint8)
    lengths = multihost_utils.process_allgather(np.array([len(mine)])).ravel()
    padded = np.zeros(lengths.max(), np.uint8)
    padded[: len(mine)] = mine
    everyone = multihost_utils.process_allgather(padded)
    return [everyone[i, :n].tobytes().decode() for i, n in enumerate(lengths)]


def on_any(flag: bool) -> bool:
    """Whether a flag is set on any host; all must call it."""
    return flag if jax.process_count() == 1 else bool(multihost_utils.process_allgather(np.array(flag)).any())


def on_all_hosts(function: Callable):
    """function()'s result on this host. When it raises on any host what the user can fix, UserError is raised on all,
    naming the host, so that none waits for one that has stopped; all must call it."""
    result, error = None, ""
    try:
        result = function()
    except (UserError, OSError) as e:
        error = to_the_user(e)
        if error is None or jax.process_count() == 1:
            raise
    errors = exchange(error)
    for i, error in enumerate(errors):
        if error:
            raise UserError(error if len(set(errors)) == 1 else f"host {i}: {error}")
    return result


def on_first_host(function: Callable):
    """What function() gives on the first host (anything that JSON can hold), on all of them; it runs there alone. What
    the user can fix there is raised as UserError on all; all must call it."""
    found, error = None, ""
    if jax.process_index() == 0:
        try:
            found = function()
        except (UserError, OSError) as e:
            error = to_the_user(e)
            if error is None or jax.process_count() == 1:
                raise
    found, error = json.loads(exchange(json.dumps([found, error]))[0])
    if error:
        raise UserError(error)
    return found


def check_equal_across_hosts(facts: dict[str, str]) -> None:
    """Raises UserError on every host when a fact is not the same on all of them; all must call it. The text of a fact
    may be JSON of a nested dict, of which the key that differs is named."""
    everyone = [json.loads(text) for text in exchange(json.dumps(facts))]
    for name in facts:
        for i, other in enumerate(everyone):
            if other[name] != everyone[0][name]:
                raise UserError(
                    f"host {i} has another {name} than host 0: {_difference(everyone[0][name], other[name])}; "
                    "start all hosts with the same command, code and data"
                )


def _difference(one: str, other: str) -> str:
    """The first key in which two JSON objects differ, else both texts, cut short."""
    with contextlib.suppress(ValueError, AttributeError):
        one, other = flatten(json.loads(one)), flatten(json.loads(other))
        key = next(k for k in sorted(one.keys() | other.keys()) if one.get(k) != other.get(k))
        return f"{key} is {other.get(key)!r}, not {one.get(key)!r}"
    return f"{other[:16]}, not {one[:16]}"


@contextlib.contextmanager
def leaving(*passing: type[BaseException]):
    """Around the work of a host. What one of several raises ends the process at once, with one line where the user or a
    restart can fix it: Python's usual exit waits for the other hosts, which wait for this one. Only what all hosts
    raise together may exit that way: the types `passing`. With one host only unresponsive storage is reported so."""
    try:
        yield
    except passing:
        raise
    except BaseException as e:
        several = jax.distributed.is_initialized() and jax.process_count() > 1
        away = is_away(e)
        if not several and not away:
            raise
        code, line = 1, None
        if isinstance(e, SystemExit):
            code = e.code if isinstance(e.code, int) else bool(e.code)
        elif isinstance(e, KeyboardInterrupt):
            code, line = INTERRUPTED, INTERRUPTED_LINE
        elif to_the_user(e) is not None:
            code, line = FIX, f"error: {to_the_user(e)}"
        elif away or is_lost(e):
            what = "the storage does not respond" if away else "another host is lost"
            again = "start all hosts again" if several else "start again"
            why = str(e).partition("\n")[0][:200]
            code, line = AGAIN, f"error: {what} ({why}): {again}"
        if not isinstance(e, SystemExit) and code not in (FIX, INTERRUPTED):
            traceback.print_exc()
        if line:
            print(line, file=sys.stderr)
        if not several:
            raise SystemExit(code) from None
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def is_lost(error: BaseException) -> bool:
    """Whether an error says that another host does not respond."""
    of_jax = isinstance(error, (jax.errors.JaxRuntimeError, ValueError, RuntimeError))
    return of_jax and any(word in str(error).lower() for word in LOST)


def is_away(error: BaseException) -> bool:
    """Whether an error, or one that it came from, says that the storage does not respond for now."""
    if not isinstance(error, Exception) or isinstance(error, (UserError, jax.errors.JaxRuntimeError)):
        return False
    if isinstance(error, (ConnectionError, TimeoutError)) or type(error).__module__.partition(".")[0] in NETWORK:
        return True
    if str(getattr(error, "code", None)) in BUSY:
        return True
    if isinstance(error, ValueError) and any(word in str(error) for word in STATUS):  # tensorstore's
        return True
    return any(is_away(before) for before in {error.__cause__, error.__context__} - {None})
