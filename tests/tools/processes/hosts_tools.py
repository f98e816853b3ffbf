"""Real processes of rxrx_jax.main on tiny runs, one or several that are hosts of one run, with faults put into them.

They are forked from a process that has imported everything, so that each starts in a second; jax's own variables are
read at import, so that what differs between them is set in jax's config.
"""

import dataclasses
import importlib
import multiprocessing
import os
import pathlib
import signal
import sys
import time

import tiny

HERE = pathlib.Path(__file__).resolve().parent
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["hosts_preload"])


@dataclasses.dataclass
class Hosts:
    """Processes under way; `logs` are what they print."""

    workdir: pathlib.Path
    processes: list

    def wait(self, seconds: float = 300) -> list[int]:
        """Exit codes, negative for a signal; what has not ended by then is killed, which reads -9."""
        end = time.monotonic() + seconds
        for p in self.processes:
            p.join(max(end - time.monotonic(), 0.1))
        return self.kill()

    def kill(self) -> list[int]:
        for p in self.processes:
            if p.is_alive():
                os.kill(p.pid, signal.SIGKILL)
            p.join()
        return [p.exitcode for p in self.processes]

    def signal(self, host: int, number: int) -> None:
        os.kill(self.processes[host].pid, number)

    def log(self, host: int = 0) -> str:
        path = self.workdir.parent / f"{self.workdir.name}-{host}.log"
        return path.read_text() if path.exists() else ""

    def until(self, text: str, host: int = 0, seconds: float = 300) -> None:
        """Waits until a host has printed a text."""
        end = time.monotonic() + seconds
        while text not in self.log(host):
            assert time.monotonic() < end and self.processes[host].is_alive(), self.log(host)
            time.sleep(0.02)


def start(workdir, values: dict | list[dict], processes: int = 1, devices: int = 1, faults=()) -> Hosts:
    """Starts a run of `values`, a config or one for each process, as that many hosts.

    faults: (host, "module:function", arguments): called in that process before the run, to break something.
    """
    from launch.local import free_port

    workdir = pathlib.Path(workdir)
    port, running = free_port(), []
    for i in range(processes):
        mine = [(name, arguments) for host, name, *arguments in faults if host == i]
        one = values[i] if isinstance(values, list) else values
        log = workdir.parent / f"{workdir.name}-{i}.log"
        log.unlink(missing_ok=True)
        arguments = (str(workdir), one, i, processes, devices, port, str(log), mine)
        running.append(FORKS.Process(target=host, args=arguments))
        running[-1].start()
    return Hosts(workdir, running)


def finish(*arguments, **more) -> tuple[list[int], Hosts]:
    """`start`, then exit codes and the processes that have ended."""
    hosts = start(*arguments, **more)
    return hosts.wait(), hosts


def host(workdir, values, index, count, devices, port, log, faults):
    """What a process does."""
    import jax

    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1), os.dup2(file, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
    jax.config.update("jax_num_cpu_devices", devices)
    if count > 1:
        coordinator = {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}", "JAX_NUM_PROCESSES": str(count)}
        os.environ.update(coordinator | {"JAX_PROCESS_ID": str(index)})
    from rxrx_jax import main
    from rxrx_jax.base import command, config_flag

    for name, arguments in faults:
        module, _, function = name.partition(":")
        getattr(importlib.import_module(module), function)(*arguments)
    sys.argv = ["main", f"--config={HERE / 'tiny_config.py'}", f"--workdir={workdir}"]
    os.environ["TINY"] = repr(values)
    sys.exit(command.run(config_flag.with_config(main.main)))


def values(folder, config: str = "convnet.py", **changes) -> dict:
    """A tiny config that saves every 3 steps of 12."""
    settings = dict(total_steps=12, checkpoint_steps=3, watchdog_timeout_seconds=60.0)
    return tiny.values(config, folder, **settings | changes)
