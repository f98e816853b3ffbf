"""One process at a time builds in a folder."""

import contextlib
import pathlib
import shutil
from collections.abc import Iterator

from rxrx_jax.base import lock


@contextlib.contextmanager
def only_one(working: pathlib.Path, progress: bool) -> Iterator[None]:
    """Makes the folder `working` and waits while another process is in it; says so if `progress`. The folder goes in
    the end when nothing is left in it."""

    def taken(_):
        if progress:
            print(f"waiting: another process builds {working.with_suffix('')}", flush=True)

    try:
        with lock.only_one(working, taken):
            yield
    finally:
        with contextlib.suppress(OSError):  # half-built, or another process is here already
            working.rmdir()


def clear(working: pathlib.Path) -> None:
    """Removes all but the lock."""
    for path in working.iterdir():
        if path.name != lock.NAME:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
