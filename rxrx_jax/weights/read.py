"""Reads the tensors of a file of weights, recognised by its content and not by its name."""

import json
import pathlib

import numpy as np
import safetensors

from rxrx_jax.base.errors import UserError
from rxrx_jax.weights import torch_archive

INSIDE = ("state_dict", "model", "model_state_dict")  # where training programs put the state_dict


def read_tensors(path: str | pathlib.Path) -> dict[str, np.ndarray]:
    """The tensors of a safetensors file or of an archive of torch.save, by name, in their own dtypes; read-only.

    No code in the file is run (see `torch_archive`). Raises UserError, one line that names the file, for a file that is
    missing, damaged, refused, in the format before PyTorch 1.6, or that holds something other than tensors.
    """
    path = pathlib.Path(path)
    try:
        with open(path, "rb") as file:
            head = file.read(9)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    if head[8:] == b"{":  # after the length of a header, which may begin with any byte
        return _read_safetensors(path)
    if head.startswith(b"PK"):
        return _state_dict(path, torch_archive.read(path))
    if head.startswith(b"\x80"):
        raise UserError(
            f"{path} is a pickle, or of torch.save before PyTorch 1.6; convert it on a machine with PyTorch: "
            f"torch.save(torch.load({str(path)!r}, weights_only=True), 'new.pt')"
        )
    raise UserError(f"{path} is not a file of weights: neither safetensors nor an archive of torch.save")


def _read_safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    def unique(pairs):
        if len({key for key, _ in pairs}) < len(pairs):
            raise UserError(f"{path} is refused: its header holds a name twice")
        return dict(pairs)

    try:
        with safetensors.safe_open(path, framework="np") as file:  # checks every offset against the file's size
            with open(path, "rb") as raw:
                json.loads(raw.read(int.from_bytes(raw.read(8), "little")), object_pairs_hook=unique)
            return {name: file.get_tensor(name) for name in file.keys()}
    except UserError:
        raise
    except (safetensors.SafetensorError, OSError, TypeError, ValueError, AttributeError, MemoryError) as error:
        raise UserError(f"{path} is damaged or not a safetensors file: {str(error).splitlines()[0]}") from error


def _state_dict(path: pathlib.Path, saved) -> dict[str, np.ndarray]:
    """The dict of tensors that was saved, or the one inside a training program's dict."""
    if isinstance(saved, dict) and not any(isinstance(value, np.ndarray) for value in saved.values()):
        inside = [key for key in INSIDE if isinstance(saved.get(key), dict)]
        if len(inside) != 1:
            raise UserError(f"{path} holds no tensors by name; its keys are {', '.join(map(repr, list(saved)[:8]))}")
        saved = saved[inside[0]]
    if not isinstance(saved, dict):
        raise UserError(f"{path} holds a {type(saved).__name__} and not tensors by name; save a state_dict")
    for name, value in saved.items():
        if not isinstance(value, np.ndarray) or not isinstance(name, str):
            raise UserError(f"{path}: {name!r} is not a tensor; save a state_dict")
    return saved
