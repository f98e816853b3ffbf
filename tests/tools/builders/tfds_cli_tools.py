"""Every dataset built by TFDS's own command and by ours, and what of the result may be stored to be compared later."""

import hashlib
import inspect
import os
import pathlib
import subprocess
import sys

import numpy as np
from builders_tools import SCREEN, records
from paths import ROOT
from wilds_tools import write_wilds

from rxrx_jax.simulate import layouts
from rxrx_jax.simulate import screen as simulate
from tfds_builders import prepare

STORED = ROOT / "tests/reference/stored/tfds_build.json"
WRITERS = {
    "rxrx1": simulate.write_published,
    "rxrx1_wilds": write_wilds,
    "rxrx2": layouts.write_rxrx2,
    "rxrx19a": layouts.write_rxrx19a,
    "rxrx19b": layouts.write_rxrx19b,
    "rxrx3": layouts.write_rxrx3,
    "rxrx3_core": layouts.write_rxrx3_core,
    "rxrx_sim": None,
}


def tree(name: str, folder: pathlib.Path) -> pathlib.Path | None:
    """The published layout of a dataset, written once; None where images are simulated."""
    if WRITERS[name] is None:
        return None
    source = folder / "tree"
    if not source.exists():
        WRITERS[name](SCREEN, source)
    return source


def prepared(name: str, folder: pathlib.Path) -> pathlib.Path:
    return prepare.prepare(name, tree(name, folder), folder / "prepared", 1, progress=False)


def tfds_build(name: str, folder: pathlib.Path) -> pathlib.Path:
    """What `tfds build` makes, in the environment of this Python."""
    source = tree(name, folder)
    arguments = [f"--data_dir={folder}/out"] + ([f"--manual_dir={source}"] if source else [])
    done = subprocess.run(
        [pathlib.Path(sys.executable).with_name("tfds"), "build", *arguments],
        cwd=pathlib.Path(inspect.getfile(prepare.builder_class(name))).parent,
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    (made,) = (folder / "out" / name / "default").iterdir()
    return made


def contents(folder: pathlib.Path) -> dict[str, str]:
    """SHA-256 of each shard's records in their order and of each table, without pixels and what is computed of them,
    which may differ in a bit from one processor to another."""
    found = {}
    for shard, rows in records(folder).items():
        text = [sorted((key, _text(value)) for key, value in row.items()) for row in rows]
        found[shard] = hashlib.sha256(repr(text).encode()).hexdigest()
    for name in ("sites.csv", "perturbations.csv", "set_aside.csv"):
        if (folder / name).exists():
            found[name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    return found


def _text(value) -> str:
    array = np.asarray(value)
    return f"{array.dtype} {array.shape}" if array.ndim == 3 else repr(array.tolist())
