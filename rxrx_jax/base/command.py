"""How every command of the project ends: one line for what the user can fix, and the exit status."""

import sys
from collections.abc import Callable

from rxrx_jax.base.errors import UserError, to_the_user

FIX, INTERRUPTED = 2, 130


def run(main: Callable[[list[str] | None], int | None], argv: list[str] | None = None) -> int:
    """main(argv)'s exit status, where None is 0; `argv` None means sys.argv[1:].

    After one line on stderr 2 for what the user can fix, 130 for Ctrl-C. Any other error is raised.
    """
    try:
        return main(argv) or 0
    except KeyboardInterrupt:
        print("interrupted: what is finished is kept; start the same command again", file=sys.stderr)
        return INTERRUPTED
    except (UserError, OSError) as error:
        if (line := to_the_user(error)) is None:
            raise
        print(f"error: {line}", file=sys.stderr)
        return FIX
