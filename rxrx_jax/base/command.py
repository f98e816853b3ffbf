"""How every command of the project runs: on which cores, and to its end, with one line for what the user can fix and
the exit status."""

import os
import signal
import sys
from collections.abc import Callable

from rxrx_jax.base.errors import to_the_user

FIX, INTERRUPTED = 2, 130
INTERRUPTED_LINE = "interrupted: what is finished is kept; start the same command again"


def run(main: Callable[[list[str] | None], int | None], argv: list[str] | None = None) -> int:
    """main(argv)'s exit status, where None is 0; `argv` None means sys.argv[1:].

    After one line on stderr 2 for what the user can fix, 130 for Ctrl-C. Any other error is raised.
    """
    try:
        return main(argv) or 0
    except KeyboardInterrupt:
        print(INTERRUPTED_LINE, file=sys.stderr)
        return INTERRUPTED
    except (ValueError, OSError) as error:
        if (line := to_the_user(error)) is None:
            raise
        print(f"error: {line}", file=sys.stderr)
        return FIX


def stop_signals() -> list[int]:
    """The signals that ask a process to stop, less those that it was started to ignore (nohup, a shell's `&`)."""
    asking = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
    return [number for number in asking if signal.getsignal(number) != signal.SIG_IGN]


def cores() -> list[int]:
    """The numbers of the processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))
