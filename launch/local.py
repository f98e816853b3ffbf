"""Emulates N hosts with M CPU devices each on this machine:

python -m launch.local --processes N --devices M [--restarts R] --workdir=DIR -- --config=mae_vit.py ...
"""

import argparse
import contextlib
import os
import pathlib
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable

from launch import common
from rxrx_jax.base import command
from rxrx_jax.base.errors import UserError

TRAINER = common.TRAINER
SLICES = "MEGASCALE_NUM_SLICES"  # as several TPU slices have it; `rxrx_jax.base.sharding` reads it


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m launch.local", description=__doc__)
    parser.add_argument("--processes", type=int, required=True, help="emulated hosts")
    parser.add_argument("--devices", type=int, required=True, help="CPU devices of each")
    parser.add_argument("--slices", type=int, default=1, help="that the hosts are of, as several TPU slices")
    parser.add_argument("--restarts", type=int, default=0, help="how often a lost or preempted run is started again")
    parser.add_argument("--grace", type=float, default=10, help="seconds between SIGTERM and SIGKILL after a failure")
    parser.add_argument("--port", type=int, default=0, help="of the first host; default a free one")
    parser.add_argument("--module", default=TRAINER, help=argparse.SUPPRESS)
    options, trainer = common.parse(parser, argv)

    if options.slices < 1 or options.processes % options.slices:
        raise UserError(f"--slices={options.slices} does not divide --processes={options.processes}")
    slices = {SLICES: str(options.slices)} if options.slices > 1 else {}

    def hosts():
        found = commands(options.processes, options.devices, trainer, options.port, options.module)
        return [(environment | slices, line) for environment, line in found]

    return see_through(hosts, options)


def commands(
    processes: int, devices: int, arguments: list[str], port: int = 0, module: str = TRAINER
) -> list[tuple[dict[str, str], list[str]]]:
    """(environment, command line) of every emulated host."""
    address = f"127.0.0.1:{port or free_port()}"
    shared = {
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(devices),
        "JAX_COORDINATOR_ADDRESS": address,
        "JAX_NUM_PROCESSES": str(processes),
    }
    return [(shared | {"JAX_PROCESS_ID": str(i)}, trainer_line(arguments, module)) for i in range(processes)]


def trainer_line(arguments: list[str], module: str = TRAINER) -> list[str]:
    # Where util-linux is installed the kernel kills a host when the launcher dies, also by SIGKILL: no orphans.
    tied = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
    module, arguments = common.program(arguments, module)
    return [*tied, sys.executable, "-m", module, *arguments]


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


# Hosts of this machine, emulated or not, are processes that live and die together


def see_through(hosts: Callable[[], list], options: argparse.Namespace) -> int:
    """Runs hosts(), what `commands` returns, until the run is finished, or only prints it. The run's exit code."""
    folder = common.folder_of(options.workdir)
    if options.dry_run:
        print(f"mkdir -p {shlex.quote(str(folder / 'hosts'))}")
        for i, (environment, line) in enumerate(hosts()):
            log = shlex.quote(str(log_of(folder, i)))
            print(f"{common.assignments(environment)}{shlex.join(line)} >> {log} 2>&1 &")
        print("wait")
        return 0
    signals = common.catch_signals()  # the run ends with the terminal, as its hosts do with this

    def once() -> int:
        show = follow(log_of(folder, 0))
        running = spawn(hosts(), folder)
        code = wait(running, options.grace, signals, show)
        for i, p in enumerate(running):
            if p.returncode:
                common.say(f"host {i} ended with code {p.returncode}; see {log_of(folder, i)}")
        return code

    code = common.see_through(once, options.restarts, options.workdir, stopped=lambda: bool(signals))
    return 128 - code if code < 0 else code  # as a shell reports that a signal ended it


def start(
    processes: int, devices: int, arguments: list[str], logs=None, port: int = 0, module: str = TRAINER
) -> list[subprocess.Popen]:
    """Starts the emulated hosts, `python -m MODULE ARGUMENTS` each; see `spawn` for where their output goes."""
    return spawn(commands(processes, devices, arguments, port, module), logs)


def spawn(hosts: Iterable[tuple[dict[str, str], list[str]]], logs=None) -> list[subprocess.Popen]:
    """Starts every (environment, command line). Output is appended to logs/hosts/I.log, or goes where this process's
    output goes when `logs` is None."""
    running = []
    for i, (environment, line) in enumerate(hosts):
        if logs is not None:
            log_of(logs, i).parent.mkdir(parents=True, exist_ok=True)
        with open(log_of(logs, i), "ab") if logs is not None else contextlib.nullcontext() as output:
            # A session of its own: Ctrl-C reaches the launcher alone, which passes it on as SIGTERM.
            process = subprocess.Popen(
                line, env=os.environ | environment, stdout=output, stderr=output, start_new_session=True
            )
        running.append(process)
    return running


def log_of(folder, i: int) -> pathlib.Path:
    return pathlib.Path(folder) / "hosts" / f"{i}.log"


def wait(
    running: list[subprocess.Popen],
    grace: float = 10,
    signals: list[int] = (),
    show: Callable[[], None] = lambda: None,
) -> int:
    """Waits until all have ended, calling show() meanwhile. The first of `signals` is passed on as SIGTERM, which asks
    for a checkpoint, the second as SIGKILL. When one fails, the others are ended: SIGTERM, then after `grace` seconds
    SIGKILL, which also ends what is stopped.

    The exit code: 2 if any ended so; else of the first to fail (of several at once, one that a restart helps); else 0.
    """
    heeded = 0
    while not any(p.poll() for p in running) and any(p.poll() is None for p in running):
        if len(signals) > heeded:
            heeded = len(signals)
            for p in running:
                p.terminate() if heeded == 1 else p.kill()
        show()
        time.sleep(common.POLL_SECONDS)
    first = [code for p in running if (code := p.poll())]
    end(running, grace)
    show()
    if common.FIX in [p.returncode for p in running]:
        return common.FIX
    return next(filter(common.helped_by_restart, first), first[0] if first else 0)


def end(running: list[subprocess.Popen], grace: float = 10) -> None:
    """Ends all that still run: SIGTERM, then after `grace` seconds SIGKILL."""
    deadline = time.monotonic() + grace
    for p in running:
        p.terminate()
    for p in running:
        try:
            p.wait(max(deadline - time.monotonic(), 0))
        except subprocess.TimeoutExpired:
            p.kill()
            p.wait()


def follow(path: pathlib.Path) -> Callable[[], None]:
    """A function that prints what was appended to the file since it was called last."""
    at = path.stat().st_size if path.exists() else 0

    def show() -> None:
        nonlocal at
        with open(path, "rb") as f:
            f.seek(at)
            sys.stdout.buffer.write(f.read())
            sys.stdout.flush()
            at = f.tell()

    return show


if __name__ == "__main__":
    sys.exit(command.run(main))
