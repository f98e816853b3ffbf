"""How the hosts of a run find each other."""

import os
import socket
import sys
import time

import jax

from rxrx_jax.base.errors import UserError, shortened
from rxrx_jax.base.hosts.departure import AGAIN, heed

# What srun sets, and jax reads, in each process of a step.
SRUN = ("SLURM_JOB_ID", "SLURM_NTASKS", "SLURM_STEP_NODELIST", "SLURM_PROCID", "SLURM_LOCALID")
CLUSTER = ("JAX_COORDINATOR_ADDRESS", "SLURM_JOB_ID", "TPU_WORKER_HOSTNAMES")  # by which `_cluster` knows one
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
        if not (_is_number(count) and _is_number(index) and int(index) < int(count)):
            raise UserError(f"JAX_NUM_PROCESSES={count} and JAX_PROCESS_ID={index}: set both, to N and one of 0 .. N-1")
        address = os.environ.get("JAX_COORDINATOR_ADDRESS", "")
        host, _, port = address.rpartition(":")
        if not (host and _is_number(port) and int(port) < 1 << 16):
            raise UserError("JAX_NUM_PROCESSES needs JAX_COORDINATOR_ADDRESS=HOST:PORT, an address of the first host")
        _await_first(host, int(port)) if int(index) else _check_free(int(port))
        jax.distributed.initialize(num_processes=int(count), process_id=int(index))
    elif multihost or _cluster():
        try:
            jax.distributed.initialize()
        except ValueError as error:  # jax finds no cluster, or reads nonsense of it
            given = "--multihost" if multihost else " and ".join(name for name in CLUSTER if name in os.environ)
            raise UserError(
                f"{given}: the environment does not say which hosts there are ({shortened(str(error))}): set "
                f"JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID, or leave out {given} for one host"
            ) from error
    elif _tasks("SLURM_NTASKS") > 1:
        print(
            f"note: this job has {os.environ['SLURM_NTASKS']} tasks and this process is none of srun's, so it runs by "
            "itself; to use them all start it with srun, or by python -m launch.slurm",
            file=sys.stderr,
        )
    if jax.process_count() > 1:
        where = f"host {jax.process_index()} of {jax.process_count()} ({socket.gethostname()})"
        print(f"{where}: {jax.local_device_count()} of {jax.device_count()} devices", file=sys.stderr, flush=True)
        heed()


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
    tasks = "SLURM_STEP_NUM_TASKS" if os.environ.get("SLURM_STEP_NUM_TASKS") else "SLURM_NTASKS"
    step = all(name in os.environ for name in SRUN) and _tasks(tasks) > 1
    return bool(coordinator) or step or len(workers) > 1


def _tasks(variable: str) -> int:
    """The number of tasks that a variable of SLURM says, 1 where it is not set."""
    value = os.environ.get(variable) or "1"
    if not _is_number(value):
        raise UserError(f"{variable}={shortened(value)}: expected a number of tasks; unset it, or start it with srun")
    return int(value)


def _is_number(text: str | None) -> bool:
    return bool(text) and text.isdecimal() and len(text) < 10
