"""A prepared folder for an object store: made on a disk, then uploaded."""

import contextlib
import pathlib
import shutil
from collections.abc import Callable

from etils import epath

from rxrx_jax.base.files import mirror, stores

STAGING = "~/.cache/rxrx_jax/staging"
HELP = f"where a dataset for gs:// or s3:// is built first (default: {STAGING})"


def fill(
    make: Callable[[pathlib.Path], pathlib.Path],
    folder: epath.Path,
    staging: str | pathlib.Path | None,
    progress: bool,
) -> epath.Path:
    """Fills a folder in an object store, which is complete once `mirror.MARK` is there, and returns it.

    Args: make(place), makes the dataset in a folder of datasets on this disk, unless it is there, and returns its own;
    staging, that place, STAGING if None, from which the dataset is removed in the end; progress, say what is done.
    """
    made = make(pathlib.Path(staging or STAGING).expanduser().absolute())
    if progress:
        print(f"uploading  {made} to {folder}", flush=True)
    stores.upload_folder(made, str(folder), mirror.MARK)
    shutil.rmtree(made)
    with contextlib.suppress(OSError):  # other versions and configs
        made.parent.rmdir()
        made.parents[1].rmdir()
    return folder
