"""Shell text for a host that is reached by ssh: code by commit, an installation, a run that outlives the connection.

On the host ~/rxrx_jax holds a folder for each commit and, for each run, NAME.log, NAME.pid and, once it has ended,
NAME.code with its exit code. Every text may run twice: gcloud repeats what a broken connection cut off.
"""

import shlex
from collections.abc import Sequence

from launch import common


def unpack(commit: str) -> str:
    """Unpacks an archive of the code from standard input."""
    return f"mkdir -p rxrx_jax/{commit} && tar -xz -C rxrx_jax/{commit}"


def install(commit: str, extra: str) -> str:
    """Installs the unpacked code, for `gpu` or `tpu`, in an environment of its own."""
    # uv, because the Python of Cloud TPU VMs (Ubuntu 22.04: 3.10) is older than what the project needs.
    return "\n".join(
        [
            f"set -e; cd rxrx_jax/{commit}",
            "test -x ~/.local/bin/uv || curl -LsSf https://astral.sh/uv/install.sh | sh",
            "test -d .venv || ~/.local/bin/uv venv --quiet --python 3.12 .venv",
            f"~/.local/bin/uv pip install --quiet --python .venv/bin/python -e '.[{extra},gcs]'",
        ]
    )


def start(
    commit: str, name: str, line: Sequence[str], environment: dict[str, str], before: str = "", afterwards: str = ""
) -> str:
    """Starts `python LINE` so that it survives the end of the connection, unless it is running already.
    `before` and `afterwards` (shell) run when it starts and when it has ended."""
    run = f"{common.assignments(environment)}.venv/bin/python {shlex.join(line)}"
    inner = "; ".join(filter(None, [before, run, "code=$?", afterwards, f"echo $code > ../{name}.code"]))
    return "\n".join(
        [
            f"cd rxrx_jax/{commit} || exit 1",
            f'test ! -e ../{name}.code && kill -0 "$(cat ../{name}.pid 2> /dev/null)" 2> /dev/null && exit 0',
            f"rm -f ../{name}.code",
            f"setsid nohup bash -c {shlex.quote(inner)} >> ../{name}.log 2>&1 < /dev/null &",
            f"echo $! > ../{name}.pid",
        ]
    )


def follow(name: str) -> str:
    """Prints the log until the run has ended, and exits with its code (75 if it was killed before writing one)."""
    return "\n".join(
        [
            "cd rxrx_jax || exit 1",
            f'tail --pid="$(cat {name}.pid)" -s 0.2 -n 50 -F {name}.log 2> /dev/null',
            f'exit "$(cat {name}.code 2> /dev/null || echo 75)"',
        ]
    )


def signal(name: str, signal: str) -> str:
    """Sends a signal to the run's program: to no child of it, because the loaders must live until the checkpoint."""
    return f'pkill -{signal} -P "$(cat rxrx_jax/{name}.pid)" || true'


def kill(name: str) -> str:
    """Ends what is left of the run and waits until it is gone."""
    return signal(name, "KILL") + f'\ntimeout 60 tail --pid="$(cat rxrx_jax/{name}.pid)" -f /dev/null'
