"""What produced a number, as recorded in config.json (`resolved.provenance`) and the last line of metrics.jsonl."""

import hashlib
import pathlib
import platform
import sys

import flax
import jax
import numpy as np

import rxrx_jax
from rxrx_jax.base import files
from rxrx_jax.base.errors import UserError
from rxrx_jax.data.builders import builders
from rxrx_jax.data.dataset import AGAIN

NOW, BEFORE = "provenance", "provenance_before"  # keys of a resolved config: of the last start, of those before


def code_version() -> str:
    """The version of this package and a digest of the source files that decide what a run computes: its own, and
    those of the package that prepares datasets."""
    roots = [pathlib.Path(rxrx_jax.__file__).parent]
    try:
        roots.append(pathlib.Path(builders().__file__).parent)
    except UserError:
        pass  # none is installed, and folders are only read
    digest = hashlib.sha256()
    for root in roots:
        for path in sorted(root.rglob("*.py")):
            name = path.relative_to(root.parent).as_posix()
            digest.update(f"{name}\0".encode() + path.read_bytes() + b"\0")
    return f"{rxrx_jax.__version__} {digest.hexdigest()[:12]}"


def facts(source) -> dict[str, str]:
    """code, data, python, jax, flax, numpy and device. `data` is the source's fingerprint and, of a prepared folder,
    the SHA-256 of its manifest, which has the digest of every record. Args: source, as `data.source` describes it."""
    of_data = source.fingerprint
    manifest = getattr(getattr(source, "dataset", None), "manifest", None)
    if manifest:
        of_data = f"fingerprint {of_data} manifest {files.sha256(manifest, AGAIN)}"
    devices = jax.devices()
    return {
        "code": code_version(),
        "data": of_data,
        "python": platform.python_version(),
        "jax": jax.__version__,
        "flax": flax.__version__,
        "numpy": np.__version__,
        "device": f"{len(devices)} x {devices[0].device_kind}",
    }


def without(config: dict) -> dict:
    """A resolved config without what may differ when a run continues elsewhere."""
    kept = {key: value for key, value in config.get("resolved", {}).items() if key not in (NOW, BEFORE)}
    kept = config | {"resolved": kept}
    if isinstance(data := config.get("data"), dict):
        kept["data"] = {key: value for key, value in data.items() if key != "cache"}  # of this machine
    return kept


def continued(stored: dict, now: dict, workdir) -> dict:
    """The config `now` of a run that continues, with the facts of its earlier starts that differ. Prints to stderr what
    differs from the last start."""
    last, earlier = stored.get("resolved", {}).get(NOW), stored.get("resolved", {}).get(BEFORE, [])
    new = now["resolved"][NOW]
    if last and last != new:
        changed = "; ".join(f"{key} {new[key]} after {last.get(key)}" for key in new if last.get(key) != new[key])
        print(f"note: {workdir} continues with {changed}", file=sys.stderr)
        earlier = [*earlier, last]
    return now | {"resolved": now["resolved"] | ({BEFORE: earlier} if earlier else {})}
