"""Writes maps.npz: what EFAAR 1.0 and 0.1, proxbias, copairs and neuroCombat make of small maps and screens.

pip install --no-deps efaar_benchmarking==1.0 proxbias==0.11.0 copairs==0.5.5 geomloss==0.3.1 statsmodels numba llvmlite
pip install --no-deps neuroCombat==0.2.12
pip install --no-deps --target OLD efaar_benchmarking==0.1.0
cd tests && python -m reference.maps.make OLD
"""

import os
import pathlib
import subprocess
import sys
import tempfile

import numpy as np

PATH = pathlib.Path(__file__).parents[1] / "stored" / "maps.npz"


def found(old: str) -> dict[str, np.ndarray]:
    """By a process for each version of EFAAR. Args: old, the folder where 0.1.0 is."""
    values = {}
    with tempfile.TemporaryDirectory() as folder:
        for version in ("1", "0.1"):
            path = [old] if version == "0.1" else []
            environment = os.environ | {"PYTHONPATH": os.pathsep.join([*path, *sys.path])}
            out = pathlib.Path(folder) / f"{version}.npz"
            argv = [sys.executable, "-m", "reference.peers.public_maps", version, out]
            subprocess.run(argv, env=environment, check=True, stdout=subprocess.DEVNULL)
            with np.load(out) as part:
                values |= dict(part)
    return values


if __name__ == "__main__":
    np.savez_compressed(PATH, **found(sys.argv[1]))
