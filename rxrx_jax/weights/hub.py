"""Weights on the Hugging Face hub: hf://owner/name[@revision][/file] -> files on this machine."""

import os
import pathlib
import re

from rxrx_jax.base.errors import UserError, shortened

START = "hf://"
ADDRESS = re.compile(r"hf://([\w.-]+/[\w.-]+)(?:@([\w.-]+))?(?:/([\w./-]+))?")
WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # the first that is there
BESIDE = ("config.json", "seen.parquet")  # what describes an exported run


def is_address(path: str | os.PathLike) -> bool:
    """Whether a path is of a repository on the hub."""
    return str(path).startswith(START)


def repository(path: str | os.PathLike) -> str:
    """owner/name of an address, "" of any other path."""
    found = ADDRESS.fullmatch(str(path))
    return found[1] if found else ""


def fetch(address: str) -> pathlib.Path:
    """The file of weights that `address` names, from huggingface_hub's cache or fetched into it, with BESIDE beside it.

    Raises UserError for another form, where huggingface_hub is not installed, and for what the hub does not give.
    """
    if not (found := ADDRESS.fullmatch(address)):
        raise UserError(f"{address}: expected hf://owner/name, hf://owner/name@revision or hf://owner/name/file")
    repository, revision, file = found.groups()
    by_hand = (
        f"fetch the files with `git clone https://huggingface.co/{repository}` (and git-lfs) and give their folder"
    )
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise UserError(f"{address} needs huggingface_hub: pip install 'rxrx_jax[hub]'; or {by_hand}") from None
    for name in [file] if file else WEIGHTS:
        try:
            folder = snapshot_download(repository, revision=revision, allow_patterns=[name, *BESIDE])
        except (OSError, ValueError) as error:  # no network, no such repository, one that needs a login
            raise UserError(f"{address} cannot be fetched ({shortened(str(error))}); or {by_hand}") from error
        if (path := pathlib.Path(folder) / name).is_file():
            return path
    raise UserError(f"{address} has no {file or ' and no '.join(WEIGHTS)}; name a file: {START}{repository}/FILE")
