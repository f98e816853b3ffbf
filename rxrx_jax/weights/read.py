"""Reads the tensors of a file of weights, recognised by its content and not by its name."""

import json
import pathlib
import stat

import numpy as np
import safetensors

from rxrx_jax.base import files
from rxrx_jax.base.errors import UserError, shortened
from rxrx_jax.weights import torch_archive, wrappers

MAX_HEADER = 1 << 24  # bytes of a safetensors header; that of a thousand tensors has 10^5


def read_tensors(path: str | pathlib.Path) -> dict[str, np.ndarray]:
    """The tensors of a safetensors file or of one of torch.save, by name, in their own dtypes; read-only. Of a
    training program's dict those of its model (`wrappers.inner`).

    No code in the file is run (see `torch_archive`). Raises UserError, one line that names the file, for a file that is
    missing, damaged, refused, or that holds something other than tensors.
    """
    return wrappers.inner(path, read_saved(path))[0]


def read_saved(path: str | pathlib.Path):
    """What a file holds: tensors by name, or whatever else torch.save was given. Raises as
    `read_tensors` does."""
    path = pathlib.Path(path)
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # reading a fifo would wait for ever
            raise UserError(f"{path} is not a regular file; give a file of weights")
        with open(path, "rb") as file:
            head = file.read(torch_archive.HEAD)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    files.check_pointer(path)
    if head[8:9] == b"{":  # after the length of a header, which may begin with any byte
        return _read_safetensors(path, int.from_bytes(head[:8], "little"))
    if head.startswith(b"PK"):
        return torch_archive.read(path)
    if torch_archive.MAGIC_CODE in head:
        return torch_archive.read_former(path)
    what = "a pickle, and " if head.startswith(b"\x80") else ""
    raise UserError(f"{path} is {what}not a file of weights: neither safetensors nor of torch.save")


def _read_safetensors(path: pathlib.Path, length: int) -> dict[str, np.ndarray]:
    def unique(pairs):
        if len({key for key, _ in pairs}) < len(pairs):
            raise UserError(f"{path} is refused: its header holds a name twice")
        return dict(pairs)

    if MAX_HEADER < length < path.stat().st_size:
        raise UserError(f"{path} is refused: its header has {length:,} bytes; no weights need over {MAX_HEADER:,}")
    try:
        with safetensors.safe_open(path, framework="np") as file:  # checks every offset against the file's size
            with open(path, "rb") as raw:
                json.loads(raw.read(int.from_bytes(raw.read(8), "little")), object_pairs_hook=unique)
            return {name: file.get_tensor(name) for name in file.keys()}
    except UserError:
        raise
    except (safetensors.SafetensorError, OSError, TypeError, ValueError, AttributeError, MemoryError,
            ArithmeticError, RuntimeError) as error:  # fmt: skip
        raise UserError(f"{path} is damaged or not a safetensors file: {shortened(str(error))}") from error
